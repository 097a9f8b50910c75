"""What a run has to do with a classifier whose answers are bought: log, labels, cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Spending
from denoised_smoothing.remote.vendors.prices import Price
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store, StoredRun


@dataclass(frozen=True, slots=True)
class QueryEstimate:
    """Before queries are bought: the most that are left, what was spent, and the price of one."""

    most_queries: int
    spent: Spending
    price: Price | None

    @property
    def most_cost(self) -> float:
        """US dollars for the most queries; 0.0 where the price is not known."""
        return self.most_queries * (self.price.dollars if self.price else 0.0)


def remote_classifier(smoothed: SmoothedClassifier) -> RemoteClassifier | None:
    """The classifier, if it is behind a wire."""
    return smoothed.classifier if isinstance(smoothed.classifier, RemoteClassifier) else None


def estimate(store: Store, run: str, remote: RemoteClassifier, most_calls: int) -> QueryEstimate:
    """What is still to be bought for a run, at most.

    Args:
        store: may hold the run already.
        run: its name.
        remote: its classifier.
        most_calls: classifier calls of the whole run at most.
    """
    if all(held.name != run for held in store.runs()):
        return QueryEstimate(most_calls, Spending(), remote.price)
    ledger = StoreLog(store, run)
    settled = sum(attempt.final for attempt in ledger.history())
    return QueryEstimate(max(0, most_calls - settled), ledger.spending(), remote.price)


def with_query_log(
    remote: RemoteClassifier | None, store: Store, run: StoredRun
) -> AbstractContextManager[None]:
    """Queries of the classifier are logged in the store, and labels numbered as in the run.

    A run on the answers of another one sends nothing.
    """
    if remote is None:
        return nullcontext()
    source = run.info.get("answers_of")
    remote.forget()
    remote.learn(run.info.get("label_names") or ())
    return remote.logging_to(StoreLog(store, source or run.name), offline=source is not None)


def first_names(remote: RemoteClassifier, of_data: Iterable[str] | None) -> tuple[str, ...]:
    """The labels of a new run by number: those of the data, then those that the rule allows."""
    remote.forget()
    return remote.named_after(of_data or ())


def begin_offline(
    store: Store,
    source: str,
    name: str,
    *,
    remote: RemoteClassifier | None,
    settings: Mapping[str, Any],
    seed: int | None,
    info: Mapping[str, Any],
) -> StoredRun:
    """A run of its own, on the noise and the answers of another; alpha and plan may differ.

    Raises:
        SettingError: the classifier keeps no log.
        RunMismatchError: anything else differs, so that the answers are not of these copies.
    """
    if remote is None:
        raise SettingError(
            f"--offline takes answers from a query log, and the classifier "
            f"{settings['classifier']!r} keeps none; leave it out"
        )
    held = store.run(source)
    same = {key: held.settings[key] for key in ("alpha", "plan")}
    store.begin(source, {**settings, **same}, seed=seed, info={})
    names = held.info.get("label_names") or info["label_names"]
    info = {**info, "label_names": names, "answers_of": held.info.get("answers_of", source)}
    return store.begin(name, settings, seed=held.seed, info=info)
