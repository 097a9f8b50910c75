"""Do certificates keep their promise? Simulated where the true probabilities are known.

A certificate is wrong if its label has a probability of at most 1/2, or if its radius exceeds
sigma * Phi^-1 of that probability; Cohen et al. 2019 promise that for at most a share alpha.
Each share is put to the exact binomial test. Were the true share alpha everywhere (it is
below), one of the 9 tests would raise a false alarm for a fraction 9e-6 of all seeds; the
seed is fixed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.certificates import plans as module
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.certificates.prediction import Prediction
from denoised_smoothing.certificates.setting import Setting

ALPHA = 0.05
FALSE_ALARM = 1e-6
REPEATS = 4_000
PLAN = FixedBudget(n0=20, n=300)
SETTING = Setting(sigma=0.5, alpha=ALPHA, dimension=3072, seed=0)

PROBABILITIES = {  # of the labels; what is missing to 1 are failed copies
    "a coin": (0.5, 0.5),
    "just above 1/2": (0.505, 0.495),
    "just below 1/2, three labels": (0.495, 0.3, 0.205),
    "just above 1/2, failed copies": (0.25, 0.51),
    "half fail": (0.5,),
    "ten labels": (0.02, 0.02, 0.7, 0.1, 0.02, 0.02, 0.04, 0.04, 0.02, 0.02),
    "sure": (0.03, 0.97),
    "all but certain": (0.999, 0.001),
}
each_probability = pytest.mark.parametrize(
    "probabilities", PROBABILITIES.values(), ids=list(PROBABILITIES)
)


def draw(
    probabilities: tuple[float, ...], stage: Stage, n: int, random: np.random.Generator
) -> list[LabelCounts]:
    fails = max(0.0, 1.0 - sum(probabilities))
    drawn = random.multinomial(n, [*probabilities, fails], size=REPEATS).tolist()
    return [LabelCounts("run", "0", stage, tuple(votes), failed) for *votes, failed in drawn]


def count_wrong(
    probabilities: tuple[float, ...], pairs: list[tuple[LabelCounts, LabelCounts]]
) -> int:
    """How many certificates claim more than is true."""
    true_radius = SETTING.sigma * stats.norm.ppf(probabilities)
    wrong = 0
    for selection, estimation in pairs:
        plan = FixedBudget(n0=selection.n, n=estimation.n)
        counts = {Stage.SELECTION: selection, Stage.ESTIMATION: estimation}
        got = plan.certificate(counts, SETTING)
        if got.label is not None:
            p = probabilities[got.label]
            wrong += p <= 0.5 or got.radius > true_radius[got.label]
    return wrong


def simulate(probabilities: tuple[float, ...]) -> list[tuple[LabelCounts, LabelCounts]]:
    random = np.random.default_rng(20190208)
    selections = draw(probabilities, Stage.SELECTION, PLAN.n0, random)
    return list(zip(selections, draw(probabilities, Stage.ESTIMATION, PLAN.n, random), strict=True))


def promise_broken(wrong: int) -> bool:
    test = stats.binomtest(wrong, REPEATS, ALPHA, alternative="greater")
    return bool(test.pvalue < FALSE_ALARM)


@each_probability
def test_the_share_of_wrong_certificates_stays_within_alpha(
    probabilities: tuple[float, ...],
) -> None:
    assert not promise_broken(count_wrong(probabilities, simulate(probabilities)))


def test_the_share_of_wrong_predictions_stays_within_alpha() -> None:
    """Of two labels that are equally probable neither is the most probable one."""
    draws = draw((0.4, 0.4, 0.2), Stage.PREDICTION, 300, np.random.default_rng(7))
    wrong = sum(Prediction.from_counts(counts, SETTING).label is not None for counts in draws)
    assert not promise_broken(wrong)
    assert wrong > 0.03 * REPEATS


def test_a_coin_makes_the_bound_work_for_its_alpha() -> None:
    """Wrong certificates do occur, and nearly as often as they may: the simulation has power."""
    coin = PROBABILITIES["a coin"]
    assert count_wrong(coin, simulate(coin)) > 0.03 * REPEATS


def test_the_point_estimate_instead_of_the_bound_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "clopper_pearson_lower", lambda successes, n, alpha: successes / n)
    for probabilities in PROBABILITIES.values():
        assert promise_broken(count_wrong(probabilities, simulate(probabilities)))


def test_a_bound_of_twice_the_alpha_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.clopper_pearson_lower
    monkeypatch.setattr(module, "clopper_pearson_lower", lambda k, n, alpha: right(k, n, 2 * alpha))
    coin = PROBABILITIES["a coin"]
    assert promise_broken(count_wrong(coin, simulate(coin)))


def test_selecting_with_the_copies_that_estimate_is_caught() -> None:
    coin = PROBABILITIES["a coin"]
    pairs = [(replace(second, stage=Stage.SELECTION), second) for _, second in simulate(coin)]
    assert promise_broken(count_wrong(coin, pairs))


def test_dropping_failed_copies_is_caught() -> None:
    half_fail = PROBABILITIES["just above 1/2, failed copies"]
    pairs = [(first, replace(second, failed=0)) for first, second in simulate(half_fail)]
    assert promise_broken(count_wrong(half_fail, pairs))
