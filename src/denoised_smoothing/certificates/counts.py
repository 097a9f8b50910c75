"""Label counts: how often the base classifier gave each label on the noisy copies of one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import index
from typing import Any, NoReturn

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


class _Votes(dict[int, int]):
    """Votes by label that cannot be changed, so that counts have a hash."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("Votes by label cannot be changed. Add label counts.")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __reduce__(self) -> tuple[type[_Votes], tuple[dict[int, int]]]:
        return _Votes, (dict(self),)


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Votes of the noisy copies of one image in one stage of one run.

    ``votes[k]`` is the number of copies labelled ``k``, for the labels that occurred, ascending;
    ``failed`` the number of copies without a usable label, which stay in ``n`` as votes for no
    class. Adding two of them is chunking, resuming and distribution in one operation.

    Args:
        votes: by label, which may be text as in JSON; or a sequence, with label k at place k.

    Raises:
        CountsError: a label or count is negative; or, on ``+``, runs, images or stages differ.
    """

    run: str
    image_id: str
    stage: Stage
    votes: Mapping[int, int] = _Votes()
    failed: int = 0
    n: int = field(init=False, repr=False, compare=False)
    """Number of copies counted, failed ones included."""

    def __post_init__(self) -> None:
        votes = self.votes
        if not isinstance(votes, _Votes):
            pairs = votes.items() if isinstance(votes, Mapping) else enumerate(votes)
            numbers = [(int(k) if isinstance(k, str) else index(k), index(n)) for k, n in pairs]
            votes = _Votes(sorted((label, n) for label, n in numbers if n))
            object.__setattr__(self, "votes", votes)
        if min([self.failed, *votes, *votes.values()]) < 0:
            raise CountsError(
                f"Labels and counts cannot be negative, got votes={votes}, failed={self.failed}. "
                "Count each copy once, and a copy without a label as failed."
            )
        object.__setattr__(self, "n", sum(votes.values()) + self.failed)

    def of(self, label: int) -> int:
        """Return the number of copies labelled ``label``; 0 for a label that was never seen."""
        return self.votes.get(label, 0)

    def top(self) -> int | None:
        """Return the most frequent label, the smallest of equals; None if no copy has a label."""
        return max(self.votes, key=self.of, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return votes and failed copies as plain values for JSON, where labels are text."""
        return {"counts": {str(label): n for label, n in self.votes.items()}, "failed": self.failed}

    def __add__(self, other: LabelCounts) -> LabelCounts:
        for name in ("run", "image_id", "stage"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise CountsError(
                    f"Label counts of different {name}s cannot be added, got {mine!r} and "
                    f"{theirs!r}. Add counts of one run, image and stage."
                )
        votes = dict(self.votes)
        for label, n in other.votes.items():
            votes[label] = votes.get(label, 0) + n
        return LabelCounts(self.run, self.image_id, self.stage, votes, self.failed + other.failed)

    def followed_by(self, later: LabelCounts | None) -> LabelCounts:
        """Return these copies and those of a later stage of the same run and image, together."""
        if later is None:
            return self
        return self + LabelCounts(later.run, later.image_id, self.stage, later.votes, later.failed)
