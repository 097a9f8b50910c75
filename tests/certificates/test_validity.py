"""Do certificates keep their promise? Simulated where the true probabilities are known.

A certificate is wrong if its radius exceeds the one that the true probabilities give (or its
label has none); every plan promises that for at most a share alpha. Each share is put to the
exact binomial test. Were the true share alpha everywhere (it is below), one of the about 40
tests would raise a false alarm for a fraction 4e-5 of all seeds; the seeds are fixed. That the
tests can fail is shown by conclusions that are known to be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget, fixed
from denoised_smoothing.certificates.prediction import PredictionBudget

from .samples import Streams, conclude, drive, setting_of, stages, streams_of

ALPHA = 0.05
FALSE_ALARM = 1e-6
DRAWN = (Stage.SELECTION, Stage.ESTIMATION, Stage.CONTINUATION)
SETTING = setting_of(0.5, ALPHA)

PLANS: dict[str, SamplingPlan] = {
    "fixed": FixedBudget(n0=20, n=300),
    "two-sided": FixedBudget(n0=20, n=300, two_sided=True),
    "anytime": Anytime((0.0, 0.1, 0.9), max_n=300, n0=20, every=50),
    "pooled": Anytime((0.0, 0.1, 0.9), max_n=300, n0=0, every=50),
    "continued": Anytime((0.0, 0.1, 0.9), max_n=150, n0=20, every=50, more=150),
    "radius": RadiusTarget(of_n=300, n0=40, share=0.9),
}
PROBABILITIES = {  # of the labels; what is missing to 1 are failed copies
    "a coin": (0.5, 0.5),
    "just below 1/2, three labels": (0.495, 0.3, 0.205),
    "three alike": (1 / 3, 1 / 3, 1 / 3),
    "a tenth fails that would vote otherwise": (0.5, 0.4),
    "half fail": (0.5,),
    "ten labels": (0.02, 0.02, 0.7, 0.1, 0.02, 0.02, 0.04, 0.04, 0.02, 0.02),
    "sure": (0.03, 0.97),
}
FAILING = PROBABILITIES["a tenth fails that would vote otherwise"]
COIN = PROBABILITIES["a coin"]


def true_radius(probabilities: Sequence[float], label: int, *, two_sided: bool) -> float:
    """The radius of the label; what fails may be votes for one more class, or for none."""
    sigma, p = SETTING.sigma, probabilities[label]
    if not two_sided:
        return sigma * float(stats.norm.ppf(p))
    other = max([q for k, q in enumerate(probabilities) if k != label], default=0.0)
    return sigma / 2 * float(stats.norm.ppf(p) - stats.norm.ppf(other))


def is_wrong(certificate: Certificate, probabilities: Sequence[float]) -> bool:
    if certificate.label is None:
        return False
    two_sided = certificate.upper_bound is not None
    truth = true_radius(probabilities, certificate.label, two_sided=two_sided)
    return truth <= 0.0 or certificate.radius > truth


Judge = Callable[[SamplingPlan, SmoothingParameters, Streams], Certificate]


def count_wrong(
    plan: SamplingPlan,
    probabilities: Sequence[float],
    repeats: int = 1000,
    judge: Judge = conclude,
) -> tuple[int, int]:
    """Wrong certificates, and how many there are in all."""
    random = np.random.default_rng(20190208)
    wrong = sum(
        is_wrong(
            judge(plan, SETTING, streams_of(random, probabilities, plan, *DRAWN)), probabilities
        )
        for _ in range(repeats)
    )
    return wrong, repeats


def promise_broken(wrong: int, repeats: int) -> bool:
    test = stats.binomtest(wrong, repeats, ALPHA, alternative="greater")
    return bool(test.pvalue < FALSE_ALARM)


@pytest.mark.parametrize("probabilities", PROBABILITIES.values(), ids=list(PROBABILITIES))
@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_the_share_of_wrong_certificates_stays_within_alpha(
    plan: SamplingPlan, probabilities: Sequence[float]
) -> None:
    assert not promise_broken(*count_wrong(plan, probabilities, 200))


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_wrong_certificates_do_occur(plan: SamplingPlan) -> None:
    """A coin is where a bound must work for its alpha: the simulation has power."""
    wrong, repeats = count_wrong(plan, COIN)
    assert not promise_broken(wrong, repeats)
    assert wrong > 0.1 * ALPHA * repeats


def test_two_sided_radii_of_many_classes_stay_within_alpha() -> None:
    probabilities = (0.4, *[0.6 / 9] * 9)
    plan = FixedBudget(n0=20, n=300, two_sided=True)
    wrong, repeats = count_wrong(plan, probabilities)
    assert not promise_broken(wrong, repeats)
    assert wrong < repeats * ALPHA
    random = np.random.default_rng(5)
    one_sided = replace(plan, two_sided=False)
    streams = [streams_of(random, probabilities, plan) for _ in range(50)]
    assert all(conclude(plan, SETTING, stream).radius > 0.05 for stream in streams)
    assert all(conclude(one_sided, SETTING, stream).label is None for stream in streams)


def chance_of_a_false_two_sided_certificate(p: Sequence[float], alpha: float) -> float:
    """Summed exactly over all counts of candidate, runner-up, a third label and failed copies.

    The candidate is label 0; copies of the fourth kind fail that would be votes for label 1. It
    is never the most probable label by more than p[0] - p[1] - p[3].
    """
    n, parameters = 100, setting_of(0.5, alpha)
    plan = FixedBudget(n0=20, n=n, two_sided=True)
    truth = float(stats.norm.ppf(p[0]) - stats.norm.ppf(p[1] + p[3])) * parameters.sigma / 2
    chance = 0.0
    for own in range(n + 1):
        for failed in range(n + 1 - own if p[3] else 1):
            for other in range(n + 1 - own - failed):
                third = n - own - other - failed
                if third and not p[2]:
                    continue
                votes = (own, other, third)
                certificate = plan.certificate(stages((20,), votes, failed), parameters)
                if certificate.label is not None and (truth < 1e-9 or certificate.radius > truth):
                    chance += float(stats.multinomial.pmf((*votes, failed), n, p))
    return chance


SITUATIONS = {
    "a coin": (0.5, 0.5, 0.0, 0.0),
    "two of three alike": (0.4, 0.4, 0.2, 0.0),
    "three alike": (1 / 3, 1 / 3, 1 / 3, 0.0),
    "a little ahead": (0.5, 0.3, 0.2, 0.0),
    "failed copies decide": (0.5, 0.25, 0.0, 0.25),
    "behind": (0.3, 0.4, 0.3, 0.0),
}


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("p", SITUATIONS.values(), ids=list(SITUATIONS))
def test_the_exact_chance_of_a_false_two_sided_certificate(
    p: tuple[float, float, float, float], alpha: float
) -> None:
    assert chance_of_a_false_two_sided_certificate(p, alpha) <= alpha


@pytest.mark.parametrize(
    ("name", "least"), [("a coin", 0.015), ("two of three alike", 0.01), ("behind", 0.0)]
)
def test_it_is_not_zero(name: str, least: float) -> None:
    assert chance_of_a_false_two_sided_certificate(SITUATIONS[name], ALPHA) > least


def test_failed_copies_that_are_not_counted_for_the_runner_up_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certified = SITUATIONS["failed copies decide"]
    right = FixedBudget._bounds

    def blind(plan: FixedBudget, counts: Any, alpha: float, *, best_case: bool = False) -> Any:
        found = right(plan, counts, alpha, best_case=best_case)
        other = min(found.failure, fixed.clopper_pearson_upper(0, plan.n, alpha / 2))
        certified = found.failure <= 0.5 or 1.0 - found.failure > other
        return found._replace(other=other, certified=certified)

    monkeypatch.setattr(FixedBudget, "_bounds", blind)
    assert chance_of_a_false_two_sided_certificate(certified, ALPHA) > ALPHA


def dropping_failed(
    plan: SamplingPlan, parameters: SmoothingParameters, streams: Streams
) -> Certificate:
    """As if copies whose query failed had never been drawn."""
    kept = {stage: labels[labels >= 0] for stage, labels in streams.items()}
    return conclude(plan, parameters, kept)


@pytest.mark.parametrize("name", ["fixed", "anytime", "pooled", "continued", "radius"])
def test_dropping_failed_copies_is_caught(name: str) -> None:
    """The classifier fails on a tenth of the copies, all of which would vote otherwise."""
    plan = PLANS[name]
    assert not promise_broken(*count_wrong(plan, FAILING))
    assert promise_broken(*count_wrong(plan, FAILING, 400, dropping_failed))


def selecting_with_the_estimation(
    plan: SamplingPlan, parameters: SmoothingParameters, streams: Streams
) -> Certificate:
    shared = streams[Stage.ESTIMATION]
    return conclude(plan, parameters, {Stage.SELECTION: shared, Stage.ESTIMATION: shared})


def test_selecting_with_the_copies_that_estimate_is_caught() -> None:
    plan = FixedBudget(n0=300, n=300)
    assert not promise_broken(*count_wrong(plan, COIN))
    assert promise_broken(*count_wrong(plan, COIN, judge=selecting_with_the_estimation))


def test_certifying_on_the_pilot_is_caught() -> None:
    """The radius plan draws fresh copies; the ones that chose the class and n would not do."""
    plan = RadiusTarget(of_n=300, n0=300, share=0.99)
    assert not promise_broken(*count_wrong(plan, COIN))
    assert promise_broken(*count_wrong(plan, COIN, judge=selecting_with_the_estimation))


def test_the_point_estimate_instead_of_the_bound_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fixed, "clopper_pearson_upper", lambda failures, n, alpha: failures / n)
    for probabilities in PROBABILITIES.values():
        if max(probabilities) >= 0.495:  # else there is no certificate that could be wrong
            assert promise_broken(*count_wrong(PLANS["fixed"], probabilities, 300))


def test_a_bound_of_twice_the_alpha_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fixed.clopper_pearson_upper
    monkeypatch.setattr(fixed, "clopper_pearson_upper", lambda k, n, alpha: right(k, n, 2 * alpha))
    assert promise_broken(*count_wrong(PLANS["fixed"], COIN))


def test_peeking_at_clopper_pearson_is_caught() -> None:
    """Stop a fixed budget as soon as its bound would certify: what the anytime plan is for."""

    def peeking(
        plan: SamplingPlan, parameters: SmoothingParameters, streams: Streams
    ) -> Certificate:
        ns = range(20, 301, 20)
        certificates = [conclude(FixedBudget(20, n), parameters, streams) for n in ns]
        return max(certificates, key=lambda certificate: certificate.radius)

    assert promise_broken(*count_wrong(PLANS["fixed"], COIN, 400, peeking))


def test_the_share_of_wrong_predictions_stays_within_alpha() -> None:
    """Of two labels that are equally probable neither is the most probable one."""
    budget, random = PredictionBudget(300), np.random.default_rng(7)
    draws = random.multinomial(300, (0.4, 0.4, 0.2), size=4000).tolist()
    counts = [LabelCounts("run", "0", Stage.PREDICTION, tuple(votes)) for votes in draws]
    wrong = sum(budget.prediction(votes, SETTING).label is not None for votes in counts)
    assert not promise_broken(wrong, 4000)
    assert wrong > 0.03 * 4000


def test_a_stage_that_is_never_asked_for_is_never_drawn() -> None:
    random = np.random.default_rng(0)
    streams = streams_of(random, COIN, PLANS["pooled"], Stage.ESTIMATION)
    assert set(drive(PLANS["pooled"], SETTING, streams)) == {Stage.ESTIMATION}
