"""Queries to a classifier behind a wire: what is noted of each attempt, and where.

A copy is named by image id, stage and number, so that an answer, once bought, is found again
whatever became of the process. Needs no torch: the store reads and writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from denoised_smoothing.certificates.counts import Stage


class CopyKey(NamedTuple):
    """Which noisy copy of a run: its image, its stage and its number in that stage."""

    image_id: str
    stage: Stage
    copy: int


class Charge(StrEnum):
    """Whether the vendor asks money for an attempt."""

    YES = "yes"
    NO = "no"
    MAYBE = "maybe"


class Outcome(StrEnum):
    """What became of an attempt."""

    SENT = "sent"
    """Nothing is known: on its way, or the process was killed meanwhile."""
    ANSWERED = "answered"
    """An answer in the vendor's format, with or without a label."""
    GARBLED = "garbled"
    """An answer that is not in the vendor's format."""
    OTHER_MODEL = "other model"
    """An answer of another version of the model than that of the run; it is not counted."""
    REJECTED = "rejected"
    """The vendor does not take this image."""
    REFUSED = "refused"
    """The vendor refuses the account: key, rights, quota, or a name that it does not know."""
    THROTTLED = "throttled"
    """Too many queries at a time."""
    FAILED = "failed"
    """The vendor reports an error of its own."""
    TIMEOUT = "timeout"
    """No answer in time."""
    DROPPED = "dropped"
    """The connection ended before the answer."""
    UNREACHABLE = "unreachable"
    """No connection came about."""
    WITHHELD = "withheld"
    """Noted, and then not sent, as everything was to stop."""

    @property
    def charge(self) -> Charge:
        """Whether it is paid for; with doubt, MAYBE."""
        if self in (Outcome.ANSWERED, Outcome.GARBLED, Outcome.OTHER_MODEL):
            return Charge.YES
        if self in (Outcome.SENT, Outcome.TIMEOUT, Outcome.DROPPED, Outcome.REJECTED):
            return Charge.MAYBE
        return Charge.NO


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to have a copy classified.

    ``number`` counts the attempts at this copy from 1. ``sha256`` is that of the bytes of the
    encoded image, which are the same for every attempt. ``price`` is in US dollars, if it is
    charged. With ``final``, the vote of the copy is ``label``, or no class where that is None;
    else another attempt follows. ``answer`` is the vendor's, as JSON.
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
    """What attempts came to: numbers of attempts, and US dollars.

    ``charged`` attempts were answered; ``doubtful`` ones may have been paid for (no answer in
    time, a lost connection, on their way when the process was killed, an image not taken);
    ``free`` ones were not.
    """

    charged: int = 0
    doubtful: int = 0
    free: int = 0
    cost: float = 0.0
    doubtful_cost: float = 0.0

    @property
    def attempts(self) -> int:
        """All of them."""
        return self.charged + self.doubtful + self.free

    @property
    def queries(self) -> int:
        """Attempts that were, or may have been, paid for."""
        return self.charged + self.doubtful

    @property
    def most(self) -> float:
        """What it cost at most."""
        return self.cost + self.doubtful_cost

    def plus(self, outcome: Outcome, price: float) -> Spending:
        """With one attempt more."""
        yes, maybe = outcome.charge is Charge.YES, outcome.charge is Charge.MAYBE
        return Spending(
            self.charged + yes,
            self.doubtful + maybe,
            self.free + (not yes and not maybe),
            self.cost + price * yes,
            self.doubtful_cost + price * maybe,
        )


def spending_of(attempts: Iterable[Attempt]) -> Spending:
    """What the attempts came to."""
    total = Spending()
    for attempt in attempts:
        total = total.plus(attempt.outcome, attempt.price)
    return total
