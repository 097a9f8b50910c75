"""The requests that the service took, in the store: so that none is lost when it is killed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import StoreError
from denoised_smoothing.store import Store

FLUSH_SECONDS = 0.25
"""Changes wait at most this long before they are written, many in one transaction."""
KEPT = 10_000
"""Finished requests that are kept, the newest."""

_log = logging.getLogger(__name__)
_metadata = sa.MetaData()
_jobs = sa.Table(
    "service_jobs",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("seed", sa.String, nullable=False),
    sa.Column("image", sa.LargeBinary),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("answer", sa.JSON),
    sa.Column("created", sa.String, nullable=False, index=True),
)


class State(StrEnum):
    """Of a request."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Its client went away."""
    INTERRUPTED = "interrupted"
    """The service ended before it; it can be resumed."""


@dataclass(frozen=True)
class JobRecord:
    """A request as it is kept; the image (PNG) only until it is answered."""

    id: str
    kind: str
    request: dict[str, Any]
    seed: int
    image: bytes | None
    state: State = State.RUNNING
    counts: tuple[LabelCounts, ...] = ()
    answer: dict[str, Any] | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def ended(self, state: State, answer: dict[str, Any] | None = None) -> JobRecord:
        """With its end; what can be resumed keeps its image."""
        image = self.image if state is State.INTERRUPTED else None
        return replace(self, state=state, answer=answer, image=image)


class JobStore:
    """Requests in a table of their own beside the runs, written by a thread of its own.

    One service at a time writes to a store: what an earlier one left running is marked as
    interrupted when it is opened.

    Raises:
        StoreError: the store cannot be written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        with store.transaction(write=True) as connection:
            _metadata.create_all(connection)
            left = _jobs.c.state == State.RUNNING.value
            connection.execute(sa.update(_jobs).where(left).values(state=State.INTERRUPTED.value))
        self._changed: dict[str, JobRecord] = {}
        self._on_its_way: dict[str, JobRecord] = {}
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def put(self, record: JobRecord) -> None:
        """Have it written soon, in place of what was there of it."""
        with self._lock:
            self._changed[record.id] = record

    def flush(self) -> None:
        """Write what has changed; on disk when it returns.

        Raises:
            StoreError: it cannot be; it is tried again later.
        """
        with self._writing:
            with self._lock:
                self._on_its_way, self._changed = self._changed, {}
            try:
                self._write(self._on_its_way.values())
            except StoreError:
                with self._lock:
                    self._changed = self._on_its_way | self._changed
                raise
            finally:
                with self._lock:
                    self._on_its_way = {}

    def get(self, id: str) -> JobRecord | None:
        """The request of that name, if it is kept."""
        with self._lock:
            held = self._changed.get(id) or self._on_its_way.get(id)
        if held is not None:
            return held
        with self._store.transaction() as connection:
            row = connection.execute(sa.select(_jobs).where(_jobs.c.id == id)).one_or_none()
        return None if row is None else _record(row)

    def newest(self, limit: int) -> list[JobRecord]:
        """The newest requests, without images and counts."""
        self.flush()
        columns = (_jobs.c.id, _jobs.c.kind, _jobs.c.state, _jobs.c.request, _jobs.c.created)
        query = sa.select(*columns).order_by(_jobs.c.created.desc()).limit(limit)
        with self._store.transaction() as connection:
            return [
                JobRecord(name, kind, request, 0, None, State(state), created=created)
                for name, kind, state, request, created in connection.execute(query)
            ]

    def close(self) -> None:
        """Write what has changed, and end the thread."""
        self._closing.set()
        self._thread.join()
        self.flush()

    def _work(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except StoreError as error:
                _log.error("requests could not be recorded: %s", error)

    def _write(self, records: Iterable[JobRecord]) -> None:
        rows = [_row(record) for record in records]
        if not rows:
            return
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.delete(_jobs).where(_jobs.c.id == sa.bindparam("id")), rows)
            connection.execute(sa.insert(_jobs), rows)
            newest = sa.select(_jobs.c.created).order_by(_jobs.c.created.desc())
            oldest = connection.execute(newest.offset(KEPT).limit(1)).scalar()
            if oldest is not None:
                connection.execute(sa.delete(_jobs).where(_jobs.c.created <= oldest))


def _row(record: JobRecord) -> dict[str, Any]:
    counts = [[c.run, c.image_id, c.stage.value, c.votes, c.failed] for c in record.counts]
    values = {**vars(record), "state": record.state.value, "seed": str(record.seed)}
    return {**values, "counts": counts}


def _record(row: Any) -> JobRecord:
    counts = tuple(
        LabelCounts(run, image_id, Stage(stage), tuple(votes), failed)
        for run, image_id, stage, votes, failed in row.counts
    )
    return JobRecord(
        row.id, row.kind, row.request, int(row.seed), row.image,
        State(row.state), counts, row.answer, row.created,
    )  # fmt: skip
