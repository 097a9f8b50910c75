"""A vendor that costs nothing and answers at random: to rehearse a paid run."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.limits import LARGEST_ANSWER
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.source import remote_source
from denoised_smoothing.remote.vendors.base import Price, Reply, Vendor, VendorError


class Simulated(Vendor):
    """Draws a label for each image from its bytes: equal images have equal labels.

    Args:
        weights: labels and their weights, such as ``{"cat": 0.9, "dog": 0.1}``.
        latency: seconds until an answer.
        errors: share of attempts that fail (throttled, failed, dropped in turn), 0 to below 1.
        price: US dollars of a query, for the estimate; nothing is paid.
    """

    name: ClassVar[str] = "simulated"

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        latency: float = 0.0,
        errors: float = 0.0,
        price: float = 0.0,
    ) -> None:
        self._labels = dict(weights or {"cat": 0.9, "dog": 0.1})
        shares = np.array(list(self._labels.values()), dtype=float)
        if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
            raise SettingError(f"weights must be at least 0 and not all 0, got {self._labels}")
        if not 0.0 <= errors < 1.0 or not latency >= 0.0 or not price >= 0.0:
            raise SettingError(
                "errors must be at least 0 and below 1, latency and price at least 0, "
                f"got errors={errors}, latency={latency}, price={price}"
            )
        self._bounds = np.cumsum(shares / shares.sum())
        self.options = {"labels": self._labels}
        self._latency, self._errors = latency, errors
        self.price = Price(price, "simulated: nothing is paid")
        self._lock, self._attempts = threading.Lock(), 0

    def connect(
        self, *, timeout: float, in_flight: int, largest_answer: int = LARGEST_ANSWER
    ) -> None:
        """Do nothing."""

    def query(self, image: bytes) -> Any:
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


def _weights(text: str) -> Mapping[str, float]:
    try:
        pairs = [part.partition("=") for part in text.split(",")]
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError:
        raise ValueError("labels and weights, such as cat=0.9,dog=0.1") from None


SOURCE = remote_source(
    Simulated,
    "simulated",
    "random labels, to rehearse",
    weights=_weights,
    latency=float,
    errors=float,
    price=float,
)
