"""The record of a query: which noisy copy, how it ended, and what it cost.

Image id, stage and number name a copy, so that a paid answer is found again in another process.
Needs no torch: the store reads and writes these records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from denoised_smoothing.certificates.counts import Stage


class CopyKey(NamedTuple):
    """A noisy copy of a run: its image, its stage and its number in that stage."""

    image_id: str
    stage: Stage
    copy: int


class Charge(StrEnum):
    """Whether the vendor charges an attempt."""

    YES = "yes"
    NO = "no"
    MAYBE = "maybe"


class Outcome(StrEnum):
    """The end of an attempt."""

    SENT = "sent"
    """Not known: the query is in flight, or the process was killed meanwhile."""
    ANSWERED = "answered"
    """An answer in the vendor's format, with or without a label."""
    GARBLED = "garbled"
    """An answer that is not in the vendor's format."""
    OTHER_MODEL = "other model"
    """An answer of another version of the model than that of the run; it is not counted."""
    REJECTED = "rejected"
    """The vendor does not accept this image."""
    REFUSED = "refused"
    """The vendor refuses the account (key, rights, quota), or does not know a name."""
    THROTTLED = "throttled"
    """Too many queries at a time."""
    FAILED = "failed"
    """The vendor reports an error of its own."""
    TIMEOUT = "timeout"
    """No answer in time."""
    DROPPED = "dropped"
    """The connection ended before the answer."""
    UNREACHABLE = "unreachable"
    """There was no connection."""
    WITHHELD = "withheld"
    """Logged, and then not sent, as everything had to stop."""

    @property
    def charge(self) -> Charge:
        """Whether it is paid for; MAYBE in doubt."""
        if self in (Outcome.ANSWERED, Outcome.GARBLED, Outcome.OTHER_MODEL):
            return Charge.YES
        if self in (Outcome.SENT, Outcome.TIMEOUT, Outcome.DROPPED, Outcome.REJECTED):
            return Charge.MAYBE
        return Charge.NO


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to have a copy classified.

    ``number`` counts the attempts at this copy from 1. ``sha256`` is that of the encoded image,
    which is the same for every attempt. ``price`` is in US dollars, if it is charged. With
    ``final``, the vote of the copy is ``label``, or no class for None; without, another attempt
    follows. ``answer`` is the vendor's, as JSON.
    """

    key: CopyKey
    number: int
    vendor: str
    model: str
    sha256: str
    price: float
    sent: str
    outcome: Outcome = Outcome.SENT
    label: str | None = None
    final: bool = False
    version: str | None = None
    answer: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Spending:
    """The sum of attempts: numbers of attempts, and US dollars.

    ``charged`` attempts were answered. ``doubtful`` ones may have been paid for: no answer in
    time, a lost connection, a process killed with the query in flight, an image not accepted.
    ``free`` ones were not.
    """

    charged: int = 0
    doubtful: int = 0
    free: int = 0
    cost: float = 0.0
    doubtful_cost: float = 0.0

    @property
    def attempts(self) -> int:
        """All attempts."""
        return self.charged + self.doubtful + self.free

    @property
    def queries(self) -> int:
        """Attempts that were, or may have been, paid for."""
        return self.charged + self.doubtful

    @property
    def max_cost(self) -> float:
        """The cost if all doubtful attempts were paid for."""
        return self.cost + self.doubtful_cost

    def plus(self, outcome: Outcome, price: float) -> Spending:
        """Return the sum with one attempt more."""
        yes, maybe = outcome.charge is Charge.YES, outcome.charge is Charge.MAYBE
        return Spending(
            self.charged + yes,
            self.doubtful + maybe,
            self.free + (not yes and not maybe),
            self.cost + price * yes,
            self.doubtful_cost + price * maybe,
        )


def spending_of(attempts: Iterable[Attempt]) -> Spending:
    """Return the sum of the attempts."""
    total = Spending()
    for attempt in attempts:
        total = total.plus(attempt.outcome, attempt.price)
    return total
