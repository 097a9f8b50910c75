"""What Prometheus is told."""

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
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix = "denoised_smoothing"
        ProcessCollector(registry=self.registry)
        self.open = Gauge(f"{prefix}_open_requests", "On their way.", registry=self.registry)
        self.copies = Counter(
            f"{prefix}_copies", "Noisy copies that were counted.", registry=self.registry
        )
        self.requests = Counter(
            f"{prefix}_requests",
            "Requests for copies that ended, by kind and by what became of them.",
            ["kind", "state"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            f"{prefix}_request_seconds",
            "From the taking of a request to its end.",
            ["kind"],
            registry=self.registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )
        self.answers = Counter(
            f"{prefix}_http_responses", "HTTP responses.", ["method", "status"],
            registry=self.registry,
        )  # fmt: skip

    def ended(self, kind: str, state: State, copies: int, began: float) -> None:
        """A request ended; ``began`` is of the monotonic clock."""
        self.open.dec()
        self.copies.inc(copies)
        self.requests.labels(kind, state.value).inc()
        self.seconds.labels(kind).observe(time.monotonic() - began)

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self.registry)
