"""Claims on runs: one driver at a time writes a run, and the next one when it has ended."""

from __future__ import annotations

import hashlib
import os
import socket
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import DBAPIError

from denoised_smoothing.errors import RunBusyError, StoreError, StoreUnreachableError
from denoised_smoothing.store.tables import DRIVERS


def claim_on(engine: sa.Engine, run: str) -> Claim:
    """Return a claim on a run, not yet held."""
    kind = AdvisoryLock if engine.dialect.name == "postgresql" else LockFile
    return kind(engine, run)


class Claim(ABC):
    """The right to write a run: a lock that ends with its process, and a token in the store.

    The lock keeps a second driver away. The token makes it safe: each claim writes a new one, and
    what an earlier driver still writes under its own is refused.
    """

    def __init__(self, engine: sa.Engine, run: str) -> None:
        self.engine, self.run, self.token = engine, run, uuid4().hex
        self.name = f"process {os.getpid()} on {socket.gethostname()}"

    @abstractmethod
    def hold(self) -> None:
        """Take the lock; again where it was lost with the connection.

        Raises:
            RunBusyError: another driver has it.
            StoreError: locks do not work here.
            StoreUnreachableError: not now.
        """

    @abstractmethod
    def release(self) -> None:
        """Release the lock."""

    def check(self, connection: sa.Connection) -> None:
        """Keep other drivers from claiming the run until the transaction that writes it ends.

        Raises:
            RunBusyError: another driver claimed it.
        """
        query = sa.select(DRIVERS.c.token).where(DRIVERS.c.run == self.run)
        if connection.scalar(query.with_for_update(read=True)) != self.token:
            raise self._busy(connection, "was taken over")

    def _busy(self, connection: sa.Connection, what: str) -> RunBusyError:
        query = sa.select(DRIVERS.c.name, DRIVERS.c.since).where(DRIVERS.c.run == self.run)
        found = connection.execute(query).first()
        driver = f"{found.name} (since {found.since})" if found else "another driver"
        return RunBusyError(
            f"The run {self.run!r} {what} by {driver}. Wait until that ends, or stop it; then "
            "repeat the command to resume."
        )


class LockFile(Claim):
    """SQLite: a lock on a file next to the database; the system lifts it if the process ends."""

    def __init__(self, engine: sa.Engine, run: str) -> None:
        super().__init__(engine, run)
        database = engine.url.database
        self._lock: FileLock | None = None
        if database and database != ":memory:" and "uri" not in engine.url.query:
            code = hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            path = Path(database).resolve()  # one lock, by whatever link the file is named
            self._path = path.with_name(f"{path.name}.{code}.lock")
            self._lock = FileLock(self._path, timeout=0, thread_local=False)

    def hold(self) -> None:
        if self._lock is None or self._lock.is_locked:
            return
        try:
            self._lock.acquire()
        except Timeout as error:
            with self.engine.connect() as connection:
                raise self._busy(connection, "is being worked on") from error
        except (OSError, NotImplementedError) as error:
            raise StoreError(
                f"The lock {self._path} cannot be taken ({error}). Delete it if no driver runs, or "
                "move the store to a local disk if its own has no locks."
            ) from error

    def release(self) -> None:
        if self._lock is not None and self._lock.is_locked:
            with suppress(OSError):  # while it is held: nobody is waiting for it
                self._path.unlink()
            self._lock.release()


class AdvisoryLock(Claim):
    """PostgreSQL: an advisory lock; the server lifts it if the connection ends."""

    def __init__(self, engine: sa.Engine, run: str) -> None:
        super().__init__(engine, run)
        digest = hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._key = int.from_bytes(digest, "big", signed=True)
        self._connection: sa.Connection | None = None
        self._session: int | None = None

    def hold(self) -> None:
        if self._connection is not None:
            try:
                self._connection.exec_driver_sql("select 1")
                return
            except DBAPIError:
                self._drop()
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            self._take(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _take(self, connection: sa.Connection) -> None:
        if connection.scalar(sa.select(sa.func.pg_try_advisory_lock(self._key))):
            self._session = connection.scalar(sa.select(sa.func.pg_backend_pid()))
            return
        query = sa.select(DRIVERS.c.token).where(DRIVERS.c.run == self.run)
        if self._session is None or connection.scalar(query) != self.token:
            raise self._busy(connection, "is being worked on")
        # This driver's own session holds it, and the server does not know that it is lost.
        connection.execute(sa.select(sa.func.pg_terminate_backend(self._session)))
        raise StoreUnreachableError(
            f"A lost session still holds the run {self.run!r}. It is being ended; retry."
        )

    def release(self) -> None:
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.scalar(sa.select(sa.func.pg_advisory_unlock(self._key)))
            self._drop()

    def _drop(self) -> None:
        """Close the connection for good: a lock might be left on it."""
        assert self._connection is not None
        connection, self._connection = self._connection, None
        connection.invalidate()
        connection.close()
