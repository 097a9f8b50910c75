"""Simulations of statements about more than one image: population, family, comparison.

What is true is known, so that every false statement is seen. ``simulation.py`` prints the tables.
Each function returns rows: a name, the share of data sets with a false statement, and the median
of the slack, in the units that its docstring names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.comparison import paired_difference
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.family import together
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.certificates.population import (
    false_certificates,
    holds_among,
    population_bound,
)

SEED = 20190208
BETA, ALPHA, K = 0.05, 0.01, 20
POOL = 200_000
"""Images that a plan certifies, from which data sets are drawn."""
DATA_SETS = (100, 500, 2_000)
"""Images of the data sets that are drawn."""
TIGHT = FixedBudget(n0=20, n=444)
"""P(Bin(444, 1/2) >= 247) = 0.00997 is the largest below alpha: the plan errs nearly that often."""
Rows = list[tuple[str, float, float]]
Integers = npt.NDArray[np.int64]

SAMPLES: dict[str, tuple[int, float, Sequence[float]]] = {
    # images, alpha, robust accuracy of each class; the sample has equally many images of each
    "500 images": (500, 0.001, (0.66,)),
    "500 images, alpha 0.05": (500, 0.05, (0.66,)),
    "50 images": (50, 0.001, (0.3,)),
    "500 images, 10 classes from 0.3 to 0.98": (500, 0.001, np.linspace(0.3, 0.98, 10).tolist()),
    "500 images, 5 classes robust, 5 not": (500, 0.001, (1.0,) * 5 + (0.0,) * 5),
    "100 images, one class in a hundred at 0.0499": (100, 1e-9, (0.0499,) + (0.0,) * 99),
}
"""Robust images are all certified, others with probability alpha: what is hardest to cover."""


def population(sets: int) -> Rows:
    """Simulate bounds on robust accuracy at 95 %; the slack is in points of 1 %."""
    random, rows = np.random.default_rng(SEED), []
    for name, (images, alpha, classes) in SAMPLES.items():
        truth = float(np.mean(classes))
        robust = random.binomial(images // len(classes), classes, (sets, len(classes))).sum(axis=1)
        false = random.binomial(images - robust, alpha)
        bounds = np.array([population_bound(k, images, alpha) for k in range(images + 1)])
        found = bounds[robust + false]
        rows.append((name, *_judged(truth - found)))
    return rows


def these_images(sets: int) -> Rows:
    """Simulate images of which none is robust; the slack of the bound is in images.

    A sampling plan certifies each image, whose true label has probability 1/2: every certificate
    is false, so any bound above 0 is. The slack is that of the number of false certificates.
    """
    random, rows = np.random.default_rng(SEED + 1), []
    pool = _certificates(TIGHT, 0.5, POOL, lambda held: held.label is not None, beta=None)
    for images in DATA_SETS:
        certified = random.choice(pool, (sets, images)).sum(axis=1).astype(int)
        bounds = np.array([holds_among(k, images, ALPHA) for k in range(certified.max() + 1)])
        false = bounds[certified] > 0
        slack = false_certificates(images, ALPHA) - certified
        name = f"{images:,} images, alpha {ALPHA:g}"
        rows.append((name, float(false.mean()), float(np.median(slack))))
    return rows


def _judged(slack: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float((slack < 0.0).mean()), float(np.median(slack))


PAIRS: dict[str, tuple[int, Sequence[tuple[float, float]]]] = {
    # images, and for each class the probability that one alone succeeds
    "500 images, 5 % each alone": (500, ((0.05, 0.05),)),
    "100 images, 1 % each alone": (100, ((0.01, 0.01),)),
    "500 images, two classes, 10 % alone in one each": (500, ((0.1, 0.0), (0.0, 0.1))),
}


def comparison(sets: int) -> dict[str, Rows]:
    """Simulate pairs of runs that are equally good.

    Returns:
        Rows of the McNemar test, whose slack is 0, and of the interval, whose slack is half its
        width in points of 1 %.
    """
    random, tests, intervals = np.random.default_rng(SEED + 2), Rows(), Rows()
    for name, (images, classes) in PAIRS.items():
        size = images // len(classes)
        alone = sum(
            random.multinomial(size, (first, second, 1.0 - first - second), sets)[:, :2]
            for first, second in classes
        )
        kinds, of = np.unique(alone, axis=0, return_inverse=True)
        found = [paired_difference(0, int(b), int(c), images) for b, c in kinds]
        beyond = np.array([one.beyond_chance for one in found])[of.ravel()]
        missed = np.array([not one.lower <= 0.0 <= one.upper for one in found])[of.ravel()]
        width = np.array([50.0 * (one.upper - one.lower) for one in found])[of.ravel()]
        tests.append((name, float(beyond.mean()), 0.0))
        intervals.append((name, float(missed.mean()), float(np.median(width))))
    return {"McNemar": tests, "interval": intervals}


PLANS: dict[str, SamplingPlan] = {
    "fixed": FixedBudget(n0=20, n=500),
    "two-sided": FixedBudget(n0=20, n=500, two_sided=True),
    "anytime": Anytime((0.0, 0.1), max_n=500, n0=20, every=100),
    "anytime without selection": Anytime((0.0, 0.1), max_n=500, n0=0, every=100),
    "radius": RadiusTarget(of_n=500, n0=40, share=0.9),
}
PARAMETERS = SmoothingParameters(0.5, ALPHA, 3072, seed=0, noise=Noise.FLOAT)


def family(sets: int) -> Rows:
    """Simulate families of 20 images, each a coin, of which nothing may be certified.

    Sampling stops at alpha 0.01. The slack is the median share of the radius that an image with
    p = 0.9 loses.
    """
    rows = []
    for name, plan in PLANS.items():
        false = _certificates(plan, 0.5, sets * K, lambda held: held.label is not None)
        kept = _certificates(plan, 0.9, 2_000, lambda held: held.radius)
        full = _certificates(plan, 0.9, 2_000, lambda held: held.radius, K * ALPHA)
        any_false = float(false.reshape(sets, K).any(axis=1).mean())
        rows.append((name, any_false, float(np.median(1.0 - kept / np.maximum(full, 1e-9)))))
    return rows


def _certificates(
    plan: SamplingPlan,
    p: float,
    images: int,
    measure: Callable[[Certificate], float],
    beta: float | None = BETA,
) -> npt.NDArray[np.float64]:
    """Return a measure of the certificates of images [N] that hold together in families of 20.

    Without ``beta``: of certificates that each have the alpha of ``PARAMETERS``.
    """
    random = np.random.default_rng(SEED + 3)
    n0: int = getattr(plan, "n0", 0)
    state = np.zeros((images, 3), dtype=np.int64)  # votes in selection, copies and votes after it
    state[:, 0] = random.binomial(n0, p, images)
    while True:  # images with equal counts have equal targets
        kinds, of = np.unique(state, axis=0, return_inverse=True)
        counts = [_counts(kind, n0) for kind in kinds.tolist()]
        wanted = [plan.targets(one, PARAMETERS)[Stage.ESTIMATION] for one in counts]
        more = np.array(wanted)[of.ravel()] - state[:, 1]
        if not more.any():
            break
        state[:, 1] += more
        state[:, 2] += random.binomial(more, p)
    certificates = [plan.certificate(one, PARAMETERS) for one in counts]
    if beta is not None:
        certificates = [together([one], beta, K)[0] for one in certificates]
    values = [float(measure(one)) for one in certificates]
    return np.array(values)[of.ravel()]


def _counts(kind: Sequence[int], n0: int) -> dict[Stage, LabelCounts]:
    first, copies, votes = kind
    selection = LabelCounts("", "", Stage.SELECTION, (first, n0 - first))
    estimation = LabelCounts("", "", Stage.ESTIMATION, (votes, copies - votes))
    return {Stage.SELECTION: selection, Stage.ESTIMATION: estimation}
