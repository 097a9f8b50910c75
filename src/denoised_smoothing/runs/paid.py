"""The paid queries of a run: their maximum cost, and the log that stores their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.errors import StoreUnreachableError
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Attempt, Spending, spending_of
from denoised_smoothing.remote.vendors.base import Price
from denoised_smoothing.store import Store, StoredRun


@dataclass(frozen=True, slots=True)
class QueryEstimate:
    """Maximum number of copies that a run still needs answers for, and what they may cost.

    Args:
        most_copies: copies, each of which needs a query.
        settings: of the queries.
        spent: so far.
        price: of a query.
    """

    most_copies: int
    settings: ClientSettings
    spent: Spending
    price: Price | None

    @property
    def most_cost(self) -> float:
        """US dollars for a query of each copy; 0.0 where the price is not known."""
        return self.most_copies * (self.price.dollars if self.price else 0.0)

    @property
    def most_queries(self) -> int:
        """Queries that may be paid for if all that can fail do, within the budget."""
        most = self.most_copies * self.settings.attempts
        budget = self.settings.budget.queries
        return most if budget is None else max(0, min(most, int(budget) - self.spent.queries))


def estimate_queries(
    remote: RemoteClassifier,
    attempts: Sequence[Attempt],
    plan: SamplingPlan,
    image_ids: Sequence[str],
) -> QueryEstimate:
    """Return what these images still need at most, after earlier attempts of their run."""
    settled = Counter(attempt.key.image_id for attempt in attempts if attempt.final)
    left = sum(max(0, plan.most_calls() - settled[image_id]) for image_id in image_ids)
    return QueryEstimate(left, remote.settings, spending_of(attempts), remote.price)


@contextmanager
def with_query_log(remote: RemoteClassifier, store: Store, run: StoredRun) -> Iterator[None]:
    """Log the classifier's queries in the store, and number its labels as the run does.

    A run on the answers of another one sends no query. The vendor's notes become those of the run.
    """
    source, names = run.info.get("answers_of"), run.label_names
    classes = () if remote.rule.allowed else run.settings.get("data_labels", ())
    remote.expect([names[number] for number in range(len(classes)) if number in names])
    remote.learn(names)
    log = StoreLog(store, source or run.name)
    try:
        with remote.logging_to(log, offline=source is not None):
            yield
    finally:
        with suppress(StoreUnreachableError):  # the error of the run says more
            _note_vendor(remote, store, run)


def _note_vendor(remote: RemoteClassifier, store: Store, run: StoredRun) -> None:
    """Add the vendor's notes to those of the run."""
    held = store.run(run.name).info.get("notes", [])
    if new := [note for note in remote.vendor.notes if note not in held]:
        store.note(run.name, notes=[*held, *new])
