"""The limit on queries and money, which nothing passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import tenacity

from denoised_smoothing.errors import BudgetReachedError, SettingError
from denoised_smoothing.remote.records import Outcome, Spending


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a run may take over all its sessions: queries, and US dollars.

    A query counts when it was, or may have been, paid for.

    Raises:
        SettingError: a limit is below 0, or not a number.
    """

    queries: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("queries", self.queries), ("cost", self.cost)):
            if value is not None and not value >= 0:
                raise SettingError(f"--max-{name} must be at least 0, got {value}")

    def allows(self, queries: int, cost: float) -> bool:
        """Whether so much may be spent."""
        within = self.queries is None or queries <= self.queries
        # Sums of equal prices, to the last bits.
        return within and (self.cost is None or cost <= self.cost * (1 + 1e-9))

    def __str__(self) -> str:
        parts = []
        if self.queries is not None:
            parts.append(f"{self.queries:,} queries")
        if self.cost is not None:
            parts.append(f"${self.cost:g}")
        return " and ".join(parts) or "no limit"


class BudgetGuard:
    """Lends the price of a query before it is sent, and books what became of it.

    Args:
        budget: the limit.
        price: of a query, in US dollars.
        spent: what earlier sessions of the run came to.
        kept: what to tell about answers when the budget is used up.
    """

    def __init__(self, budget: Budget, price: float, spent: Spending, kept: str) -> None:
        self._budget, self._price, self._kept = budget, price, kept
        self.spent, self._lent = spent, 0

    def lend(self) -> bool:
        """Set the price of a query aside; False while it depends on one that is on its way.

        Raises:
            BudgetReachedError: one query more would pass the limit.
        """
        lent = self._lent + 1
        most = self.spent.most + lent * self._price
        if self._budget.allows(self.spent.queries + lent, most):
            self._lent = lent
            return True
        if self._lent:
            return False
        raise BudgetReachedError(
            f"the budget of {self._budget} is used up ({self.spent.queries:,} queries, "
            f"${self.spent.most:.4f}); allow more to go on. {self._kept}"
        )

    def book(self, outcome: Outcome) -> None:
        """What became of a query whose price was lent."""
        self._lent -= 1
        self.spent = self.spent.plus(outcome, self._price)


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


@dataclass(frozen=True)
class ClientSettings:
    """How a vendor is treated. None of it changes an answer, so it may differ between sessions.

    Args:
        in_flight: queries on the wire at once.
        rate: queries a second at most; None for no limit.
        timeout: seconds to wait for the vendor.
        attempts: failures of a copy after which it counts for no class, throttling apart.
        first_wait, longest_wait: seconds before the first repetition, and at most; in between
            they double, with jitter. A vendor's ``Retry-After`` is obeyed where it is longer.
        patience: seconds without any answer after which the run stops.
        refusals: refusals of the account in a row after which it stops.
        budget: the most that may be spent.
        price: of a query in US dollars; None for the list price.

    Raises:
        SettingError: a value is out of its range.
    """

    in_flight: int = 16
    rate: float | None = None
    timeout: float = 30.0
    attempts: int = 7
    first_wait: float = 0.5
    longest_wait: float = 30.0
    patience: float = 30.0
    refusals: int = 5
    budget: Budget = field(default_factory=Budget)
    price: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.in_flight <= 1024:
            raise SettingError(f"--in-flight is 1 to 1024 queries, got {self.in_flight}")
        for name in ("rate", "timeout", "attempts", "refusals"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"{name} must be above 0, got {value}")
        if self.price is not None and not self.price >= 0:
            raise SettingError(f"--price is in dollars a query and at least 0, got {self.price}")

    def wait(self, repetition: int, retry_after: float | None) -> float:
        """Seconds before a repetition, counted from 1: they double, with jitter.

        Args:
            repetition: of the same copy.
            retry_after: what the vendor asks for, in seconds.
        """
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = repetition
        doubles = tenacity.wait_exponential(multiplier=self.first_wait, max=self.longest_wait)
        backoff = (doubles + tenacity.wait_random(0, self.first_wait))(state)
        return max(backoff, retry_after or 0.0)
