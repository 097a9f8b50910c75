"""The limits on queries: budget, rate, repetitions, and when to stop."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from denoised_smoothing.errors import BudgetReachedError, SettingError
from denoised_smoothing.remote.records import Outcome, Spending

LARGEST_ANSWER = 2_000_000
"""Bytes; an answer with 20,000 labels has about as many."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The maximum number of queries and of US dollars for a run, over all its sessions.

    A query counts when it was, or may have been, paid for.

    Raises:
        SettingError: a limit is below 0, or not a number.
    """

    queries: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("queries", self.queries), ("cost", self.cost)):
            if value is not None and not value >= 0:
                raise SettingError(f"--max-{name} must be at least 0, got {value}. Use 0 or more.")

    def allows(self, queries: int, cost: float) -> bool:
        """Return whether this number of queries at this total cost may be spent."""
        within = self.queries is None or queries <= self.queries
        # Sums of equal prices differ in the last bits.
        return within and (self.cost is None or cost <= self.cost * (1 + 1e-9))

    def __str__(self) -> str:
        queries = [] if self.queries is None else [f"{self.queries:,} queries"]
        cost = [] if self.cost is None else [f"${self.cost:g}"]
        return " and ".join(queries + cost) or "no limit"


@dataclass(frozen=True)
class ClientSettings:
    """The settings of queries. None changes an answer, so they may differ when a run resumes.

    Args:
        in_flight: maximum number of queries in flight.
        rate: maximum number of queries a second; None for no limit.
        timeout: seconds for a whole answer.
        largest_answer: maximum bytes of an answer, after decompression.
        attempts: failures of a copy after which it counts for no class, without throttling.
        first_wait, longest_wait: seconds before the first repetition, and at most; in between
            they double, with jitter. A longer ``Retry-After`` of the vendor is obeyed.
        longest_pause: seconds of ``Retry-After`` above which the run stops instead.
        patience: seconds without any answer after which the run stops.
        refusals: refusals of the account in a row after which it stops.
        budget: the limit on queries and cost.
        price: of a query in US dollars; None for the list price.

    Raises:
        SettingError: a value is out of its range.
    """

    in_flight: int = 16
    rate: float | None = None
    timeout: float = 30.0
    largest_answer: int = LARGEST_ANSWER
    attempts: int = 7
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_pause: float = 120.0
    patience: float = 30.0
    refusals: int = 5
    budget: Budget = field(default_factory=Budget)
    price: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.in_flight <= 1024:
            raise SettingError(f"--in-flight must be 1 to 1024 queries, got {self.in_flight}")
        for name in ("rate", "timeout", "attempts", "refusals", "longest_pause", "largest_answer"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{name} must be above 0 and finite, got {value}. Correct it.")
        if self.price is not None and not self.price >= 0:
            raise SettingError(f"--price must be at least 0 dollars a query, got {self.price}")

    def wait(self, repetition: int, retry_after: float | None) -> float:
        """Return the seconds before a repetition: they double, with jitter.

        Args:
            repetition: of the same copy, counted from 1.
            retry_after: seconds that the vendor requests.
        """
        doubled = self.first_wait * 2.0 ** min(repetition - 1, 100)
        jitter = random.uniform(0, self.first_wait)
        return max(min(doubled, self.longest_wait) + jitter, retry_after or 0.0)


class BudgetGuard:
    """Reserves the price of a query before it is sent, and settles it by the outcome.

    Args:
        price: of a query, in US dollars.
        spent: in earlier sessions of the run.
        hint: the end of the message when the budget is used up.
    """

    def __init__(self, budget: Budget, price: float, spent: Spending, hint: str) -> None:
        self._budget, self._price, self._hint = budget, price, hint
        self.spent, self._reserved = spent, 0

    def reserve(self) -> bool:
        """Reserve the price of a query; False while it depends on one that is in flight.

        Raises:
            BudgetReachedError: another query would exceed the limit.
        """
        reserved = self._reserved + 1
        cost = self.spent.max_cost + reserved * self._price
        if self._budget.allows(self.spent.queries + reserved, cost):
            self._reserved = reserved
            return True
        if self._reserved:
            return False
        raise BudgetReachedError(
            f"The budget of {self._budget} is used up ({self.spent.queries:,} queries, "
            f"${self.spent.max_cost:.4f}). Raise --max-queries or --max-cost. {self._hint}"
        )

    def settle(self, outcome: Outcome) -> None:
        """Replace the reservation of a query by its cost."""
        self._reserved -= 1
        self.spent = self.spent.plus(outcome, self._price)


class TokenBucket:
    """At most ``rate`` queries a second, evenly spaced.

    Args:
        rate: queries a second; None for no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self._step = 0.0 if rate is None else 1.0 / rate
        self._next = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until a query may be sent; ``now`` is in seconds, rising."""
        return max(0.0, self._next - now)

    def take(self, now: float) -> None:
        """Count a query that is sent at ``now``."""
        self._next = max(self._next, now) + self._step


class CircuitBreaker:
    """Opens when no query works any more.

    Args:
        refusals: refusals of the account in a row that open it.
        patience: seconds without any answer that open it, while queries fail.
    """

    def __init__(self, refusals: int, patience: float) -> None:
        self._refusals, self._patience = refusals, patience
        self._refused = 0
        self._failing_since: float | None = None
        self.worked = False
        """Whether any query was answered."""

    def answered(self) -> None:
        """Count an answered query."""
        self.worked, self._refused, self._failing_since = True, 0, None

    def left(self, now: float) -> float:
        """Return the seconds of patience that are left at ``now``."""
        since = now if self._failing_since is None else self._failing_since
        return max(0.0, since + self._patience - now)

    def failed(self, now: float, *, refused: bool) -> bool:
        """Count a query that failed at ``now``, in seconds, rising; return whether it opens."""
        self._refused += refused
        if self._failing_since is None:
            self._failing_since = now
        if refused and (not self.worked or self._refused >= self._refusals):
            return True
        return now - self._failing_since >= self._patience
