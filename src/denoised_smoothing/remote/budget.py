"""The limit on queries and money, which nothing passes."""

from __future__ import annotations

from dataclasses import dataclass

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
