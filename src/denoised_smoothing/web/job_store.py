"""The accepted requests in the store, so that none is lost when the service is killed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import StoreError
from denoised_smoothing.store import JOBS, Store

FLUSH_SECONDS = 0.25
"""Changes wait at most this long; one transaction then writes them together."""
KEPT = 10_000
"""Maximum number of requests that are kept, the newest."""

_log = logging.getLogger(__name__)


class State(StrEnum):
    """The state of a request."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """The client went away."""
    INTERRUPTED = "interrupted"
    """The service stopped before the request was done; it can be resumed."""


@dataclass(frozen=True)
class JobRecord:
    """A request as it is stored; the image (PNG) only until the request ends."""

    id: str
    kind: str
    request: dict[str, Any]
    seed: int
    image: bytes | None
    state: State = State.RUNNING
    counts: tuple[LabelCounts, ...] = ()
    answer: dict[str, Any] | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())


class JobStore:
    """Requests in their own table of the store, written by a thread.

    One service at a time writes to a store. Opening marks the requests that an earlier service
    left running as interrupted.

    Raises:
        StoreError: the store cannot be written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        with store.transaction(write=True) as connection:
            left = JOBS.c.state == State.RUNNING.value
            connection.execute(sa.update(JOBS).where(left).values(state=State.INTERRUPTED.value))
        self._changed: dict[str, JobRecord] = {}
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="job store", daemon=True)
        self._thread.start()

    def put(self, record: JobRecord) -> None:
        """Write a record soon, in place of an earlier one of its name."""
        with self._lock:
            self._changed[record.id] = record

    def flush(self) -> None:
        """Write all changes to disk.

        Raises:
            StoreError: they cannot be written; they are written later.
        """
        with self._writing:
            with self._lock:
                records, self._changed = self._changed, {}
            try:
                self._write(records.values())
            except StoreError:
                with self._lock:
                    self._changed = records | self._changed
                raise

    def get(self, id: str) -> JobRecord | None:
        """Return the request of that name, or None."""
        self.flush()
        with self._store.transaction() as connection:
            found = connection.execute(sa.select(JOBS).where(JOBS.c.id == id)).mappings()
            row = found.one_or_none()
        return None if row is None else _record(row)

    def newest(self, limit: int) -> list[JobRecord]:
        """Return the newest requests, without images and counts."""
        self.flush()
        columns = (JOBS.c.id, JOBS.c.kind, JOBS.c.state, JOBS.c.request, JOBS.c.created)
        query = sa.select(*columns).order_by(JOBS.c.created.desc()).limit(limit)
        with self._store.transaction() as connection:
            return [
                JobRecord(name, kind, request, 0, None, State(state), created=created)
                for name, kind, state, request, created in connection.execute(query)
            ]

    def close(self) -> None:
        """Write all changes, and end the thread."""
        self._closing.set()
        self._thread.join()
        self.flush()

    def _work(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except StoreError as error:
                _log.error("cannot store requests; trying again: %s", error)

    def _write(self, records: Iterable[JobRecord]) -> None:
        rows = [_row(record) for record in records]
        if not rows:
            return
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.delete(JOBS).where(JOBS.c.id == sa.bindparam("id")), rows)
            connection.execute(sa.insert(JOBS), rows)
            newest = sa.select(JOBS.c.created).order_by(JOBS.c.created.desc())
            oldest = connection.execute(newest.offset(KEPT).limit(1)).scalar()
            if oldest is not None:
                connection.execute(sa.delete(JOBS).where(JOBS.c.created <= oldest))


def _row(record: JobRecord) -> dict[str, Any]:
    counts = [[c.run, c.image_id, c.stage.value, c.votes, c.failed] for c in record.counts]
    changed = {"state": record.state.value, "seed": str(record.seed), "counts": counts}
    return {**vars(record), **changed}


def _record(row: Any) -> JobRecord:
    counts = tuple(
        LabelCounts(run, image_id, Stage(stage), votes, failed)
        for run, image_id, stage, votes, failed in row["counts"]
    )
    changed = {"state": State(row["state"]), "seed": int(row["seed"]), "counts": counts}
    return JobRecord(**{**row, **changed})
