"""The query log of a run: every attempt is noted before it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any, Protocol, runtime_checkable

import sqlalchemy as sa

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.remote.records import Attempt, CopyKey, Outcome, Spending, spending_of
from denoised_smoothing.store import QUERIES, Store, patient

_KEYS = ("run", "image_id", "stage", "copy", "number")
_FIELDS = tuple(field.name for field in fields(Attempt) if field.name != "key")
_RESULTS = ("outcome", "label", "final", "version", "answer", "seconds")
_READ = tuple(column for column in QUERIES.columns if column.name not in ("run", "answer"))
_HARMLESS = (Outcome.THROTTLED, Outcome.SENT, Outcome.WITHHELD)
"""Outcomes that say nothing about the copy."""


@runtime_checkable
class QueryLog(Protocol):
    """The log of attempts, which threads may share."""

    lasting: bool
    """Whether attempts survive the process."""
    before: Spending
    """Spent before, outside of the log."""

    def write(self, begun: Sequence[Attempt], finished: Sequence[Attempt]) -> None:
        """Note attempts that are about to be sent, and the outcome of others, all or none.

        When it returns, a lasting log survives the process.
        """

    def history(self) -> Iterable[Attempt]:
        """Return all attempts, without the vendor's answers, those of a copy in their order."""


class MemoryLog:
    """Keeps attempts as long as the process lives.

    Args:
        before: spent by earlier logs.
    """

    lasting = False

    def __init__(self, before: Spending | None = None) -> None:
        self.before = before or Spending()
        self._attempts: dict[tuple[CopyKey, int], Attempt] = {}

    def write(self, begun: Sequence[Attempt], finished: Sequence[Attempt]) -> None:
        for attempt in (*begun, *finished):
            self._attempts[attempt.key, attempt.number] = attempt

    def history(self) -> list[Attempt]:
        return list(self._attempts.values())


class StoreLog:
    """The attempts of one run, in its store.

    Args:
        run: the name of the run, which must exist.

    Raises:
        RunNotFoundError: the store holds no run of that name.
    """

    lasting = True
    before = Spending()

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
            rows, ended = [*map(self._row, begun)], [*map(self._row, finished)]
            with self._store.transaction(write=True, run=self._run) as connection:
                if rows and again:  # they may be there: the answer to a commit can be lost
                    connection.execute(self._delete, [*map(_at, rows)])
                if rows:
                    connection.execute(sa.insert(QUERIES), rows)
                if ended:
                    results = [_at(row) | {name: row[name] for name in _RESULTS} for row in ended]
                    connection.execute(self._update, results)

        write()

    def history(self) -> Iterator[Attempt]:
        query = sa.select(*_READ).where(QUERIES.c.run == self._run)
        query = query.order_by(*(QUERIES.c[key] for key in _KEYS[1:]))
        with self._store.transaction() as connection:
            for row in connection.execute(query).mappings():
                values = dict(row)
                key = CopyKey(*(values.pop(name) for name in CopyKey._fields))
                key = key._replace(stage=Stage(key.stage))
                yield Attempt(key=key, **{**values, "outcome": Outcome(values["outcome"])})

    def answer(self, key: CopyKey) -> str | None:
        """Return the vendor's answer that decided a copy's vote, as JSON; None without one."""
        at = {"run": self._run, **key._asdict()}
        query = sa.select(QUERIES.c.answer).where(
            QUERIES.c.final, *(QUERIES.c[name] == value for name, value in at.items())
        )
        with self._store.transaction() as connection:
            answer: str | None = connection.execute(query).scalar()
        return answer

    def spending(self) -> Spending:
        """Return the cost of the run so far."""
        return spending_of(self.history())

    def _row(self, attempt: Attempt) -> dict[str, Any]:
        columns = {name: getattr(attempt, name) for name in _FIELDS}
        return {"run": self._run, **attempt.key._asdict(), **columns}


def _at(row: dict[str, Any]) -> dict[str, Any]:
    """Return the bound parameters that find a row."""
    return {f"at_{key}": row[key] for key in _KEYS}


def resume_hint(log: QueryLog) -> str:
    """Return the end of a message when queries stop."""
    if log.lasting:
        return "All answers are stored. Repeat the command to resume."
    return "These answers are not stored. Runs in a store ('certify', CertificationRun) store them."


@dataclass(frozen=True, slots=True)
class Tried:
    """The last attempt at a copy without a vote, and how often it failed."""

    number: int
    failures: int
    sha256: str


@dataclass
class EarlierAttempts:
    """The content of a log: votes, copies without a vote, and the vendor's version.

    ``answers`` counts answered attempts; ``labelled`` says whether any of them had a label.
    """

    spent: Spending
    votes: dict[CopyKey, str | None] = field(default_factory=dict)
    tried: dict[CopyKey, Tried] = field(default_factory=dict)
    version: str | None = None
    answers: int = 0
    labelled: bool = False


def read_earlier(log: QueryLog) -> EarlierAttempts:
    """Return the attempts of earlier sessions."""
    earlier = EarlierAttempts(log.before)
    for attempt in log.history():
        earlier.spent = earlier.spent.plus(attempt.outcome, attempt.price)
        if attempt.outcome is Outcome.ANSWERED:
            earlier.answers += 1
            earlier.version = earlier.version or attempt.version
            earlier.labelled = earlier.labelled or attempt.label is not None
        if attempt.final:
            earlier.votes[attempt.key] = attempt.label
            continue
        before = earlier.tried.get(attempt.key)
        failures = (before.failures if before else 0) + (attempt.outcome not in _HARMLESS)
        earlier.tried[attempt.key] = Tried(attempt.number, failures, attempt.sha256)
    return earlier
