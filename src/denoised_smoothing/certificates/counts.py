"""Label counts: how often the base classifier gave each label on the noisy copies of one image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import starmap, zip_longest
from operator import add

from denoised_smoothing.errors import CountsError


class Stage(StrEnum):
    """What a noisy copy is drawn for; copies of different stages have independent noise."""

    SELECTION = "selection"
    """The n0 copies that choose the candidate class (Cohen et al. 2019, section 3.2.2)."""
    ESTIMATION = "estimation"
    """The n copies that bound the candidate's probability."""
    CONTINUATION = "continuation"
    """Copies beyond the cap of an anytime plan, from a run that was continued."""
    PREDICTION = "prediction"
    """The n copies of ``predict`` (Cohen et al. 2019, section 3.2.1)."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Votes of the noisy copies of one image in one stage of one run.

    ``votes[k]`` is the number of copies labelled ``k``; ``failed`` the number of copies for
    which no label could be had, which stay in ``n`` as votes for no class. Adding two of them
    is chunking, resuming and distribution in one operation.

    Raises:
        CountsError: a count is negative; or, on ``+``, runs, images or stages differ.
    """

    run: str
    image_id: str
    stage: Stage
    votes: tuple[int, ...] = ()
    failed: int = 0

    def __post_init__(self) -> None:
        if self.failed < 0 or min(self.votes, default=0) < 0:
            raise CountsError(
                f"label counts cannot be negative, got votes={self.votes}, failed={self.failed}"
            )

    @property
    def n(self) -> int:
        """Number of copies counted, failed ones included."""
        return sum(self.votes) + self.failed

    def of(self, label: int) -> int:
        """Number of copies labelled ``label`` (0 for a label that was never seen)."""
        return self.votes[label] if 0 <= label < len(self.votes) else 0

    def top_other(self, label: int) -> int:
        """Number of copies of the most frequent label but ``label``."""
        return max((n for other, n in enumerate(self.votes) if other != label), default=0)

    def top(self) -> int | None:
        """The most frequent label, the smallest of equals; None if no copy has a label."""
        if not any(self.votes):
            return None
        return max(range(len(self.votes)), key=lambda label: (self.votes[label], -label))

    def __add__(self, other: LabelCounts) -> LabelCounts:
        for name in ("run", "image_id", "stage"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise CountsError(
                    f"cannot add label counts of different {name}s: {mine!r} and {theirs!r}; "
                    "only counts of one run, image and stage belong together"
                )
        return LabelCounts(
            self.run,
            self.image_id,
            self.stage,
            tuple(starmap(add, zip_longest(self.votes, other.votes, fillvalue=0))),
            self.failed + other.failed,
        )

    def followed_by(self, later: LabelCounts | None) -> LabelCounts:
        """These copies and those of a later stage of the same run and image, taken together."""
        if later is None:
            return self
        return self + LabelCounts(later.run, later.image_id, self.stage, later.votes, later.failed)

    def with_votes(self, votes: Iterable[int], failed: int = 0) -> LabelCounts:
        """These counts plus the votes of further copies of the same run, image and stage."""
        return self + LabelCounts(self.run, self.image_id, self.stage, tuple(votes), failed)
