"""The file of an open SQLite store: whether it is still at its path, and its rescue if not."""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from denoised_smoothing.errors import StoreError
from denoised_smoothing.store.tables import EXAMPLES, IMAGES, QUERIES, RUNS

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
"""Seconds between two copies of a lost database; within these, ten times what a copy takes."""

POOLED = 5
"""Open connections, as many as the pool keeps. None is opened once the file was lost."""


class Loss(StrEnum):
    """How the file of an open store was lost."""

    GONE = "was deleted, moved or replaced while it was open"
    OVERWRITTEN = "was overwritten by another program while it was open"
    LOG = "was separated from its write-ahead log (-wal and -shm) while it was open"


class StorePlace:
    """Notices that an open file was deleted, moved, replaced, overwritten, or lost its log.

    SQLite continues to write to the file that it opened. If nobody checked the path, everything
    saved would be lost when the process ends. One connection stays open to the first file, for
    the rescue; the engine opens no other file from then on. A random number in the header of the
    file (``user_version``) tells whether its content is still the same database.
    """

    def __init__(self, engine: sa.Engine, path: str | Path) -> None:
        self.path = Path(path).absolute()
        connection = engine.raw_connection()
        self._held = cast(sqlite3.Connection, connection.driver_connection)
        connection.detach()
        self._held.execute("PRAGMA busy_timeout=1000")
        with suppress(sqlite3.Error):
            mark(self._held)  # a file that has no number yet
            self._held.execute("PRAGMA journal_mode=WAL")  # a rescue or a backup
        # The pool has some as well: several threads write what is still coming, and read.
        for pooled in [engine.raw_connection() for _ in range(POOLED)]:
            pooled.close()
        self._mark = _mark_of(self._held)
        self._marks, self._is_overwritten = {self._mark, self._mark_in_file()}, False
        real = self.path.resolve()  # SQLite writes the log there
        self._logs = [real.with_name(real.name + end) for end in ("-wal", "-shm")]
        self._identity, self._of_logs = _identity(self.path), list(map(_identity, self._logs))
        self.rescued: Path | None = None
        self._rescued_rows, self._next_copy = 0, 0.0
        self._copied: int | None = None
        self._rescuing = threading.Lock()
        sa.event.listen(engine, "do_connect", self._do_not_create)
        sa.event.listen(engine, "connect", self._refuse_another_file, insert=True)

    def close(self) -> None:
        """Fold the log into the file if nobody is reading it, and close the connection."""
        with self._rescuing, closing(self._held), suppress(sqlite3.Error):
            if self.loss() is None:
                self._held.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._of_logs = [None, None]  # SQLite removes them

    def _do_not_create(
        self, dialect: object, record: object, arguments: list[Any], options: dict[str, Any]
    ) -> None:
        arguments[0], options["uri"] = f"{self.path.as_uri()}?mode=rw", True

    def _refuse_another_file(self, connection: sqlite3.Connection, record: object) -> None:
        if self.loss() is not None:
            connection.close()
            raise sqlite3.OperationalError("another file is in its place")

    def loss(self) -> Loss | None:
        """Return how the store was lost; None if the path still leads to the open database."""
        if _identity(self.path) != self._identity:
            return Loss.GONE
        if self._is_overwritten or (self._mark and self._mark_in_file() not in self._marks):
            self._is_overwritten = True  # also once SQLite wrote a part of its log to that file
            return Loss.OVERWRITTEN
        now = list(map(_identity, self._logs))
        if any(old not in (None, new) for old, new in zip(self._of_logs, now, strict=True)):
            return Loss.LOG
        self._of_logs = now
        return None

    def _mark_in_file(self) -> int | None:
        """Return the number in the file itself, without its log; None if that is no database.

        SQLite reads it, because closing any other descriptor of a file lifts the locks of SQLite.
        """
        try:
            if self.path.stat().st_size == 0:
                return None
            query = f"{self.path.as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(query, uri=True)) as connection:
                connection.execute("PRAGMA writable_schema=ON")  # read it during a checkpoint too
                return _mark_of(connection)
        except (OSError, sqlite3.OperationalError):  # it cannot be opened now, which shows nothing
            return self._mark
        except sqlite3.DatabaseError:
            return None

    def check(self, name: str) -> None:
        """Rescue the store of that name if it was lost.

        Raises:
            StoreError: it was lost; says what is kept, and where.
        """
        if (loss := self.loss()) is None:
            return
        lost = f"The store {name} {loss}"
        try:
            rescued = self.rescue()
        except (OSError, sqlite3.Error) as error:
            earlier = f" What was saved before that is in {self.rescued}." if self.rescued else ""
            raise StoreError(
                f"{lost}, and what was saved cannot be kept: {error}.{earlier} Restore the file "
                "from a backup, or repeat the command with another store."
            ) from error
        if loss is Loss.OVERWRITTEN:
            raise StoreError(
                f"{lost}. What was saved may be lost; the rest is in {rescued}. Restore a backup "
                f"to {self.path}, or move that file there, then repeat the command to resume."
            )
        raise StoreError(
            f"{lost}. All that was saved is in {rescued}. Move that file to {self.path}, then "
            "repeat the command to resume."
        )

    def rescue(self) -> Path:
        """Copy the open database to a new file, or again to that file, and return its path.

        Nothing is copied if nothing was saved since. Between copies of a database that is still
        written there is a pause: what several threads saved in it is copied together.

        The first folder of these that can be written: that of the store, the working folder, the
        home folder, that of temporary files. A copy with fewer rows never replaces an earlier one.

        Raises:
            OSError: none can be written, the content was replaced, or rows are missing.
            sqlite3.Error: the open database cannot be read.
        """
        with self._rescuing:
            if (earlier := self._earlier()) and self._version() == self._copied:
                return earlier
            time.sleep(max(0.0, self._next_copy - time.monotonic()))
            begun = time.monotonic()
            try:
                self._copied = self._version()
                return self._write_rescue()
            except BaseException:
                self._copied = None
                raise
            finally:
                took = (now := time.monotonic()) - begun
                self._next_copy = now + min(max(SHORTEST_PAUSE, 10 * took), LONGEST_PAUSE)

    def _earlier(self) -> Path | None:
        """Return the file of the last rescue, if it still exists."""
        return self.rescued if self.rescued and self.rescued.exists() else None

    def _version(self) -> int:
        """Return a number that changes with each transaction of another connection."""
        return int(self._held.execute("PRAGMA data_version").fetchone()[0])

    def _write_rescue(self) -> Path:
        self._held.execute("PRAGMA shrink_memory")  # forget pages that were read before
        if self._mark and _mark_of(self._held) != self._mark:
            raise OSError("its content was replaced")
        rows = _rows(self._held)
        if self._earlier() and rows < self._rescued_rows:
            raise OSError("rows are missing from it")
        stem = f"{self.path.stem}-rescued-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        name = f"{stem}{self.path.suffix}" if self.rescued is None else self.rescued.name
        tried = list[str]()
        for folder in self._folders():
            tried.append(str(folder))
            try:
                back_up(self._held, folder / name)
            except (OSError, sqlite3.Error):
                continue
            self.rescued, self._rescued_rows = folder / name, rows
            self._remove_logs()
            return self.rescued
        raise OSError(f"none of {', '.join(tried)} can be written")

    def _folders(self) -> Iterator[Path]:
        """Yield the folders to try; one that the system cannot name is left out."""
        if self.rescued is not None:
            yield self.rescued.parent
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


def mark(connection: sqlite3.Connection) -> None:
    """Write a random number to the header of a database that has none, to know it again."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if _mark_of(connection) == 0:
            connection.execute(f"PRAGMA user_version={secrets.randbelow(2**31 - 1) + 1}")


def _mark_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _rows(connection: sqlite3.Connection) -> int:
    """Count the rows of the tables from which no row is ever deleted."""
    counts = [sa.select(sa.func.count()).select_from(t) for t in (RUNS, IMAGES, EXAMPLES, QUERIES)]
    return sum(connection.execute(str(count)).fetchone()[0] for count in counts)


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
            copy.execute("PRAGMA user_version=0")  # the copy is another database
            copy.isolation_level = None
            mark(copy)
        temporary.replace(target)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """Remove a database and its logs, where they exist."""
    for end in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + end).unlink()
