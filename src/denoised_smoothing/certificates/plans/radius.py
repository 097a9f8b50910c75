"""The radius plan: nearly the radius of a fixed n, with fewer copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from denoised_smoothing.certificates.bounds import check_copies
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans.fixed import Counts, FixedBudget
from denoised_smoothing.errors import SettingError

SIZES = 60
"""Numbers of copies that are considered, in geometric steps."""
SMALLEST = 20
LARGEST = 10**10
"""Maximum of ``of_n``: for larger numbers the choice of n takes minutes."""
TOLERANCE = 1e-9
"""Of comparisons of radii, so that the last bits of a library do not choose n."""


@dataclass(frozen=True)
class RadiusTarget(SamplingPlan):
    """A pilot chooses the candidate and how many fresh copies certify it.

    The least n whose expected radius is ``share`` of the one that ``of_n`` copies would give,
    for a failure probability that follows the posterior of the pilot (Jeffreys prior). The
    pilot is not used again, so the Clopper-Pearson bound of the n fresh copies holds.

    Args:
        of_n: the fixed number of copies to compare with, and the maximum.
        share: of the radius, in (0, 1).
        n0: copies of the pilot; by default a tenth of ``of_n``, at least 100.

    Raises:
        SettingError: an argument is out of its range.
    """

    kind: ClassVar[str] = "radius"
    of_n: int = 10_000
    share: float = 0.95
    n0: int = 0

    def __post_init__(self) -> None:
        check_copies("of_n", self.of_n)
        if self.of_n > LARGEST:
            raise SettingError(f"of_n must be at most {LARGEST:,}, got {self.of_n}. Use fewer.")
        if not 0.0 < self.share < 1.0:
            raise SettingError(
                f"share must lie strictly between 0 and 1, got {self.share!r}. Use a share of the "
                "radius, such as 0.95."
            )
        if self.n0 == 0:
            object.__setattr__(self, "n0", max(100, self.of_n // 10))
        check_copies("n0", self.n0)

    def n(self, counts: Counts, parameters: SmoothingParameters) -> int | None:
        """Return the copies of the estimation stage; None until the pilot is complete."""
        pilot = counts.get(Stage.SELECTION)
        if pilot is None or pilot.n < self.n0:
            return None
        candidate = pilot.top()
        successes = 0 if candidate is None else pilot.of(candidate)
        return _copies(successes, self.n0, self.of_n, self.share, parameters.alpha)

    def targets(self, counts: Counts, parameters: SmoothingParameters) -> dict[Stage, int]:
        n = self.n(counts, parameters)
        if n is None:
            return {Stage.SELECTION: self.n0, Stage.ESTIMATION: 0}
        return FixedBudget(self.n0, n).targets(counts, parameters)

    def certificate(self, counts: Counts, parameters: SmoothingParameters) -> Certificate:
        n = self.n(counts, parameters) or self.of_n  # a fixed budget refuses a missing pilot
        return replace(FixedBudget(self.n0, n).certificate(counts, parameters), plan=self)

    def recertify(
        self, counts: Counts, parameters: SmoothingParameters, alpha: float
    ) -> Certificate:
        """Return what the counts prove at a smaller alpha, as a fixed budget of the n drawn.

        The pilot would choose another n at that alpha; the bound holds for the one it chose.
        """
        drawn = FixedBudget(self.n0, self.n(counts, parameters) or self.of_n)
        return drawn.recertify(counts, parameters, alpha)

    def event_bound(
        self,
        counts: Counts,
        occurred: Callable[[LabelCounts], int],
        alpha: float,
        parameters: SmoothingParameters,
    ) -> float:
        """Return the bound of the fixed number of copies that the pilot chose."""
        n = self.n(counts, parameters) or self.of_n
        return FixedBudget(self.n0, n).event_bound(counts, occurred, alpha, parameters)

    def most_calls(self) -> int:
        return self.n0 + self.of_n


@lru_cache(maxsize=65536)
def _copies(successes: int, n0: int, of_n: int, share: float, alpha: float) -> int:
    """Return the least n whose expected radius is ``share`` of that of ``of_n`` copies."""
    sizes = np.unique(np.geomspace(min(SMALLEST, of_n), of_n, SIZES).round())
    radii = _expected_radii(sizes, successes, n0, alpha)
    return int(sizes[np.argmax(radii >= share * radii[-1] - TOLERANCE)])


def _expected_radii(
    n: npt.NDArray[np.float64], successes: int, n0: int, alpha: float
) -> npt.NDArray[np.float64]:
    """Return the expected radius over sigma [N] after each of ``n`` [N] copies, given a pilot.

    The mean over quantiles of the posterior of q, and of the failures given q.
    """
    from scipy import special, stats

    failures = n0 - successes
    q = special.betaincinv(failures + 0.5, successes + 0.5, (np.arange(15) + 0.5) / 15)
    chances = (np.arange(9) + 0.5) / 9
    drawn = stats.binom.ppf(chances[:, None, None], n, q[:, None])
    with np.errstate(invalid="ignore"):
        bound = special.betainccinv(drawn + 1, n - drawn, alpha)
    bound = np.where(drawn >= n, 1.0, bound)
    return np.asarray(-special.ndtri(np.minimum(bound, 0.5)).mean(axis=(0, 1)))
