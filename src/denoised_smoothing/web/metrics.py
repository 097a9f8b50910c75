"""Counters for Prometheus."""

from __future__ import annotations

import time

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
        prefix = "denoised_smoothing"
        ProcessCollector(registry=self.registry)
        self.pending = Gauge(f"{prefix}_open_requests", "Pending requests.", registry=self.registry)
        self.copies = Counter(f"{prefix}_copies", "Noisy copies counted.", registry=self.registry)
        self.requests = Counter(
            f"{prefix}_requests",
            "Requests for copies that ended, by kind and final state.",
            ["kind", "state"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            f"{prefix}_request_seconds",
            "Seconds from the acceptance of a request to its end.",
            ["kind"],
            registry=self.registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )
        self.answers = Counter(
            f"{prefix}_http_responses", "HTTP responses.", ["method", "status"],
            registry=self.registry,
        )  # fmt: skip

    def ended(self, kind: str, state: State, copies: int, began: float) -> None:
        """Count a request that ended; it began at ``began`` of the monotonic clock."""
        self.pending.dec()
        self.copies.inc(copies)
        self.requests.labels(kind, state.value).inc()
        self.seconds.labels(kind).observe(time.monotonic() - began)

    def text(self) -> bytes:
        """Return the counters in the text format of Prometheus."""
        return generate_latest(self.registry)
