"""The paid queries of a run: their maximum cost, and the log that stores their answers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Spending
from denoised_smoothing.remote.vendors.base import Price
from denoised_smoothing.store import Store, StoredRun


@dataclass(frozen=True, slots=True)
class QueryEstimate:
    """Maximum number of queries that a run still needs, its spending so far, and their price."""

    most_queries: int
    spent: Spending
    price: Price | None

    @property
    def most_cost(self) -> float:
        """US dollars for these queries; 0.0 where the price is not known."""
        return self.most_queries * (self.price.dollars if self.price else 0.0)


def with_query_log(
    remote: RemoteClassifier, store: Store, run: StoredRun
) -> AbstractContextManager[None]:
    """Log the classifier's queries in the store, and number its labels as the run does.

    A run on the answers of another one sends no query.
    """
    source, names = run.info.get("answers_of"), run.info.get("label_names") or ()
    classes = () if remote.rule.allowed else run.settings.get("data_labels", ())
    remote.expect(names[: len(classes)])
    remote.learn(names)
    return remote.logging_to(StoreLog(store, source or run.name), offline=source is not None)
