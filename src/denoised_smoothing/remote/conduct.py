"""How a vendor is treated: pace, patience, repetitions, budget."""

from __future__ import annotations

from dataclasses import dataclass, field

import tenacity

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.budget import Budget


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
