"""How fast queries are sent, and when to stop sending: token bucket, circuit breaker."""

from __future__ import annotations


class TokenBucket:
    """At most ``rate`` queries a second, evenly.

    Args:
        rate: queries a second; None for no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self._step = 0.0 if rate is None else 1.0 / rate
        self._next = 0.0

    def wait(self, now: float) -> float:
        """Seconds until a query may be sent; ``now`` is in seconds, rising."""
        return max(0.0, self._next - now)

    def take(self, now: float) -> None:
        """A query is sent."""
        self._next = max(self._next, now) + self._step


class CircuitBreaker:
    """Opens when nothing works any more.

    Args:
        refusals: so many refusals of the account in a row open it.
        patience: so many seconds without any answer, while queries fail, open it.
    """

    def __init__(self, refusals: int, patience: float) -> None:
        self._refusals, self._patience = refusals, patience
        self._refused = 0
        self._failing_since: float | None = None
        self.worked = False
        """Whether any query was answered."""

    def answered(self) -> None:
        """A query was answered."""
        self.worked, self._refused, self._failing_since = True, 0, None

    def failed(self, now: float, *, refused: bool) -> bool:
        """A query failed at ``now``, in seconds, rising; returns whether that opens the breaker."""
        self._refused += refused
        if self._failing_since is None:
            self._failing_since = now
        if refused and (not self.worked or self._refused >= self._refusals):
            return True
        return now - self._failing_since >= self._patience
