"""Label counts: how often the base classifier gave each label on the noisy copies of one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import starmap, zip_longest
from operator import add

from denoised_smoothing.errors import CountsError


class Stage(StrEnum):
    """The purpose of a noisy copy; copies of different stages have independent noise."""

    SELECTION = "selection"
    """The n0 copies that choose the candidate class (Cohen et al. 2019, section 3.2.2)."""
    ESTIMATION = "estimation"
    """The n copies that bound the candidate's probability."""
    CONTINUATION = "continuation"
    """Copies beyond the cap of an anytime plan, from a run that was extended."""
    PREDICTION = "prediction"
    """The n copies of ``predict`` (Cohen et al. 2019, section 3.2.1)."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Votes of the noisy copies of one image in one stage of one run.

    ``votes[k]`` is the number of copies labelled ``k``; ``failed`` the number of copies without a
    usable label, which stay in ``n`` as votes for no class. Adding two of them is chunking,
    resuming and distribution in one operation.

    Raises:
        CountsError: a count is negative; or, on ``+``, runs, images or stages differ.
    """

    run: str
    image_id: str
    stage: Stage
    votes: tuple[int, ...] = ()
    failed: int = 0
    n: int = field(init=False, repr=False, compare=False)
    """Number of copies counted, failed ones included."""

    def __post_init__(self) -> None:
        if self.failed < 0 or min(self.votes, default=0) < 0:
            raise CountsError(
                f"Label counts cannot be negative, got votes={self.votes}, failed={self.failed}. "
                "Count each copy once."
            )
        object.__setattr__(self, "n", sum(self.votes) + self.failed)

    def of(self, label: int) -> int:
        """Return the number of copies labelled ``label``; 0 for a label that was never seen."""
        return self.votes[label] if 0 <= label < len(self.votes) else 0

    def top(self) -> int | None:
        """Return the most frequent label, the smallest of equals; None if no copy has a label."""
        return self.votes.index(max(self.votes)) if any(self.votes) else None

    def __add__(self, other: LabelCounts) -> LabelCounts:
        for name in ("run", "image_id", "stage"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise CountsError(
                    f"Label counts of different {name}s cannot be added, got {mine!r} and "
                    f"{theirs!r}. Add counts of one run, image and stage."
                )
        votes = tuple(starmap(add, zip_longest(self.votes, other.votes, fillvalue=0)))
        return LabelCounts(self.run, self.image_id, self.stage, votes, self.failed + other.failed)

    def followed_by(self, later: LabelCounts | None) -> LabelCounts:
        """Return these copies and those of a later stage of the same run and image, together."""
        if later is None:
            return self
        return self + LabelCounts(later.run, later.image_id, self.stage, later.votes, later.failed)
