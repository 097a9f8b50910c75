"""From a vendor's answer to one label: a fixed rule."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from denoised_smoothing.models.labels import is_number, normalised

FIRST_NUMBER = 2**48
"""Numbers that are hashes of labels are at least this, and below twice this."""
_NO_CLASS = ("", "-1", "nan")
"""Texts that servers write where they have no class."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A label with the vendor's confidence in it, both as the vendor sent them.

    ``depth`` is its number of ancestors. :meth:`AnswerRule.label` decides what counts.
    """

    name: Any
    score: Any
    depth: int = 0


def numbers_of(name: str) -> Iterator[int]:
    """Yield numbers for a label that no list numbers; the first one that is free is its number.

    They depend on the text alone, so a label has one number in all runs and shards, in whatever
    order answers arrive. A label of digits is its own number, any other one a hash below 2^49,
    which JSON keeps exactly.
    """
    if is_number(name) and str(int(name)) == name and int(name) < FIRST_NUMBER:
        yield int(name)
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    yield from count(FIRST_NUMBER + int.from_bytes(digest, "big"))


def is_label(name: object) -> bool:
    """Return whether a value in an answer names a class."""
    if not isinstance(name, str) or normalised(name) in _NO_CLASS:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in name)  # half a character


def _is_number(score: object) -> bool:
    if isinstance(score, float):
        return not math.isnan(score)
    return isinstance(score, int) and not isinstance(score, bool)


@dataclass(frozen=True)
class AnswerRule:
    """The top label: the highest score wins.

    Only text is a label: no number, no truth value, no null, and no text that is empty, ``-1``,
    ``nan`` or not Unicode. If a score is not a number, the order of the labels is not known, and
    the answer has none.

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
        found = list(scored)
        if not all(_is_number(label.score) for label in found):
            return None
        named = [
            (-label.score, -label.depth, self.name(label.name))
            for label in found
            if is_label(label.name)
        ]
        if self.allowed is not None:
            named = [label for label in named if label[2] in self.allowed]
        return min(named)[2] if named else None
