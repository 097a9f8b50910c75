"""What a run does for a remote classifier: query log, label numbers, cost."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Spending, spending_of
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


def estimate(store: Store, run: str, remote: RemoteClassifier, most_calls: int) -> QueryEstimate:
    """Return the queries that are left of ``most_calls`` for a run, which may be stored or not."""
    attempts = [] if store.find(run) is None else list(StoreLog(store, run).history())
    settled = sum(attempt.final for attempt in attempts)
    return QueryEstimate(max(0, most_calls - settled), spending_of(attempts), remote.price)


def with_query_log(
    remote: RemoteClassifier, store: Store, run: StoredRun
) -> AbstractContextManager[None]:
    """Log the classifier's queries in the store, and number its labels as the run does.

    A run on the answers of another one sends no query.
    """
    source = run.info.get("answers_of")
    remote.forget()
    remote.learn(run.info.get("label_names") or ())
    return remote.logging_to(StoreLog(store, source or run.name), offline=source is not None)


def begin_offline(
    store: Store,
    source: StoredRun,
    name: str,
    *,
    remote: RemoteClassifier | None,
    settings: Mapping[str, Any],
    seed: int | None,
    info: Mapping[str, Any],
) -> StoredRun:
    """Begin a run on the noise and the answers of another one; alpha and plan may differ.

    Raises:
        SettingError: the classifier is a local one, which keeps no log.
        RunMismatchError: another setting differs, so that the answers are not for these copies.
    """
    if remote is None:
        raise SettingError(
            "--offline needs the query log of a remote classifier, and "
            f"{settings['classifier']!r} is a local one. Remove --offline."
        )
    same = {key: source.settings[key] for key in ("alpha", "plan")}
    store.begin(source.name, {**settings, **same}, seed=seed, info={})
    names = source.info.get("label_names") or info["label_names"]
    answers_of = source.info.get("answers_of", source.name)
    info = {**info, "label_names": names, "answers_of": answers_of}
    return store.begin(name, settings, seed=source.seed, info=info)
