"""Verdicts by redrawn and by fresh copies: known intervals, and errors at the stated level."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.certificates.radii import failure_for_radius
from denoised_smoothing.certificates.verdicts import (
    Verdict,
    compare_redrawn,
    interval,
    judge_audit,
    required_probability,
)
from denoised_smoothing.errors import CountsError, SettingError
from tests.certificates.samples import (
    conclude,
    counts_of,
    labels_of,
    setting_of,
    stages,
    streams_of,
    tally,
)

RUNS = int(os.environ.get("STREAMS", "1000"))
"""Certificates of a simulation."""
ALPHA = 0.1
FALSE_ALARM = 1e-4
"""Probability that a simulation fails by chance."""
FIXED = FixedBudget(100, 1_000)


def fixed(estimation: tuple[int, ...], failed: int = 0, n: int = 1_000) -> Certificate:
    return FixedBudget(100, n).certificate(stages((100,), estimation, failed), setting_of())


def redrawn_of(
    certificate: Certificate, random: np.random.Generator, probabilities: Sequence[float]
) -> dict[Stage, LabelCounts]:
    return {
        counts.stage: tally(counts.stage, labels_of(random, probabilities, counts.n))
        for counts in certificate.stages
    }


def test_equal_counts_are_equal_and_others_differ_on_the_same_noise() -> None:
    certificate = fixed((950, 50))
    same = stages((100,), (950, 50))
    assert compare_redrawn(certificate, same, 0.001).verdict is Verdict.EQUAL
    near = stages((100,), (949, 51))
    assert compare_redrawn(certificate, near, 0.001).verdict is Verdict.CONSISTENT
    found = compare_redrawn(certificate, near, 0.001, exact=True)
    assert found.verdict is Verdict.CONTRADICTED
    assert "at least 1 of 1,100 copies" in found.reason
    failed = compare_redrawn(certificate, stages((100,), (950, 49), 1), 0.001, exact=True)
    assert failed.verdict is Verdict.CONTRADICTED


def test_disjoint_intervals_contradict_on_another_noise() -> None:
    certificate = fixed((950, 50))
    # Clopper-Pearson with each side at 0.001 / 4, by the quantiles of the beta distribution.
    low = stats.beta.ppf(0.00025, 950, 51)
    highest = next(k for k in range(950, 0, -1) if stats.beta.ppf(0.99975, k + 1, 1000 - k) < low)
    for votes, verdict in ((highest, Verdict.CONTRADICTED), (highest + 1, Verdict.CONSISTENT)):
        redrawn = stages((100,), (votes, 1_000 - votes))
        found = compare_redrawn(certificate, redrawn, 0.001)
        assert found.verdict is verdict, (votes, found.reason)


def test_the_numbers_of_copies_must_be_equal() -> None:
    with pytest.raises(CountsError, match="Draw as many"):
        compare_redrawn(fixed((950, 50)), stages((100,), (950, 49)), 0.001)
    with pytest.raises(SettingError, match="alpha"):
        compare_redrawn(fixed((950, 50)), stages((100,), (950, 50)), 1.0)


def test_missing_copies_of_a_fixed_budget_count_against_each_side() -> None:
    stopped = fixed((40, 560))
    assert stopped.label is None
    assert stopped.counts.n == 600
    low, high = interval(stopped, stages((100,), (40, 560)), 0, 0.01)
    assert low == pytest.approx(stats.beta.ppf(0.005, 40, 961), rel=1e-9)
    assert high == pytest.approx(stats.beta.ppf(0.995, 441, 560), rel=1e-9)


def test_the_radius_plan_fixes_its_number_by_the_pilot() -> None:
    plan = RadiusTarget(of_n=1_000)
    n = plan.n(stages((100,), None), setting_of())
    assert n is not None
    assert n < 1_000
    certificate = plan.certificate(stages((100,), (n,)), setting_of())
    low, high = interval(certificate, stages((100,), (n,)), 0, 0.02)
    assert (low, high) == (pytest.approx(0.01 ** (1 / n)), 1.0)


def test_an_anytime_plan_has_a_confidence_sequence() -> None:
    plan = Anytime(radii=(0.25,), n0=50)
    counts = stages((50,), (300, 0))
    low, high = interval(plan.certificate(counts, setting_of()), counts, 0, 0.01)
    # B(300.5, 0.5) / (pi p^300) = 1 / 0.01, solved for p.
    ratio = np.exp(np.sum(np.log1p(-0.5 / np.arange(1, 301))))
    assert low == pytest.approx((ratio * 0.01) ** (1 / 300), rel=1e-9)
    assert high == 1.0


def test_pooled_candidates_are_compared_only_with_a_majority() -> None:
    plan = Anytime(radii=(0.25,), n0=0)
    unsure = plan.certificate({Stage.ESTIMATION: counts_of(Stage.ESTIMATION, (55, 45))}, SIGMA)
    other = {Stage.ESTIMATION: counts_of(Stage.ESTIMATION, (5, 95))}
    assert unsure.label is None
    near = {Stage.ESTIMATION: counts_of(Stage.ESTIMATION, (50, 50))}
    assert compare_redrawn(unsure, near, 0.01).verdict is Verdict.CONSISTENT
    assert compare_redrawn(unsure, other, 0.01).verdict is Verdict.UNCHECKED
    just = plan.certificate({Stage.ESTIMATION: counts_of(Stage.ESTIMATION, (72, 28))}, SIGMA)
    assert just.label == 0
    for votes, verdict in (((73, 27), Verdict.CONSISTENT), ((5, 95), Verdict.UNCHECKED)):
        redrawn = {Stage.ESTIMATION: counts_of(Stage.ESTIMATION, votes)}
        assert compare_redrawn(just, redrawn, 0.001).verdict is verdict
    sure = plan.certificate({Stage.ESTIMATION: counts_of(Stage.ESTIMATION, (95, 5))}, SIGMA)
    assert compare_redrawn(sure, other, 0.01).verdict is Verdict.CONTRADICTED


SIGMA = setting_of()
SETUPS = [
    pytest.param(FIXED, (0.97, 0.03), id="fixed"),
    pytest.param(FIXED, (0.45, 0.4, 0.15), id="fixed-stopped"),
    pytest.param(RadiusTarget(of_n=1_000), (0.9, 0.1), id="radius"),
    pytest.param(Anytime(radii=(0.25,), max_n=1_000), (0.85, 0.15), id="anytime"),
    pytest.param(Anytime(radii=(0.25,), max_n=1_000, n0=0), (0.8, 0.2), id="anytime-pooled"),
    pytest.param(Anytime(radii=(0.25,), max_n=1_000, n0=0), (0.48, 0.47, 0.05), id="no majority"),
]


@pytest.mark.parametrize(("plan", "probabilities"), SETUPS)
def test_correct_certificates_are_contradicted_at_no_more_than_the_level(
    plan: SamplingPlan, probabilities: tuple[float, ...]
) -> None:
    random = np.random.default_rng(21)
    found = dict.fromkeys(Verdict, 0)
    for _ in range(RUNS):
        certificate = conclude(plan, SIGMA, streams_of(random, probabilities, plan))
        redrawn = redrawn_of(certificate, random, probabilities)
        found[compare_redrawn(certificate, redrawn, ALPHA).verdict] += 1
    assert found[Verdict.CONTRADICTED] <= stats.binom.ppf(1 - FALSE_ALARM, RUNS, ALPHA)
    assert found[Verdict.CONSISTENT] + found[Verdict.EQUAL] >= 0.9 * RUNS, found


@pytest.mark.parametrize(("plan", "probabilities"), SETUPS[::2][:2] + SETUPS[3:])
def test_counts_of_another_classifier_are_contradicted(
    plan: SamplingPlan, probabilities: tuple[float, ...]
) -> None:
    random = np.random.default_rng(22)
    forged = (0.999, 0.001)
    contradicted = 0
    for _ in range(100):
        certificate = conclude(plan, SIGMA, streams_of(random, forged, plan))
        redrawn = redrawn_of(certificate, random, (0.6, 0.4))
        contradicted += compare_redrawn(certificate, redrawn, 0.01).verdict is Verdict.CONTRADICTED
    assert contradicted >= 95


def test_the_radius_needs_this_probability() -> None:
    certificate = fixed((1_000,))
    assert required_probability(certificate) == pytest.approx(0.001 ** (1 / 1_000), rel=1e-12)
    assert required_probability(certificate) == pytest.approx(certificate.lower_bound, rel=1e-12)


def test_an_audit_confirms_contradicts_or_does_neither() -> None:
    certificate = fixed((970, 30))
    needed = certificate.lower_bound

    def judged(successes: int, n: int = 4_000) -> Verdict:
        fresh = counts_of(Stage.ESTIMATION, (successes, n - successes))
        return judge_audit(certificate, fresh, 0.01).verdict

    # The exact thresholds, by summing the binomial law.
    k = np.arange(4_001)
    confirmed = int(np.argmax(stats.binom.sf(k - 1, 4_000, needed) <= 0.01))
    contradicted = int(np.argmin(stats.binom.cdf(k, 4_000, needed) < 0.01)) - 1
    assert [judged(confirmed), judged(confirmed - 1)] == [Verdict.CONFIRMED, Verdict.WEAKER]
    assert [judged(contradicted), judged(contradicted + 1)] == [
        Verdict.CONTRADICTED,
        Verdict.WEAKER,
    ]


def test_an_audit_is_about_the_certified_label() -> None:
    fresh = counts_of(Stage.ESTIMATION, (5, 3_995))
    found = judge_audit(fixed((970, 30)), fresh, 0.01)
    assert found.verdict is Verdict.CONTRADICTED
    assert "5 of 4,000 fresh copies have label 0" in found.reason
    assert judge_audit(fixed((40, 560)), fresh, 0.01).verdict is Verdict.NO_CLAIM


def test_an_audit_covers_the_error_of_the_noise() -> None:
    grid = replace(SIGMA, noise=Noise.GRID, dimension=10**12)
    certificate = FIXED.certificate(stages((100,), (1_000,)), grid)
    q = failure_for_radius(grid.sigma, certificate.radius, grid.error)
    assert grid.error > 1e-5
    assert required_probability(certificate) == 1 - q
    assert required_probability(certificate) == pytest.approx(certificate.lower_bound, abs=1e-12)


def two_sided(votes: tuple[int, ...]) -> Certificate:
    plan = FixedBudget(100, sum(votes), two_sided=True)
    return plan.certificate(stages((100,), votes), SIGMA)


def test_an_audit_of_two_bounds_compares_the_radii_that_they_allow() -> None:
    certificate = two_sided((4_500, 1_000, *[500] * 9))
    assert certificate.label == 0
    assert certificate.lower_bound < 0.5

    def judged(votes: tuple[int, ...]) -> Verdict:
        return judge_audit(certificate, counts_of(Stage.ESTIMATION, votes), 0.01).verdict

    assert judged((18_000, 4_000, *[2_000] * 9)) is Verdict.CONFIRMED
    assert judged((4_450, 1_100, *[494] * 9)) is Verdict.WEAKER
    assert judged((4_000, 3_000, *[333] * 9)) is Verdict.CONTRADICTED


@pytest.mark.parametrize("side", ["true", "false"])
def test_wrong_verdicts_of_an_audit_stay_below_alpha(side: str) -> None:
    """p at the very value that the radius needs, or just below it: 100 of 1,000 are expected."""
    certificate = fixed((970, 30))
    needed = certificate.lower_bound
    p = needed if side == "true" else needed - 1e-9
    random = np.random.default_rng(23)
    wrong = Verdict.CONTRADICTED if side == "true" else Verdict.CONFIRMED
    count = 0
    for successes in random.binomial(1_000, p, size=RUNS):
        fresh = counts_of(Stage.ESTIMATION, (int(successes), 1_000 - int(successes)))
        count += judge_audit(certificate, fresh, ALPHA).verdict is wrong
    assert count <= stats.binom.ppf(1 - FALSE_ALARM, RUNS, ALPHA)
    assert count >= stats.binom.ppf(FALSE_ALARM, RUNS, ALPHA / 2)  # and no looser than need be
