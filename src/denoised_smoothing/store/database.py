"""The store: reading and writing, in transactions that are whole or not at all."""

from __future__ import annotations

import difflib
import json
import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from tenacity import RetryCallState, retry, retry_if_exception_type, wait_exponential

from denoised_smoothing.errors import (
    RunMismatchError,
    RunNotFoundError,
    SettingError,
    StoreError,
    StoreUnreachableError,
    differences,
)
from denoised_smoothing.store.claims import Claim, claim_on
from denoised_smoothing.store.connections import (
    is_unreachable,
    open_engine,
    path_of,
    to_json,
    url_of,
)
from denoised_smoothing.store.place import Loss, StorePlace, back_up
from denoised_smoothing.store.records import (
    StoredExample,
    StoredImage,
    StoredRun,
    check_name,
    from_row,
    run_from_row,
    to_row,
)
from denoised_smoothing.store.schema import prepare
from denoised_smoothing.store.tables import DRIVERS, EXAMPLES, IMAGES, RUNS

_HINTS = {
    "no password supplied": "The server asks for a password. Set the environment variable "
    "PGPASSWORD, or write the line HOST:PORT:NAME:USER:PASSWORD to ~/.pgpass (mode 600).",
    "password authentication failed": "Correct the user in the URL, or the password in the "
    "environment variable PGPASSWORD or the file ~/.pgpass.",
    "full": "Everything saved before is kept. Free some space, then repeat the command.",
    "not in the file": "Copy both files to a folder that can be written, make the copies writable, "
    "and name the copy of the store.",
    "readonly": "Make the file and its folder writable, or name another store or a copy of it.",
    "not a database": "Name a file that this package wrote, or a new one.",
    "no such table": "A development version wrote it. Resume one of its runs to add the tables.",
    "locked": "Another program is writing to it. Wait until that ends, then repeat the command.",
    "unable to open": "Check that the path is a file, and that it and its folder are writable.",
    "psycopg": "Install the driver of PostgreSQL: pip install 'denoised-smoothing[postgresql]'",
    "": "Check its path or URL. Everything saved before is kept.",
}
ROWS_AT_ONCE = 1_000
"""Rows that are read together."""
PATIENCE = 600.0
"""Seconds to wait for a store that was reachable before."""
_log = logging.getLogger(__name__)


def _log_first_wait(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        _log.warning("%s Waiting for it.", state.outcome.exception())


patient = retry(
    retry=retry_if_exception_type(StoreUnreachableError),
    wait=wait_exponential(multiplier=0.1, max=2),
    stop=lambda state: (state.seconds_since_start or 0) > PATIENCE,
    before_sleep=_log_first_wait,
    reraise=True,
)
"""Let a method wait for a server that is unreachable; its transaction must be repeatable."""


class Store:
    """The runs of one database; the contract is that of the package.

    Args:
        target: the path of an SQLite file, which is made with its folders if it does not exist,
            or an SQLAlchemy URL such as ``postgresql://user@host/name`` (an empty database at
            first), whose password is in ``PGPASSWORD`` or ``~/.pgpass``.
        read_only: create and write nothing.

    Raises:
        SettingError: the URL cannot be read, or has a password.
        StoreError: the database does not exist, is not readable, not writable or not a store.
        SchemaTooNewError: a newer version of this package wrote it.
    """

    def __init__(self, target: str | Path, *, read_only: bool = False) -> None:
        url = url_of(str(target))
        self._name, self._read_only = str(target), read_only
        self._writing = threading.Lock()
        self._claims: dict[str, Claim] = {}
        self._place: StorePlace | None = None
        try:
            self._engine = open_engine(url, read_only)
        except (ImportError, OSError, SQLAlchemyError) as error:
            raise self._failure(error) from error
        try:
            with self.transaction(write=not read_only) as connection:
                prepare(connection, self._name, read_only=read_only)
            if not read_only and (path := path_of(url)):
                self._place = StorePlace(self._engine, path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection, and fold the write-ahead log into the file.

        Others may have the file open: a copy of it then holds what was saved, too.
        """
        self._engine.dispose()
        if self._place is not None:
            self._place.close()

    def check_place(self) -> None:
        """Make sure that what was saved can be found: call it before success is reported.

        Raises:
            StoreError: the file was deleted, moved, replaced or overwritten since it was opened, or
                its log was; names the file that all was rescued to.
        """
        if self._place is not None:
            self._place.check(self._name)

    def back_up(self, path: str | Path) -> None:
        """Write a copy to a new SQLite file, whole as of one moment, while others write.

        Raises:
            SettingError: the file exists, or the store is not an SQLite file.
            StoreError: it cannot be written.
        """
        if self._engine.dialect.name != "sqlite":
            raise SettingError(
                f"The store {self._name} is a database of a server: copy it with pg_dump. To copy "
                "runs to a file, use denoised-smoothing merge."
            )
        if Path(path).exists():
            raise SettingError(f"{path} exists already. Name a new file for the copy.")
        try:
            with self._engine.connect() as connection:
                source: Any = connection.connection.driver_connection
                back_up(source, Path(path))
        except (OSError, sqlite3.Error, SQLAlchemyError) as error:
            raise StoreError(
                f"The copy {path} cannot be written ({error}). Name another file."
            ) from error

    @patient
    def begin(
        self, name: str, settings: Mapping[str, Any], *, seed: int | None, info: Mapping[str, Any]
    ) -> StoredRun:
        """Create a run, or return the run of that name if it has the same settings.

        Args:
            settings: what must be equal to resume; one that is absent counts as None.
            seed: the seed of the noise; None takes that of the existing run, or fresh entropy.
            info: recorded when the run is created, never compared.

        Raises:
            RunMismatchError: the run exists with other settings or another seed.
            SettingError: the name is empty.
        """
        check_name(name)
        wanted, info = json.loads(to_json([settings, info]))
        row = {
            "name": name,
            "settings": wanted,
            "seed": str(secrets.randbits(128) if seed is None else seed),
            "info": info,
            "created": datetime.now(UTC).isoformat(),
        }
        try:
            with self.transaction(write=True) as connection:
                connection.execute(sa.insert(RUNS), row)
            return self.run(name)
        except IntegrityError:  # it exists
            run = self.run(name)
        wanted["seed"] = run.seed if seed is None else seed
        if differs := differences({**run.settings, "seed": run.seed}, wanted):
            raise RunMismatchError(
                f"The run {name!r} exists with other settings ({'; '.join(differs)}). "
                "Use another name with --run, or resume it with the settings it has."
            )
        return run

    @patient
    def extend(self, name: str, plan: Mapping[str, Any], *, command: str) -> StoredRun:
        """Replace the plan of a run by one that only adds to it; notes the command in its info."""
        run = self.run(name)
        info = {**run.info, "continued": [*run.info.get("continued", []), command]}
        settings = json.loads(to_json({**run.settings, "plan": plan}))
        self._update(name, settings=settings, info=info)
        return self.run(name)

    @patient
    def note(self, name: str, **values: Any) -> None:
        """Replace values in the info of a run."""
        self._update(name, info={**self.run(name).info, **values})

    def _update(self, name: str, **values: Any) -> None:
        with self.transaction(write=True, run=name) as connection:
            connection.execute(sa.update(RUNS).where(RUNS.c.name == name).values(values))

    @patient
    def find(self, name: str) -> StoredRun | None:
        """Return the run of that name, or None."""
        with self.transaction() as connection:
            row = connection.execute(sa.select(RUNS).where(RUNS.c.name == name)).one_or_none()
        return None if row is None else run_from_row(row)

    def run(self, name: str) -> StoredRun:
        """Return the run of that name; if there is none, the error suggests the nearest."""
        if (found := self.find(name)) is not None:
            return found
        names = [run.name for run in self.runs()]
        near = difflib.get_close_matches(name, names, 1)
        advice = f" Did you mean {near[0]!r}?" if near else ""
        known = f"The newest are: {', '.join(names[-5:])}" if names else "It holds no runs yet."
        raise RunNotFoundError(f"No run {name!r} in the store {self._name}.{advice} {known}")

    @patient
    def runs(self) -> list[StoredRun]:
        """Return all runs, the oldest first."""
        query = sa.select(RUNS).order_by(RUNS.c.created, RUNS.c.name)
        with self.transaction() as connection:
            return [run_from_row(row) for row in connection.execute(query)]

    @patient
    def finished(self) -> dict[str, int]:
        """Return the number of finished images of each run; runs without any are left out."""
        query = sa.select(IMAGES.c.run, sa.func.count()).where(IMAGES.c.finished)
        with self.transaction() as connection:
            rows = connection.execute(query.group_by(IMAGES.c.run))
            return {name: count for name, count in rows.all()}  # noqa: C416, rows are no pairs

    @patient
    def images(self, name: str) -> list[StoredImage]:
        """Return the images of a run, by index."""
        return list(self.stream_images(name))

    def stream_images(self, name: str) -> Iterator[StoredImage]:
        """Yield the images of a run, by index; a large run need not fit into memory."""
        self.run(name)
        query = sa.select(IMAGES).where(IMAGES.c.run == name).order_by(IMAGES.c.index)
        with self.transaction() as connection:
            rows = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
            for row in rows:
                yield from_row(name, row)

    @patient
    def save_images(self, name: str, images: Iterable[StoredImage]) -> None:
        """Insert or replace the state of each image, all or none.

        Raises:
            StoreError: an image was saved before with another digest.
            CountsError: counts belong to another run, image or stage.
        """
        rows = {image.image_id: to_row(name, image) for image in images}
        try:
            # A row of another digest is not deleted, and stands in the way of the new one.
            self._replace(name, IMAGES, ("run", "image_id", "digest"), list(rows.values()))
        except IntegrityError as error:
            saved = [image for image in self.images(name) if image.image_id in rows]
            changed = [i.image_id for i in saved if i.digest != rows[i.image_id]["digest"]]
            raise StoreError(
                f"The data changed under the run {name!r}: the digests of {len(changed)} images "
                f"are not those saved, the first {changed[:3]}. Use the data that it began with, "
                "or another name with --run."
            ) from error

    @patient
    def examples(self, name: str) -> list[StoredExample]:
        """Return the examples of a run, by image, kind and position."""
        self.run(name)
        columns = (EXAMPLES.c.image_id, EXAMPLES.c.kind, EXAMPLES.c.position, EXAMPLES.c.png)
        query = sa.select(*columns).where(EXAMPLES.c.run == name).order_by(*columns[:3])
        with self.transaction() as connection:
            return [StoredExample(*row) for row in connection.execute(query)]

    @patient
    def save_examples(self, name: str, examples: Iterable[StoredExample]) -> None:
        """Insert or replace each example, all or none."""
        rows = {(e.image_id, e.kind, e.position): {"run": name, **asdict(e)} for e in examples}
        self._replace(name, EXAMPLES, ("run", "image_id", "kind", "position"), list(rows.values()))

    def _replace(
        self, run: str, table: sa.Table, keys: tuple[str, ...], rows: list[dict[str, Any]]
    ) -> None:
        self.run(run)
        if not rows:
            return
        matches = (table.c[key] == sa.bindparam(key) for key in keys)
        with self.transaction(write=True, run=run) as connection:
            connection.execute(sa.delete(table).where(*matches), rows)
            connection.execute(sa.insert(table), rows)

    @contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """Let only this store write the run of that name, which need not exist yet.

        Raises:
            RunBusyError: another driver works on it. Once that has ended, it can be claimed.
        """
        claim = claim_on(self._engine, name)
        of_run = DRIVERS.c.run == name
        row = {"run": name, "token": claim.token, "name": claim.name}
        since = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with self.transaction(write=True) as connection:
                claim.hold()
                connection.execute(sa.delete(DRIVERS).where(of_run))
                connection.execute(sa.insert(DRIVERS), {**row, "since": since})
            self._claims[name] = claim
            yield
        finally:
            if self._claims.get(name) is claim:  # and not that of another, which refused this one
                del self._claims[name]
            with suppress(StoreError), self.transaction(write=True) as connection:
                mine = sa.delete(DRIVERS).where(of_run, DRIVERS.c.token == claim.token)
                connection.execute(mine)
            claim.release()

    @contextmanager
    def transaction(
        self, *, write: bool = False, run: str | None = None
    ) -> Iterator[sa.Connection]:
        """Open a transaction of the database: all of it is on disk when it ends, or none.

        Args:
            run: the run that is written; where this store claims it, only while it does.

        Raises:
            StoreUnreachableError: a server is unreachable.
            RunBusyError: another driver claimed the run since.
            StoreError: the database failed, its file is gone, or the store was opened to read.
        """
        claim = self._claims.get(run or "")
        if write and self._read_only:
            raise StoreError(f"The store {self._name} was opened to read. Open it to write.")
        try:
            # One writer of a process at a time: waiting for SQLite's own lock is not fair.
            with self._writing if write else nullcontext():
                if claim is not None:
                    claim.hold()
                if write and self._place and self._place.loss() is Loss.OVERWRITTEN:
                    self.check_place()  # and do not damage the content of another store
                with self._engine.execution_options(write=write).begin() as connection:
                    if claim is not None:
                        claim.check(connection)
                    yield connection
            if write:
                self.check_place()
        except IntegrityError:
            raise  # a key exists already: the caller knows what that means
        except SQLAlchemyError as error:
            self.check_place()  # this explains the error if the file is gone
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> StoreError:
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        hint = next(hint for key, hint in _HINTS.items() if key in reason)
        kind = StoreUnreachableError if is_unreachable(error) else StoreError
        return kind(f"The store {self._name} failed ({reason}). {hint}")
