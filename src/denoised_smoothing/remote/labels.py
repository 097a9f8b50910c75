"""From a vendor's answer to one label: a fixed rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from denoised_smoothing.models.labels import normalised


@dataclass(frozen=True, slots=True)
class Scored:
    """A label with the vendor's confidence in it; ``depth`` is its number of ancestors."""

    name: str
    score: float
    depth: int = 0


@dataclass(frozen=True)
class AnswerRule:
    """The top label: the highest score wins.

    Of equal scores the more specific label wins (more ancestors in the vendor's hierarchy), then
    the first in alphabetical order. The rule is a part of the classifier that is certified.

    Args:
        synonyms: names that stand for others; looked up once, after normalisation.
        allowed: the only labels that count; None for any.
    """

    synonyms: Mapping[str, str] = field(default_factory=dict)
    allowed: Sequence[str] | None = None

    def __post_init__(self) -> None:
        pairs = {normalised(name): normalised(to) for name, to in self.synonyms.items()}
        object.__setattr__(self, "synonyms", dict(sorted(pairs.items())))
        if self.allowed is not None:
            names = tuple(dict.fromkeys(self.name(name) for name in self.allowed))
            object.__setattr__(self, "allowed", names)

    def name(self, name: str) -> str:
        """Return the name after normalisation and synonyms."""
        plain = normalised(name)
        return self.synonyms.get(plain, plain)

    def label(self, scored: Iterable[Scored]) -> str | None:
        """Return the label of an answer; None if no label of it counts."""
        named = [(-label.score, -label.depth, self.name(label.name)) for label in scored]
        if self.allowed is not None:
            named = [label for label in named if label[2] in self.allowed]
        return min(named)[2] if named else None
