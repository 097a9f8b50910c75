"""Counters for Prometheus."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from denoised_smoothing.web.job_store import State


class Metrics:
    """The counters of one service, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        place: dict[str, Any] = {"namespace": "denoised_smoothing", "registry": self.registry}
        self.pending = Gauge("open_requests", "Pending requests.", **place)
        self.copies = Counter("copies", "Noisy copies counted.", **place)
        self.requests = Counter(
            "requests",
            "Requests for copies that ended, by kind and final state.",
            ["kind", "state"],
            **place,
        )
        self.seconds = Histogram(
            "request_seconds",
            "Seconds from the acceptance of a request to its end.",
            ["kind"],
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            **place,
        )
        self.answers = Counter("http_responses", "HTTP responses.", ["method", "status"], **place)

    def ended(self, kind: str, state: State, copies: int, began: float) -> None:
        """Count a request that ended; it began at ``began`` of the monotonic clock."""
        self.pending.dec()
        self.copies.inc(copies)
        self.requests.labels(kind, state.value).inc()
        self.seconds.labels(kind).observe(time.monotonic() - began)

    def text(self) -> bytes:
        """Return the counters in the text format of Prometheus."""
        return generate_latest(self.registry)
