"""How much an experiment spends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.plans.anytime import RADII


class ScaleName(StrEnum):
    """How much an experiment spends."""

    QUICK = "quick"
    """An hour or two; a small cap on copies can only lower the numbers, as little training does."""
    FULL = "full"
    """The scale of the paper."""


@dataclass(frozen=True)
class Scale:
    """What an experiment spends.

    Args:
        images: at most so many.
        max_n: cap on the copies of an image.
        training: share of a recipe's steps, where a denoiser must be trained.
    """

    images: int
    max_n: int
    training: float

    @property
    def plan(self) -> Anytime:
        """The sampling plan, which asks about the radii of the paper's tables."""
        return Anytime(RADII, max_n=self.max_n)


SCALES = {
    ScaleName.QUICK: Scale(images=200, max_n=1_000, training=0.02),
    ScaleName.FULL: Scale(images=500, max_n=10_000, training=1.0),
}
