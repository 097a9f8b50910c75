"""The cost of a run before it starts: least copies, expected calls, estimates from a pilot.

The expectations are exact: the number of successes is followed from one decision to the next,
where a step is a convolution with a binomial law, and what is decided leaves the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from denoised_smoothing.certificates.bounds import checkpoint_step
from denoised_smoothing.certificates.confidence_sequence import (
    MIXTURE_SHARE,
    Boundary,
    check_anytime_alpha,
    least_for_clopper_pearson,
    log_evidence,
)
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.radii import check_radii, failure_for_radius
from denoised_smoothing.errors import SettingError

PROBABILITIES = (0.5, 0.7, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)
"""Assumed probabilities of the candidate class that a plan is shown for."""
CONFIDENCE = 0.95
"""Of the intervals of an estimate."""
MOST_COPIES = 1 << 60
"""A number of copies beyond it counts as none."""

Floats = npt.NDArray[np.float64]


class Bound(StrEnum):
    """The bounds on the failure probability that plans rest on."""

    CLOPPER_PEARSON = "clopper-pearson"
    """For a number of copies that was fixed in advance."""
    MIXTURE = "mixture"
    """Holds at all times at once."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expected cost of one image.

    Args:
        calls: the mean number of classifier calls, those for selection included.
        certified: the probability that the radius is certified.
    """

    calls: float
    certified: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """An amount for a whole data set, from some of its images.

    Args:
        total: the expected amount.
        error: its standard error.
        low, high: the interval of 95 % confidence, by Student's t.
    """

    total: float
    error: float
    low: float
    high: float


def least_copies(bound: Bound, parameters: SmoothingParameters, radius: float) -> int | None:
    """Return the least n whose copies certify ``radius`` if not one of them fails.

    Args:
        bound: on the failure probability, at the whole alpha of ``parameters``.
        parameters: sigma, alpha, and the noise whose error the radius carries.
        radius: L2 radius in pixel values in [0, 1], at least 0.

    Returns:
        n; None where no number of copies certifies it.

    Raises:
        SettingError: the radius or alpha is out of its range.
    """
    [radius] = check_radii((radius,))
    q0 = failure_for_radius(parameters.sigma, radius, parameters.error)
    if q0 <= 0.0:
        return None
    if bound is Bound.CLOPPER_PEARSON:  # 1 - alpha^(1/n) <= q0
        n = math.log(parameters.alpha) / math.log1p(-q0)
        return math.ceil(n * (1.0 - 1e-14)) if n <= MOST_COPIES else None
    wanted = -math.log(check_anytime_alpha(parameters.alpha))
    low, high = 0, 1
    while log_evidence(high, 0, q0) < wanted:
        low, high = high, 2 * high
        if high > MOST_COPIES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_evidence(middle, 0, q0) >= wanted else (middle, high)
    return high


def least_cap(plan: Anytime, parameters: SmoothingParameters, radius: float) -> int | None:
    """Return the least ``max_n`` with which ``plan`` can certify ``radius``, or None."""
    alpha = parameters.alpha if plan.n0 else parameters.alpha / 2
    mixture = replace(parameters, alpha=MIXTURE_SHARE * alpha)
    look = replace(parameters, alpha=(1 - MIXTURE_SHARE) * alpha)
    least = (
        least_copies(Bound.MIXTURE, mixture, radius),
        least_copies(Bound.CLOPPER_PEARSON, look, radius),
    )
    return min((n for n in least if n is not None), default=None)


def expected_calls(
    plan: Anytime | FixedBudget, parameters: SmoothingParameters, radius: float, p: float
) -> Expectation:
    """Return the expected calls and the chance to certify one radius, for an assumed p; exact.

    The candidate is taken to be the class of probability p; for a plan that selects on fresh
    copies that is the one they choose, and for one that does not the one that is the most frequent.

    Args:
        plan: an anytime plan, for ``radius`` alone whatever its own radii are, or a fixed
            budget with the early end of images that will abstain.
        parameters: sigma, alpha, and the noise.
        radius: L2 radius in pixel values in [0, 1], at least 0.
        p: probability of the candidate class, in [0, 1].

    Raises:
        SettingError: an argument is out of its range, or the fixed budget is two-sided.
    """
    if not 0.0 <= p <= 1.0:
        raise SettingError(f"p must lie in [0, 1], got {p!r}. Use a probability of a class.")
    [radius] = check_radii((radius,))
    if isinstance(plan, FixedBudget):
        return _of_fixed(plan, parameters, radius, p)
    found = replace(plan, radii=(radius,)).boundaries(parameters)
    if not found:  # the plan draws nothing where nothing can be certified
        return Expectation(0.0, 0.0)
    calls, certified = _until_decided(found[0][1], p)
    return Expectation(plan.n0 + calls, certified)


def estimate(amounts: Sequence[float], images: int) -> Estimate:
    """Return the total over ``images`` images, of which some were measured.

    The measured ones are a random sample of them: the standard error of the total is
    s * sqrt(N (N - n) / n), so nothing is uncertain once all are measured.

    Args:
        amounts: calls, or seconds, of each image of the pilot; at least two.
        images: N, images of the whole data set, those of the pilot included.

    Raises:
        SettingError: there are too few amounts, or fewer images than amounts.
    """
    from scipy import stats

    n = len(amounts)
    if n < 2:
        raise SettingError(
            f"An estimate needs a pilot of at least 2 images, got {n}. Certify more of them."
        )
    if images < n:
        raise SettingError(
            f"images must include the {n} images of the pilot, got {images}. Use the number of "
            "images of the whole data set."
        )
    total = images * float(np.mean(amounts))
    error = float(np.std(amounts, ddof=1)) * math.sqrt(images * (images - n) / n)
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Estimate(total, error, max(total - width, float(sum(amounts))), total + width)


def _of_fixed(
    plan: FixedBudget, parameters: SmoothingParameters, radius: float, p: float
) -> Expectation:
    from scipy import special

    if plan.two_sided:
        raise SettingError(
            "The calls of a two-sided budget depend on the runner-up too. Use two_sided=False."
        )
    q0 = failure_for_radius(parameters.sigma, radius, parameters.error)
    step = checkpoint_step(plan.n)
    had = np.append(np.arange(step, plan.n, step), plan.n).astype(np.int64)
    # It ends early where not even successes alone would prevent an abstention.
    abstains = least_for_clopper_pearson(plan.n, 0.5, parameters.alpha) - (plan.n - had) - 1
    give_up = np.append(abstains[:-1], plan.n)
    calls, _ = _until_decided(Boundary(had, had + 1, give_up), p)
    least = least_for_clopper_pearson(plan.n, q0, parameters.alpha) if q0 > 0.0 else plan.n + 1
    certified = float(special.bdtr(plan.n - least, plan.n, 1.0 - p)) if least <= plan.n else 0.0
    return Expectation(plan.n0 + calls, certified)


def _until_decided(judged: Boundary, p: float) -> tuple[float, float]:
    """Return the mean copies until the decision, and the probability that it is to certify."""
    from scipy import signal, stats

    undecided: Floats = np.ones(1)  # probabilities of ``lowest``, ``lowest`` + 1, ... successes
    lowest, had, calls, certified = 0, 0, 0.0, 0.0
    for n, enough, too_few in zip(
        judged.checkpoints.tolist(), judged.certify.tolist(), judged.give_up.tolist(), strict=True
    ):
        calls += float(undecided.sum()) * (n - had)
        pmf = stats.binom.pmf(np.arange(n - had + 1), n - had, p)
        drawn = signal.convolve(undecided, pmf).clip(0.0)  # by FFT where that is faster
        first = max(0, too_few + 1 - lowest)
        last = max(first, enough - lowest)
        certified += float(drawn[max(0, enough - lowest) :].sum())
        undecided, lowest, had = drawn[first:last], lowest + first, n
        if not undecided.size or undecided.sum() < 1e-15:
            break
    return calls, certified
