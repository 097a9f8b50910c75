"""Prediction sets that hold the true label with a stated coverage, also of changed images.

Split conformal prediction, made robust by Gaussian smoothing: an event of probability p on noisy
copies of an image has, on those of an image within distance r, at least the probability

    g(p) = Phi(Phi^-1(p - e) - r / sigma) - e,    0 where that is negative or p <= e

(Cohen et al. 2019, Theorem 1; e bounds the error of the noise law, once at each image). The two
rules follow RCP1 (Zargarbashi et al. 2025, "One Sample is Enough to Make Conformal Prediction
Robust") and BinCP (Zargarbashi & Bojchevski 2025, "Robust Conformal Prediction with a Single
Binary Certificate"). Proofs are in docs/prediction-sets.md. Coverage is an average over the
calibration images, the test image and the noise of both, not a statement about one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from denoised_smoothing.certificates.bounds import check_copies
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.radii import check_sigma, short_down
from denoised_smoothing.errors import SettingError

LOSS_SHARE = 0.1
"""Share of the miscoverage that is spent on the spread of the numbers of votes."""
_CELLS = 10_000
_ROUNDING = 1e-12
"""Relative error of a float product, so that 0.1 of 10 images is one image."""
Floats = npt.NDArray[np.float64]


class Evidence(StrEnum):
    """The values by which the labels of a set are chosen."""

    SCORES = "scores"
    """The classifier's log-probabilities on noisy copies."""
    VOTES = "votes"
    """The number of noisy copies that get a label."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Coverage and radius that prediction sets must hold, and the noise.

    Args:
        coverage: probability that a set holds the true label, in (0, 1).
        radius: largest L2 change of the image, in pixel values in [0, 1], at least 0.
        sigma: standard deviation of the noise, in the same units.
        error: e, bound on the total variation distance of the noise of a copy from Gaussian noise,
            in [0, 1).

    Raises:
        SettingError: a number is out of its range.
    """

    coverage: float
    radius: float
    sigma: float
    error: float = 0.0

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if not isinstance(self.coverage, Real) or not 0.0 < self.coverage < 1.0:
            raise SettingError(
                f"coverage must lie strictly between 0 and 1, got {self.coverage!r}. Use the "
                "probability that a set holds the true label, such as 0.9."
            )
        if not (isinstance(self.radius, Real) and 0.0 <= self.radius < math.inf):
            raise SettingError(
                f"radius must be a length of at least 0, got {self.radius!r}. Use an L2 distance "
                "in pixel values in [0, 1], such as 0.25."
            )
        if not isinstance(self.error, Real) or not 0.0 <= self.error < 1.0:
            raise SettingError(
                f"error must be at least 0 and below 1, got {self.error!r}. Use the total "
                "variation distance of the noise from Gaussian noise, or 0.0."
            )

    @property
    def miss(self) -> float:
        """The allowed probability that a set lacks the true label, 1 - coverage."""
        return 1.0 - self.coverage

    def miss_of_copies(self) -> float:
        """Return how often one copy of an unchanged image may miss; 0.0 or less for never.

        1 - g^-1(coverage) = Phi(Phi^-1(1 - coverage - e) - r / sigma) - e.
        """
        from scipy import special

        point = float(special.ndtri(max(self.miss - self.error, 0.0)))
        return float(special.ndtr(point - self.radius / self.sigma)) - self.error

    def worst(self, p: Floats) -> Floats:
        """Return g(p), the least probability at distance ``radius`` of events of p here."""
        from scipy import special

        points = special.ndtri(np.maximum(p - self.error, 0.0)) - self.radius / self.sigma
        least: Floats = np.maximum(special.ndtr(points) - self.error, 0.0)
        return least


@dataclass(frozen=True, slots=True)
class SetRule:
    """A calibrated rule: the labels of a set are those whose value reaches the threshold.

    Args:
        evidence: what the values are.
        demand: coverage, radius and noise.
        threshold: least log-probability, or least number of votes.
        copies: n, noisy copies of an image.
        needed: t; of scores, the t-th largest of n is the value of a label. Votes needed, else.
        images: N, the number of calibration images.
        rank: j; the threshold comes from the j-th smallest value of a true label.
    """

    evidence: Evidence
    demand: Demand
    threshold: float
    copies: int
    needed: int
    images: int
    rank: int

    @property
    def clean_coverage(self) -> float:
        """The coverage that is proven for images that nobody changed, 1 - j / (N + 1)."""
        return 1.0 - self.rank / (self.images + 1)

    def labels(self, values: Mapping[int, int | float]) -> tuple[int, ...]:
        """Return the labels of the set, the largest value first and of equals the lowest label.

        Args:
            values: the value of each label; a label without one has no votes.
        """
        chosen = [label for label, value in values.items() if value >= self.threshold]
        return tuple(sorted(chosen, key=lambda label: (-values[label], label)))

    @property
    def statement(self) -> str:
        """The claim and its conditions, for a reader."""
        coverage, radius = short_down(self.demand.coverage), short_down(self.demand.radius)
        return (
            f"Over images like the {self.images:,} of the calibration and over the noise, a set "
            f"holds the true label with probability {coverage}, also where somebody "
            f"who does not know the noise changed the image by at most {radius} in "
            "L2. This is an average, not a statement about one image."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "coverage": self.demand.coverage,
            "radius": self.demand.radius,
            "sigma": self.demand.sigma,
            "evidence": self.evidence.value,
            "threshold": self.threshold,
            "copies": self.copies,
            "needed": self.needed,
            "calibration_images": self.images,
            "rank": self.rank,
            "coverage_unchanged": self.clean_coverage,
            "statement": self.statement,
        }


@dataclass(frozen=True, slots=True)
class PredictionSet:
    """The labels that one image gets by a calibrated rule.

    Args:
        labels: the set, the most likely label first; empty where no value reaches the threshold.
        values: of these labels, log-probabilities or numbers of votes.
        rule: the calibrated rule.
        parameters: noise, seed and engine of the image's copies; alpha is 1 - coverage.
        calibration: the images of the calibration, for a reader.
    """

    labels: tuple[int, ...]
    values: tuple[int | float, ...]
    rule: SetRule
    parameters: SmoothingParameters
    calibration: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        parameters = self.parameters
        return {
            "labels": list(self.labels),
            "values": list(self.values),
            **self.rule.to_dict(),
            "calibration": self.calibration,
            "noise": parameters.noise.value,
            "engine": parameters.engine and parameters.engine.value,
            "precision": parameters.precision and parameters.precision.value,
            "notes": list(parameters.notes),
            "seed": str(parameters.seed),
        }

    def __str__(self) -> str:
        return f"labels {', '.join(map(str, self.labels)) or 'none'}. {self.rule.statement}"


def fewest_images(miss: float) -> int:
    """Return the smallest calibration set of which some rank has at most this miss rate.

    The N with 1 / (N + 1) <= miss.
    """
    return max(1, math.ceil(1.0 / miss * (1.0 - _ROUNDING)) - 1)


def score_rank(images: int, copies: int, demand: Demand) -> int:
    """Return j of :func:`calibrate_scores` for N images, before their scores are known.

    Raises:
        SettingError: the images are too few; says how many are needed.
    """
    miss = demand.miss_of_copies() if copies == 1 else (1.0 - LOSS_SHARE) * demand.miss
    return _rank(miss, images, demand)


def calibrate_scores(true_scores: npt.ArrayLike, demand: Demand) -> SetRule:
    """Return the rule for scores of n noisy copies an image.

    One copy (RCP1): the threshold is the j-th smallest score of a true label, j the largest with
    j / (N + 1) <= Phi(Phi^-1(1 - coverage - e) - r / sigma) - e. A fresh copy of an unchanged
    image misses with probability at most j / (N + 1), and Jensen's inequality bounds that of a
    changed one, as 1 - g(1 - miss) is concave.

    Several copies (BinCP): a copy votes for every label whose score reaches the threshold. It is
    the j-th smallest of the values that c of the n scores of a true label reach. Of a changed
    image :func:`vote_threshold` copies reach it. c = n Phi(r / (2 sigma)) is fixed in advance;
    there g has slope 1, so that both counts have the same spread.

    Args:
        true_scores: [N, n], of the true label on n noisy copies of each image, each with its own
            noise; higher is more likely.

    Raises:
        SettingError: a score is NaN, the images are too few, or the copies; says how many are
            needed.
    """
    from scipy import special

    scores = np.asarray(true_scores, dtype=np.float64)
    images, n = scores.shape
    if np.isnan(scores).any():
        raise SettingError(
            f"Scores must be numbers, got NaN for {np.isnan(scores).any(axis=1).sum():,} of "
            f"{images:,} images. Find the cause in the classifier."
        )
    rank = score_rank(images, n, demand)
    least = needed = 1
    if n > 1:
        least = max(1, round(n * float(special.ndtr(demand.radius / demand.sigma / 2.0))))
        needed = vote_threshold(least, n, demand.miss - rank / (images + 1), demand)
    if needed == 0:
        raise SettingError(
            f"{n} noisy copies of an image are too few for coverage {demand.coverage:g} within "
            f"radius {demand.radius:g}. Use 100 copies, or 1."
        )
    reached = np.sort(scores, axis=1)[:, -least]
    threshold = float(np.sort(reached)[rank - 1])
    return SetRule(Evidence.SCORES, demand, threshold, n, needed, images, rank)


def calibrate_votes(true_votes: Sequence[int], n: int, demand: Demand) -> SetRule:
    """Return the rule for votes of n noisy copies an image (BinCP, with exact binomial tails).

    With c the j-th smallest number of votes for a true label, j / (N + 1) at most 0.9 of the
    miscoverage, the threshold is :func:`vote_threshold` for the loss that is left.

    Args:
        true_votes: of n noisy copies of each of N images, the number with the true label.
        n: noisy copies of each image, fixed in advance.

    Raises:
        SettingError: a number of votes is not in 0 to n, the images are too few, or the set would
            hold every label; says what to change.
    """
    check_copies("n", n)
    votes = sorted(true_votes)
    if votes and not 0 <= votes[0] <= votes[-1] <= n:
        raise SettingError(
            f"Numbers of votes must lie between 0 and n = {n}, got {votes[0]} to {votes[-1]}. "
            "Count the same number of copies of every image."
        )
    rank = _rank((1.0 - LOSS_SHARE) * demand.miss, len(votes), demand)
    least, loss = votes[rank - 1], demand.miss - rank / (len(votes) + 1)
    threshold = vote_threshold(least, n, loss, demand)
    if threshold == 0:
        raise SettingError(
            f"Sets of coverage {demand.coverage:g} within radius {demand.radius:g} would hold "
            f"every label: the true label has at most {least} of {n} votes on {rank} of "
            f"{len(votes):,} calibration images. Use a smaller radius or coverage, more votes "
            "(--n0 of the run), or scores of a data set (--calibration-data)."
        )
    return SetRule(Evidence.VOTES, demand, threshold, n, threshold, len(votes), rank)


def vote_threshold(least: int, n: int, loss: float, demand: Demand) -> int:
    """Return the most votes t that a changed image reaches, but for a probability of ``loss``.

    The largest t with P(Bin(n, g(p)) >= t) >= P(Bin(n, p) >= least) - loss for every p. It
    replaces the two confidence intervals of BinCP: no probability is estimated.

    For every p between p_k and p_(k+1), P(Bin(n, p_k) >= least) = k / 10,000, both sides are
    bounded by their values at the ends, as both rise with p. So nothing is missed between points.

    Args:
        least: c, votes that an unchanged image reaches, 0 to n.
        n: noisy copies of the image.
        loss: in (0, 1).

    Returns:
        t, 0 to ``least``.
    """
    from scipy import special

    if least == 0:
        return 0
    levels = np.arange(_CELLS) / _CELLS
    p = special.betaincinv(least, n - least + 1, levels)
    shifted = demand.worst(p)
    needed = levels + 1.0 / _CELLS - loss
    low, high = 0, least + 1  # low is enough, high is not
    while high - low > 1:
        middle = (low + high) // 2
        reached = special.betainc(middle, n - middle + 1, shifted)
        low, high = (middle, high) if (reached >= needed).all() else (low, middle)
    return low


def _rank(miss: float, images: int, demand: Demand) -> int:
    """Return the largest j with j / (N + 1) <= miss.

    Raises:
        SettingError: it is 0; says how many images are needed.
    """
    rank = math.floor(max(miss, 0.0) * (images + 1) * (1.0 + _ROUNDING))
    if rank >= 1:
        return min(rank, images)
    wanted = f"Coverage {demand.coverage:g} within radius {demand.radius:g} at sigma"
    if miss <= 0.0:
        raise SettingError(
            f"{wanted} {demand.sigma:g} cannot be proven by any number of calibration images. "
            "Use a smaller radius or coverage, or a larger sigma."
        )
    raise SettingError(
        f"{wanted} {demand.sigma:g} needs at least {fewest_images(miss):,} calibration images, got "
        f"{images:,}. Use more images, a smaller radius or coverage, or a larger sigma."
    )
