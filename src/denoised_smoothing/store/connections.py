"""Connections to SQLite and PostgreSQL that keep the contract of a store."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from denoised_smoothing.errors import SettingError
from denoised_smoothing.store.place import mark
from denoised_smoothing.store.tables import CHARSETS

to_json = partial(json.dumps, separators=(",", ":"), allow_nan=False)

_NETWORK = {
    "client_encoding": "utf8",  # also of a database in SQL_ASCII, whose text would be bytes
    "connect_timeout": 10,
    # A driver or a server that has vanished is noticed in half a minute, from both sides.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "options": "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
}
"""Arguments of PostgreSQL connections; the URL overrides them."""
_CHARSETS = {"UTF8": "utf-8", "LATIN1": "latin-1"}
"""Encodings of PostgreSQL that are the same in Python; of any other one, ASCII is used."""
_PASSWORD = ("no password supplied", "password authentication failed")
"""Messages of libpq about a server that is reachable and asks for another password."""


def url_of(target: str) -> sa.URL:
    """Return the URL of a store that is named by a path or a URL.

    Raises:
        SettingError: it is empty, names a database in memory, cannot be read, or has a password.
            No message shows the password, as the URL is recorded with each run and printed.
    """
    in_memory = SettingError(
        "The store must be a file or a database of a server, because a database in memory is lost "
        f"when the process ends, got {target!r}. Write for example runs.sqlite."
    )
    if "://" not in target:
        if target in ("", ":memory:"):
            raise in_memory
        return sa.URL.create("sqlite", database=target)
    try:
        url = sa.make_url(target)
    except (ArgumentError, ValueError):  # which may show a password that was taken for a port
        raise SettingError(
            "The URL of the store cannot be read. Write it as "
            "postgresql+psycopg://user@host:5432/name, with special characters as %40."
        ) from None
    if url.password or any("password" in key.lower() for key in url.query):
        raise SettingError(
            "A password in the URL of a store would be recorded with the run and printed. Write "
            "it to the environment variable PGPASSWORD or the file ~/.pgpass instead."
        )
    if url.drivername.startswith("sqlite") and url.database in (None, "", ":memory:"):
        raise in_memory
    return url


def path_of(url: sa.URL) -> str | None:
    """Return the path of an SQLite file; None for a server and a URI."""
    file = url.get_backend_name() == "sqlite" and "uri" not in url.query
    return url.database if file else None


def open_engine(url: sa.URL, read_only: bool) -> sa.Engine:
    """Return the engine of a URL.

    Raises:
        OSError: an SQLite file cannot be made, or does not exist to be read.
    """
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database and "uri" not in url.query:
        path = Path(url.database)
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif path.is_file():
            url = url.set(database=path.absolute().as_uri()).update_query_dict(_reading(path))
        else:
            raise FileNotFoundError("there is no such file")
    options: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        arguments = {key: value for key, value in _NETWORK.items() if key not in url.query}
        options = {"pool_pre_ping": True, "connect_args": arguments}
    engine = sa.create_engine(url, json_serializer=to_json, **options)
    if sqlite:
        sa.event.listen(engine, "connect", partial(_set_up_sqlite, read_only))
        sa.event.listen(engine, "begin", _begin_sqlite)
    elif url.get_backend_name() == "postgresql":
        sa.event.listen(engine, "connect", partial(_note_charset, engine.dialect))
    return engine


def _reading(path: Path) -> dict[str, str]:
    """Return how to open an SQLite file to read, also on a medium that cannot be written.

    To read a file with a write-ahead log, SQLite makes files next to it. Where it cannot, and no
    log is left, the file is whole and nobody writes to it. The journal of a transaction that was
    killed is rolled back first, as the file holds only a part of it.

    Raises:
        OSError: a log is left, and its changes cannot be applied or rolled back here.
    """
    query = {"mode": "ro", "uri": "true"}
    try:
        _probe(path, "ro")
    except sqlite3.Error as error:
        code = error.sqlite_errorcode & 0xFF
        logs = [path.resolve().with_name(path.resolve().name + end) for end in ("-wal", "-journal")]
        left = [log.name for log in logs if log.exists() and log.stat().st_size > 0]
        if code != sqlite3.SQLITE_BUSY and not left:
            query["immutable"] = "1"
        elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            try:
                _probe(path, "rw")
            except sqlite3.Error:
                raise OSError(f"{left[0]} has changes that are not in the file") from error
    return query


def _probe(path: Path, mode: str) -> None:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        connection.execute("PRAGMA schema_version")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def _set_up_sqlite(read_only: bool, connection: Any, record: object) -> None:
    connection.isolation_level = None  # _begin_sqlite begins, not the driver
    # FULL: NORMAL survives a kill but may lose the last commits in a power cut, and the few
    # milliseconds of a sync do not matter at about one transaction a second.
    for pragma in ("busy_timeout=30000", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    if not read_only and connection.execute("PRAGMA schema_version").fetchone() == (0,):
        mark(connection)
        connection.execute("PRAGMA journal_mode=WAL")  # a new file


def _note_charset(dialect: sa.Dialect, connection: Any, record: object) -> None:
    """Note what text the database can hold."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("SHOW server_encoding")
        (name,) = cursor.fetchone()
    connection.rollback()
    CHARSETS[dialect] = _CHARSETS.get(name, "ascii")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that first reads and then writes fails at once, whatever the timeout, if
    # another one wrote in between; a transaction that takes the write lock first waits instead.
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def is_unreachable(error: Exception) -> bool:
    """Return whether a server is unreachable; it may come back, and the statement be repeated."""
    if not isinstance(error, DBAPIError) or any(text in str(error.orig) for text in _PASSWORD):
        return False
    state = getattr(error.orig, "sqlstate", "")  # None where no statement reached the server
    away = state is None or state[:2] == "08" or state in ("57P01", "57P02", "57P03")  # shutdown
    return error.connection_invalidated or (isinstance(error, OperationalError) and away)
