"""Coverage of prediction sets, simulated: the worst classifier, and images of known probability.

A part of ``simulation.py``, whose table is in docs/prediction-sets.md. The true label of an image
has the score position + z on a noisy copy, z standard normal, and its attacker moves it by
r / sigma in the direction that matters: this attains the bound of the smoothing theorem.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

from denoised_smoothing.certificates.prediction_sets import (
    Demand,
    SetRule,
    calibrate_scores,
    calibrate_votes,
    vote_threshold,
)

IMAGES = 200
Floats = npt.NDArray[np.float64]
POPULATIONS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "the same for all": lambda random, shape: np.full(shape, 1.0),
    "spread": lambda random, shape: random.normal(1.0, 1.0, shape),
    "four of five easy": lambda random, shape: np.where(random.random(shape) < 0.8, 3.0, 0.0),
}
"""Positions of images: one for all, or a law of them."""
RULES = (("scores", 1), ("scores", 25), ("votes", 100))
threshold_of = lru_cache(None)(vote_threshold)


def kth_largest(random: np.random.Generator, positions: Floats, k: int, n: int) -> Floats:
    """Draw the k-th largest score of n copies: that of uniform numbers has a beta law."""
    return positions + special.ndtri(random.beta(n - k + 1, k, positions.shape))


def held(
    evidence: str, n: int, demand: Demand, positions: Floats, random: np.random.Generator
) -> Floats:
    """Return for each data set the probability that the set of one changed image is right.

    Args:
        positions: [D, N + 1], of N calibration images and one test image of each data set.
    """
    shift, images = demand.radius / demand.sigma, positions.shape[1] - 1
    known, test = positions[:, :-1], positions[:, -1] - shift
    if evidence == "votes":
        rank = calibrate_votes([n] * images, n, demand).rank
        votes = random.binomial(n, special.ndtr(known))
        least, place = np.unique(np.sort(votes, axis=1)[:, rank - 1], return_inverse=True)
        loss = demand.miss - rank / (images + 1)
        t = np.array([threshold_of(int(c), n, loss, demand) for c in least])[place]
        return np.where(
            t > 0, special.betainc(np.maximum(t, 1), n - t + 1.0, special.ndtr(test)), 1
        )
    rule, reached = _score_rule(images, n, demand)
    scores = kth_largest(random, known, reached, n)
    threshold = np.sort(scores, axis=1)[:, rule.rank - 1]
    t = rule.needed
    return special.betainc(t, n - t + 1.0, special.ndtr(test - threshold))


def _score_rule(images: int, n: int, demand: Demand) -> tuple[SetRule, int]:
    """Return the rule, and of which of the n scores of an image, by size, it takes quantiles."""
    rule = calibrate_scores(np.tile(np.arange(n), (images, 1)), demand)
    return rule, n - round(rule.threshold)


def rows(
    data_sets: int, images: int, coverage: float, shift: float, seed: int
) -> list[tuple[str, str, float, float]]:
    """Return population, rule, and the mean and its error of the coverage under attack."""
    demand, found = Demand(coverage, shift, 1.0), []
    for name, law in POPULATIONS.items():
        for evidence, n in RULES:
            random, values = np.random.default_rng(seed), []
            for start in range(0, data_sets, 1000):
                positions = law(random, (min(1000, data_sets - start), images + 1))
                values.append(held(evidence, n, demand, positions, random))
            all_values = np.concatenate(values)
            # Of one drawn set each, not only of its probability.
            drawn = random.random(len(all_values)) < all_values
            assert drawn.mean() > coverage - 5 * np.sqrt(coverage * (1 - coverage) / data_sets)
            error = all_values.std() / np.sqrt(data_sets)
            found.append((name, f"{evidence} of {n}", float(all_values.mean()), float(error)))
    return found


def set_coverage(data_sets: int) -> list[list[str]]:
    """Return the table: coverage in % of the worst attack, at 90 % requested."""
    lines: dict[tuple[str, str], list[str]] = {}
    for shift in (0.25, 0.5, 1.0):
        for name, rule, mean, error in rows(data_sets, IMAGES, 0.9, shift, 20190208):
            lines.setdefault((name, rule), []).append(f"{100 * mean:.2f} ± {200 * error:.2f}")
    return [[name, rule, *cells] for (name, rule), cells in lines.items()]
