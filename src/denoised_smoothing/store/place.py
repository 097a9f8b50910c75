"""The file of an open SQLite store: whether it is still at its path, and its rescue if not."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa


class StorePlace:
    """Notices that an open file was deleted, moved or replaced.

    SQLite goes on writing to the file that it opened. Without a look at the path, everything
    saved would be lost when the process ends.
    """

    def __init__(self, engine: sa.Engine, path: str | Path) -> None:
        self._engine, self.path = engine, Path(path).absolute()
        self._logs = [self.path.with_name(self.path.name + end) for end in ("-wal", "-shm")]
        self._identity, self._of_logs = _identity(self.path), list(map(_identity, self._logs))
        self._rescue: Path | None = None

    def is_kept(self) -> bool:
        """Return whether the path still leads to the open file."""
        if _identity(self.path) != self._identity:
            return False
        self._of_logs = list(map(_identity, self._logs))
        return True

    def rescue(self) -> Path:
        """Copy the open database to a new file, or again to that file, and return its path.

        The first folder of these that can be written: that of the store, the working folder, the
        home folder, that of temporary files.

        Raises:
            OSError: none can be written.
        """
        stem = f"{self.path.stem}-rescued-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"
        tried = list[str]()
        for folder in self._folders():
            target = self._rescue or folder / f"{stem}{self.path.suffix}"
            tried.append(str(folder))
            try:
                back_up(self._engine, target)
            except (OSError, sqlite3.Error):
                continue
            self._rescue = target
            self._remove_logs()
            return target
        raise OSError(f"none of {', '.join(tried)} can be written")

    def _folders(self) -> Iterator[Path]:
        """Yield the folders to try; one that the system cannot name is left out."""
        if self._rescue is not None:
            yield self._rescue.parent
            return
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


def back_up(engine: sa.Engine, target: Path) -> None:
    """Write a copy of an open SQLite database to one file, while others may write to it.

    The file appears once it is whole.

    Raises:
        sqlite3.Error, OSError: it cannot be read or written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _remove(temporary)
        with engine.connect() as connection, closing(sqlite3.connect(temporary)) as copy:
            source: Any = connection.connection.driver_connection
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
