"""The query log of a run in the store: every attempt is a row before it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

import sqlalchemy as sa

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.remote.records import Attempt, CopyKey, Outcome, Spending, spending_of
from denoised_smoothing.store import QUERIES, Store, patient

_KEYS = ("run", "image_id", "stage", "copy", "number")
_RESULTS = ("outcome", "label", "final", "version", "answer", "seconds")
_FIELDS = tuple(field.name for field in fields(Attempt) if field.name != "key")
_COLUMNS = (*_KEYS[:4], *_FIELDS)
_BOUND = (*(f"at_{key}" for key in _KEYS), *_RESULTS)
_fields_of, _results_of = attrgetter(*_FIELDS), attrgetter(*_RESULTS)
_READ = tuple(column for column in QUERIES.columns if column.name not in ("run", "answer"))


@runtime_checkable
class QueryLog(Protocol):
    """Where attempts are noted. Threads may share it."""

    lasting: bool
    """Whether what is noted survives the process, and may be called kept."""

    def write(self, begun: Sequence[Attempt], finished: Sequence[Attempt]) -> None:
        """Note attempts that are about to be sent, and what became of others, all or none.

        When it returns they are where they shall survive the process.
        """

    def history(self) -> Iterable[Attempt]:
        """All attempts noted, those of a copy in their order; the answers themselves left out."""


class MemoryLog:
    """Keeps attempts as long as the process lives."""

    lasting = False

    def __init__(self) -> None:
        self._attempts: dict[tuple[CopyKey, int], Attempt] = {}

    def write(self, begun: Sequence[Attempt], finished: Sequence[Attempt]) -> None:
        for attempt in (*begun, *finished):
            self._attempts[attempt.key, attempt.number] = attempt

    def history(self) -> list[Attempt]:
        return list(self._attempts.values())


def resume_hint(log: QueryLog) -> str:
    """The end of a message to a user whose queries stop."""
    if log.lasting:
        return "Everything answered is kept, and the same command goes on"
    return "Answers are not kept here: runs in a store ('certify', CertificationRun) keep them"


class StoreLog:
    """The attempts of one run: a :class:`~denoised_smoothing.remote.log.QueryLog` on disk.

    Args:
        store: where they are.
        run: the name of the run, which must exist.

    Raises:
        RunNotFoundError: the store holds no run of that name.
    """

    lasting = True

    def __init__(self, store: Store, run: str) -> None:
        store.run(run)
        self._store, self._run = store, run
        at = [QUERIES.c[key] == sa.bindparam(f"at_{key}") for key in _KEYS]
        self._update, self._delete = sa.update(QUERIES).where(*at), sa.delete(QUERIES).where(*at)

    def write(self, begun: Sequence[Attempt], finished: Sequence[Attempt]) -> None:
        """Insert attempts that are about to be sent, and update others, in one transaction."""
        tries = count()

        @patient
        def write() -> None:
            again = next(tries) > 0
            with self._store.transaction(write=True, run=self._run) as connection:
                if begun and again:  # they may be there: the answer to a commit can be lost
                    connection.execute(self._delete, [_at(self._row(a)) for a in begun])
                if begun:
                    connection.execute(sa.insert(QUERIES), [self._row(a) for a in begun])
                if finished:
                    connection.execute(self._update, [self._result(a) for a in finished])

        write()

    def history(self) -> Iterator[Attempt]:
        """All attempts, those of a copy in their order; the vendor's answers are left out."""
        query = sa.select(*_READ).where(QUERIES.c.run == self._run)
        query = query.order_by(*(QUERIES.c[key] for key in _KEYS[1:]))
        with self._store.transaction() as connection:
            for row in connection.execute(query):
                yield _attempt(row._mapping)

    def answer(self, key: CopyKey) -> str | None:
        """The vendor's answer that decided a copy's vote, as JSON; None where there is none."""
        wanted = {"run": self._run, "image_id": key.image_id, "stage": key.stage, "copy": key.copy}
        query = sa.select(QUERIES.c.answer).where(
            QUERIES.c.final, *(QUERIES.c[name] == value for name, value in wanted.items())
        )
        with self._store.transaction() as connection:
            answer: str | None = connection.execute(query).scalar()
        return answer

    def spending(self) -> Spending:
        """What the run has cost so far."""
        return spending_of(self.history())

    def _row(self, attempt: Attempt) -> dict[str, Any]:
        return dict(zip(_COLUMNS, (self._run, *attempt.key, *_fields_of(attempt)), strict=True))

    def _result(self, attempt: Attempt) -> dict[str, Any]:
        key = (self._run, *attempt.key, attempt.number)
        return dict(zip(_BOUND, (*key, *_results_of(attempt)), strict=True))


def _at(row: dict[str, Any]) -> dict[str, Any]:
    return {f"at_{key}": row[key] for key in _KEYS}


def _attempt(row: Any) -> Attempt:
    values = dict(row)
    key = CopyKey(values.pop("image_id"), Stage(values.pop("stage")), values.pop("copy"))
    return Attempt(key=key, **{**values, "outcome": Outcome(values["outcome"])})


_HARMLESS = (Outcome.THROTTLED, Outcome.SENT, Outcome.WITHHELD)
"""Ends of attempts that say nothing about the copy."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What was done about a copy that has no vote yet."""

    number: int
    failures: int
    sha256: str


@dataclass
class EarlierAttempts:
    """Votes, attempts without one, what was spent, and what the vendor was like."""

    spent: Spending
    votes: dict[CopyKey, str | None] = field(default_factory=dict)
    tried: dict[CopyKey, Tried] = field(default_factory=dict)
    version: str | None = None
    answers: int = 0
    labelled: bool = False


def read_history(log: QueryLog, spent: Spending) -> EarlierAttempts:
    """The history in a log; ``spent`` is what was spent beside it."""
    history = EarlierAttempts(spent)
    for attempt in log.history():
        history.spent = history.spent.plus(attempt.outcome, attempt.price)
        if attempt.outcome is Outcome.ANSWERED:
            history.answers += 1
            history.version = history.version or attempt.version
            history.labelled = history.labelled or attempt.label is not None
        if attempt.final:
            history.votes[attempt.key] = attempt.label
            continue
        before = history.tried.get(attempt.key)
        failures = (before.failures if before else 0) + (attempt.outcome not in _HARMLESS)
        history.tried[attempt.key] = Tried(attempt.number, failures, attempt.sha256)
    return history
