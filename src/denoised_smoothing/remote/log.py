"""The query log of a run in the store: every attempt is a row before it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import count
from operator import attrgetter
from typing import Any

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


class StoreLog:
    """The attempts of one run: a :class:`~denoised_smoothing.remote.records.QueryLog` on disk.

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
        if not self._has_table():
            return
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

    def _has_table(self) -> bool:
        """An older store that was opened to read has none."""
        with self._store.transaction() as connection:
            return sa.inspect(connection).has_table(QUERIES.name)

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
