"""What earlier sessions of a run left in its log."""

from __future__ import annotations

from dataclasses import dataclass, field

from denoised_smoothing.remote.records import CopyKey, Outcome, QueryLog, Spending

_HARMLESS = (Outcome.THROTTLED, Outcome.SENT, Outcome.WITHHELD)
"""Ends of attempts that say nothing about the copy."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What was done about a copy that has no vote yet."""

    number: int
    failures: int
    sha256: str


@dataclass
class EarlierAttempts:
    """Votes, attempts without one, what was spent, and what the vendor was like."""

    spent: Spending
    votes: dict[CopyKey, str | None] = field(default_factory=dict)
    tried: dict[CopyKey, Tried] = field(default_factory=dict)
    version: str | None = None
    answers: int = 0
    labelled: bool = False


def read_history(log: QueryLog, spent: Spending) -> EarlierAttempts:
    """The history in a log; ``spent`` is what was spent beside it."""
    history = EarlierAttempts(spent)
    for attempt in log.history():
        history.spent = history.spent.plus(attempt.outcome, attempt.price)
        if attempt.outcome is Outcome.ANSWERED:
            history.answers += 1
            history.version = history.version or attempt.version
            history.labelled = history.labelled or attempt.label is not None
        if attempt.final:
            history.votes[attempt.key] = attempt.label
            continue
        before = history.tried.get(attempt.key)
        failures = (before.failures if before else 0) + (attempt.outcome not in _HARMLESS)
        history.tried[attempt.key] = Tried(attempt.number, failures, attempt.sha256)
    return history
