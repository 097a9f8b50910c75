"""The file of an open SQLite store: whether it is still at its path, and its rescue if not."""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from denoised_smoothing.store.tables import EXAMPLES, IMAGES, QUERIES, RUNS


class StorePlace:
    """Notices that an open file was deleted, moved or replaced.

    SQLite continues to write to the file that it opened. If nobody checked the path, everything
    saved would be lost when the process ends. One connection stays open to the first file, for
    the rescue; the engine opens no other file from then on.
    """

    def __init__(self, engine: sa.Engine, path: str | Path) -> None:
        self.path = Path(path).absolute()
        connection = engine.raw_connection()
        self._held: Any = connection.driver_connection
        connection.detach()
        self._logs = [self.path.with_name(self.path.name + end) for end in ("-wal", "-shm")]
        self._identity, self._of_logs = _identity(self.path), list(map(_identity, self._logs))
        self._rescue: Path | None = None
        self._rescued_rows = 0
        self._rescuing = threading.Lock()
        sa.event.listen(engine, "do_connect", self._do_not_create)
        sa.event.listen(engine, "connect", self._refuse_another_file, insert=True)

    def close(self) -> None:
        """Close the connection that was kept for the rescue."""
        with self._rescuing:
            self._held.close()

    def _do_not_create(
        self, dialect: object, record: object, arguments: list[Any], options: dict[str, Any]
    ) -> None:
        arguments[0], options["uri"] = f"{self.path.as_uri()}?mode=rw", True

    def _refuse_another_file(self, connection: sqlite3.Connection, record: object) -> None:
        if not self.is_kept():
            connection.close()
            raise sqlite3.OperationalError("another file is in its place")

    def is_kept(self) -> bool:
        """Return whether the path still leads to the open file."""
        if _identity(self.path) != self._identity:
            return False
        self._of_logs = list(map(_identity, self._logs))
        return True

    def rescue(self) -> Path:
        """Copy the open database to a new file, or again to that file, and return its path.

        The first folder of these that can be written: that of the store, the working folder, the
        home folder, that of temporary files. A copy with fewer rows never replaces an earlier one.

        Raises:
            OSError: none can be written.
            sqlite3.Error: the open database cannot be read.
        """
        with self._rescuing:
            return self._write_rescue()

    def _write_rescue(self) -> Path:
        rows = _rows(self._held)
        if self._rescue is not None and self._rescue.exists() and rows < self._rescued_rows:
            return self._rescue
        stem = f"{self.path.stem}-rescued-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        name = f"{stem}{self.path.suffix}" if self._rescue is None else self._rescue.name
        tried = list[str]()
        for folder in self._folders():
            tried.append(str(folder))
            try:
                back_up(self._held, folder / name)
            except (OSError, sqlite3.Error):
                continue
            self._rescue, self._rescued_rows = folder / name, rows
            self._remove_logs()
            return self._rescue
        raise OSError(f"none of {', '.join(tried)} can be written")

    def _folders(self) -> Iterator[Path]:
        """Yield the folders to try; one that the system cannot name is left out."""
        if self._rescue is not None:
            yield self._rescue.parent
        yield self.path.parent
        for find in (Path.cwd, Path.home, tempfile.gettempdir):
            try:
                folder = Path(find())
            except (OSError, RuntimeError):  # a folder that was deleted, a user without a home
                continue
            yield folder

    def _remove_logs(self) -> None:
        """Remove the log that is left: SQLite would apply it to a file that takes its place."""
        for path, identity in zip(self._logs, self._of_logs, strict=True):
            if identity is not None and _identity(path) == identity:
                with suppress(OSError):
                    path.unlink()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _rows(connection: sqlite3.Connection) -> int:
    """Count the rows of the tables from which no row is ever deleted."""
    tables = (RUNS, IMAGES, EXAMPLES, QUERIES)
    counts = " + ".join(f"(SELECT count(*) FROM {table.name})" for table in tables)
    [rows] = connection.execute(f"SELECT {counts}").fetchone()  # noqa: S608, names of our own
    return int(rows)


def back_up(source: sqlite3.Connection, target: Path) -> None:
    """Write a copy of an open SQLite database to one file, while others may write to it.

    The file appears once it is whole.

    Raises:
        sqlite3.Error, OSError: it cannot be read or written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _remove(temporary)
        with closing(sqlite3.connect(temporary)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, for a read-only medium as well
        temporary.replace(target)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """Remove a database and its logs, where they exist."""
    for end in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + end).unlink()
