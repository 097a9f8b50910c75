"""The comparison of two runs on the same images, image by image."""

from __future__ import annotations

from dataclasses import dataclass

from denoised_smoothing.certificates.bounds import binomial_test, check_trials
from denoised_smoothing.certificates.population import (
    CONFIDENCE,
    level_of,
    share_lower,
    share_upper,
)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The difference of two success rates on the same images.

    ``lower`` and ``upper`` enclose the rate of the first less that of the second, in [-1, 1];
    ``p_value`` is that of the exact McNemar test, and ``level`` the one it is compared with. Both
    are adjusted for the number of comparisons.
    """

    both: int
    only_first: int
    only_second: int
    images: int
    lower: float
    upper: float
    p_value: float
    level: float

    @property
    def difference(self) -> float:
        """The observed rate of the first less that of the second."""
        return (self.only_first - self.only_second) / self.images

    @property
    def beyond_chance(self) -> bool:
        """Whether the test rejects that both succeed alike."""
        return self.p_value <= self.level


def paired_difference(
    both: int,
    only_first: int,
    only_second: int,
    images: int,
    confidence: float = CONFIDENCE,
    comparisons: int = 1,
) -> PairedDifference:
    """Compare two success rates on the same images.

    The exact McNemar test (McNemar 1947): the images on which one alone succeeds are tossed
    coins if each image succeeds as likely with one as with the other. The interval for the
    difference is that of the bounds on both discordant proportions, each at half of one minus
    the level; the proofs are in ``docs/statistics.md``.

    Args:
        both, only_first, only_second: images on which both succeed, or one alone.
        images: all of them.
        confidence: that all comparisons hold together, at least 0.75.
        comparisons: their number (Bonferroni): the p-value is multiplied by it.

    Raises:
        SettingError: an argument is out of its range.
    """
    for number in (both, only_first, only_second, both + only_first + only_second):
        check_trials(number, images)
    tail = level_of(confidence, comparisons) / 4.0

    def interval(successes: int) -> tuple[float, float]:
        return share_lower(successes, images, tail), share_upper(successes, images, tail)

    (low_first, high_first), (low_second, high_second) = map(interval, (only_first, only_second))
    return PairedDifference(
        both,
        only_first,
        only_second,
        images,
        lower=low_first - high_second,
        upper=high_first - low_second,
        p_value=min(1.0, comparisons * binomial_test(only_first, only_second)),
        level=level_of(confidence),
    )
