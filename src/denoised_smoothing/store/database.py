"""The store: reading and writing, in transactions that are whole or not at all."""

from __future__ import annotations

import difflib
import json
import logging
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    StoreError,
    StoreUnreachableError,
    differences,
)
from denoised_smoothing.store.claims import Claim, claim_on
from denoised_smoothing.store.connections import is_unreachable, open_engine, to_json, url_of
from denoised_smoothing.store.records import (
    StoredExample,
    StoredImage,
    StoredRun,
    from_row,
    to_row,
)
from denoised_smoothing.store.schema import prepare
from denoised_smoothing.store.tables import DRIVERS, EXAMPLES, IMAGES, RUNS

_HINTS = {
    "full": "everything saved before is kept: free some space, then give the same command again",
    "readonly": "make the file and its folder writable, or name another store or a copy elsewhere",
    "not a database": "name a file that this package wrote, or a new one",
    "locked": "another program is writing to it: wait until that ends, then try again",
    "unable to open": "check that the path is a file, and that it and its folder are writable",
    "psycopg": "install the driver of PostgreSQL: pip install 'denoised-smoothing[postgresql]'",
    "": "check its path or URL; everything saved before is kept",
}
ROWS_AT_ONCE = 1_000
"""Rows that are read together."""
PATIENCE = 600.0
"""Seconds that a store which was reachable before is waited for."""
_log = logging.getLogger(__name__)


def _say(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        _log.warning("%s; waiting for it", state.outcome.exception())


def _stop(state: RetryCallState) -> bool:
    return (state.seconds_since_start or 0) > PATIENCE


patient = retry(
    retry=retry_if_exception_type(StoreUnreachableError),
    wait=wait_exponential(multiplier=0.1, max=2),
    stop=_stop,
    before_sleep=_say,
    reraise=True,
)
"""A method that may be called again, as its transaction gives the same however often it is done,
waits for a server that is away."""


class Store:
    """The runs of one database; the contract is that of the package.

    Args:
        target: the path of an SQLite file, which is made with its folders if it does not exist,
            or an SQLAlchemy URL such as ``postgresql://user@host/name`` (a database of its own),
            whose password is in ``PGPASSWORD`` or ``~/.pgpass``.
        read_only: read what is there; create and write nothing.

    Raises:
        SettingError: the URL cannot be read, or has a password.
        StoreError: the database is not there, not readable, not writable or not a store.
        SchemaTooNewError: a newer version of this package wrote it.
    """

    def __init__(self, target: str | Path, *, read_only: bool = False) -> None:
        url = url_of(str(target))
        self._name, self._read_only = str(target), read_only
        self._writing = threading.Lock()
        self._claims: dict[str, Claim] = {}
        try:
            self._engine = open_engine(url, read_only)
        except (ImportError, OSError, SQLAlchemyError) as error:
            raise self._failure(error) from error
        try:
            with self.transaction(write=not read_only) as connection:
                prepare(connection, self._name, read_only=read_only)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; SQLite then folds the write-ahead log into the file."""
        self._engine.dispose()

    @patient
    def begin(
        self, name: str, settings: Mapping[str, Any], *, seed: int | None, info: Mapping[str, Any]
    ) -> StoredRun:
        """Create a run, or return the run of that name if it has the same settings.

        Args:
            settings: what must be equal to go on; one that is absent counts as None.
            seed: the seed of the noise; None takes that of the existing run, or fresh entropy.
            info: recorded when the run is created, never compared.

        Raises:
            RunMismatchError: the run exists with other settings or another seed.
        """
        wanted, info = json.loads(to_json([settings, info]))
        row = {
            "name": name,
            "settings": wanted,
            "seed": str(secrets.randbits(128) if seed is None else seed),
            "info": info,
            "created": datetime.now(UTC).isoformat(),
        }
        with suppress(IntegrityError), self.transaction(write=True) as connection:
            connection.execute(sa.insert(RUNS), row)
        run = self.run(name)
        wanted["seed"] = run.seed if seed is None else seed
        if differs := differences({**run.settings, "seed": run.seed}, wanted):
            raise RunMismatchError(
                f"the run {name!r} exists with other settings ({'; '.join(differs)}). "
                "Use another name with --run, or resume it with the settings it has."
            )
        return run

    @patient
    def extend(self, name: str, plan: Mapping[str, Any], *, command: str) -> StoredRun:
        """Replace the plan of a run by one that only adds to it; notes the command in its info."""
        self.run(name)
        with self.transaction(write=True, run=name) as connection:
            query = sa.select(RUNS.c.settings, RUNS.c.info).where(RUNS.c.name == name)
            settings, info = connection.execute(query).one()
            settings = json.loads(to_json({**settings, "plan": plan}))
            info = {**info, "continued": [*info.get("continued", []), command]}
            connection.execute(
                sa.update(RUNS).where(RUNS.c.name == name).values(settings=settings, info=info)
            )
        return self.run(name)

    @patient
    def name_labels(self, name: str, labels: Sequence[str]) -> None:
        """Replace the label names of a run, in the order of the labels' numbers."""
        info = {**self.run(name).info, "label_names": list(labels)}
        with self.transaction(write=True, run=name) as connection:
            connection.execute(sa.update(RUNS).where(RUNS.c.name == name).values(info=info))

    def run(self, name: str) -> StoredRun:
        """The run of that name; if there is none, the error suggests the nearest."""
        runs = {run.name: run for run in self.runs()}
        if name in runs:
            return runs[name]
        near = difflib.get_close_matches(name, runs, 1)
        advice = f"did you mean {near[0]!r}? " if near else ""
        known = f"The newest are: {', '.join(list(runs)[-5:])}" if runs else "It holds none yet"
        raise RunNotFoundError(f"no run {name!r} in the store {self._name}; {advice}{known}")

    @patient
    def runs(self) -> list[StoredRun]:
        """All runs, the oldest first."""
        query = sa.select(RUNS).order_by(RUNS.c.created, RUNS.c.name)
        with self.transaction() as connection:
            return [
                StoredRun(name, settings, int(seed), info, datetime.fromisoformat(created))
                for name, settings, seed, info, created in connection.execute(query)
            ]

    def finished(self) -> dict[str, int]:
        """How many images of each run are finished; runs without any are left out."""
        query = sa.select(IMAGES.c.run, sa.func.count()).where(IMAGES.c.finished)
        with self.transaction() as connection:
            rows = connection.execute(query.group_by(IMAGES.c.run))
            return {name: count for name, count in rows.all()}  # noqa: C416, rows are no pairs

    @patient
    def images(self, name: str) -> list[StoredImage]:
        """The images of a run, by index."""
        return list(self.stream_images(name))

    def stream_images(self, name: str) -> Iterator[StoredImage]:
        """As :meth:`images`, one by one, so that a large run needs not fit into memory."""
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
        self.run(name)
        rows = {image.image_id: to_row(name, image) for image in images}
        try:
            # A row of another digest is not deleted, and stands in the way of the new one.
            self._replace(name, IMAGES, ("run", "image_id", "digest"), list(rows.values()))
        except IntegrityError as error:
            saved = [image for image in self.images(name) if image.image_id in rows]
            changed = [i.image_id for i in saved if i.digest != rows[i.image_id]["digest"]]
            raise StoreError(
                f"the data changed under the run {name!r}: the digests of {len(changed)} images "
                f"are not those saved, the first {changed[:3]}; give it the data that it began "
                "with, or start a new one with another --run name"
            ) from error

    @patient
    def examples(self, name: str) -> list[StoredExample]:
        """The examples of a run, by image, kind and position."""
        self.run(name)
        columns = (EXAMPLES.c.image_id, EXAMPLES.c.kind, EXAMPLES.c.position, EXAMPLES.c.png)
        query = sa.select(*columns).where(EXAMPLES.c.run == name).order_by(*columns[:3])
        with self.transaction() as connection:
            return [StoredExample(*row) for row in connection.execute(query)]

    @patient
    def save_examples(self, name: str, examples: Iterable[StoredExample]) -> None:
        """Insert or replace each example, all or none."""
        self.run(name)
        rows = {(e.image_id, e.kind, e.position): {"run": name, **asdict(e)} for e in examples}
        self._replace(name, EXAMPLES, ("run", "image_id", "kind", "position"), list(rows.values()))

    def _replace(
        self, run: str, table: sa.Table, keys: tuple[str, ...], rows: list[dict[str, Any]]
    ) -> None:
        if not rows:
            return
        matches = (table.c[key] == sa.bindparam(key) for key in keys)
        with self.transaction(write=True, run=run) as connection:
            connection.execute(sa.delete(table).where(*matches), rows)
            connection.execute(sa.insert(table), rows)

    @contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """While it lasts, only this store writes the run of that name, which need not exist yet.

        Raises:
            RunBusyError: another driver works on it. Once that is gone, it can be claimed.
        """
        claim = claim_on(self._engine, name)
        mine = DRIVERS.c.run == name, DRIVERS.c.token == claim.token
        row = {"run": name, "token": claim.token, "name": claim.name}
        since = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with self.transaction(write=True) as connection:
                claim.hold()
                connection.execute(sa.delete(DRIVERS).where(mine[0]))
                connection.execute(sa.insert(DRIVERS), {**row, "since": since})
            self._claims[name] = claim
            yield
        finally:
            if self._claims.get(name) is claim:  # and not that of another, which refused this one
                del self._claims[name]
            with suppress(StoreError), self.transaction(write=True) as connection:
                connection.execute(sa.delete(DRIVERS).where(*mine))
            claim.release()

    @contextmanager
    def transaction(
        self, *, write: bool = False, run: str | None = None
    ) -> Iterator[sa.Connection]:
        """A transaction of the database: all of it is on disk when it ends, or none.

        Args:
            write: whether it writes.
            run: which run is written; where this store claims it, only while it does.

        Raises:
            StoreUnreachableError: a server is away.
            RunBusyError: another driver claimed the run since.
            StoreError: the database failed, or the store was opened to read.
        """
        claim = self._claims.get(run or "")
        if write and self._read_only:
            raise StoreError(f"the store {self._name} was opened to read; open it to write")
        try:
            # One writer of a process at a time: waiting for SQLite's own lock is not fair.
            with (
                self._writing if write else nullcontext(),
                self._held(claim).execution_options(write=write).begin() as connection,
            ):
                if claim is not None:
                    claim.check(connection)
                yield connection
        except IntegrityError:
            raise  # a key exists already: the caller knows what that means
        except SQLAlchemyError as error:
            raise self._failure(error) from error

    def _held(self, claim: Claim | None) -> sa.Engine:
        if claim is not None:
            claim.hold()
        return self._engine

    def _failure(self, error: Exception) -> StoreError:
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        hint = next(hint for key, hint in _HINTS.items() if key in reason)
        kind = StoreUnreachableError if is_unreachable(error) else StoreError
        return kind(f"the store {self._name} failed ({reason}): {hint}")
