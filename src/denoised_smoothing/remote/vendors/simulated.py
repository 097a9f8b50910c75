"""A vendor that costs nothing and answers by chance: to rehearse a run before it is paid."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import Reply, Vendor, VendorError
from denoised_smoothing.remote.vendors.prices import Price


class Simulated(Vendor):
    """Gives each image a label by chance, which its bytes decide: the same image, the same label.

    Args:
        labels: names and their weights, such as ``{"cat": 0.9, "dog": 0.1}``.
        latency: seconds until an answer.
        errors: share of attempts that fail (throttled, failed, dropped in turn), 0 to below 1.
        price: of a query in US dollars, for rehearsal: nothing is paid.

    Raises:
        SettingError: an argument is out of its range.
    """

    name: ClassVar[str] = "simulated"

    def __init__(
        self,
        labels: Mapping[str, float] | None = None,
        latency: float = 0.0,
        errors: float = 0.0,
        price: float = 0.0,
    ) -> None:
        self._labels = dict(labels or {"cat": 0.9, "dog": 0.1})
        weights = np.array(list(self._labels.values()), dtype=float)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise SettingError(
                f"weights of simulated labels are at least 0 and not all 0, got {self._labels}"
            )
        if not 0.0 <= errors < 1.0 or not latency >= 0.0 or not price >= 0.0:
            raise SettingError(
                f"errors is a share from 0 to below 1, latency and price are at least 0, "
                f"got errors={errors}, latency={latency}, price={price}"
            )
        self._bounds = np.cumsum(weights / weights.sum())
        self._latency, self._errors, self._price = latency, errors, price
        self._lock, self._attempts = threading.Lock(), 0

    @property
    def price(self) -> Price:
        return Price(self._price, "simulated: nothing is paid")

    def connect(self, *, timeout: float, in_flight: int) -> None:
        """Nothing to do."""

    def send(self, image: bytes) -> Any:
        with self._lock:
            self._attempts += 1
            failed = int(self._attempts * self._errors) > int((self._attempts - 1) * self._errors)
            number = self._attempts
        if self._latency:
            time.sleep(self._latency)
        if failed:
            outcomes = (Outcome.THROTTLED, Outcome.FAILED, Outcome.DROPPED)
            raise VendorError(outcomes[number % 3], "a simulated failure")
        uniform = int.from_bytes(hashlib.sha256(image).digest()[:7], "big") / 2**56
        place = int(np.searchsorted(self._bounds, uniform, side="right"))
        return {"label": list(self._labels)[min(place, len(self._labels) - 1)]}

    def reply(self, answer: Any) -> Reply:
        return Reply([Scored(answer["label"], 1.0)])

    def fingerprint_parts(self) -> Mapping[str, object]:
        return {**super().fingerprint_parts(), "labels": self._labels}
