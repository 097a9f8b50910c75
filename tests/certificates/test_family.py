from __future__ import annotations

from dataclasses import replace

import pytest

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.confidence_sequence import mixture_failure_bound
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.family import together
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.errors import SettingError

from .samples import Counts, counts_of, setting_of, stages

SETTING = setting_of(0.25, 0.001)


def certify(plan: SamplingPlan, counts: Counts) -> Certificate:
    return plan.certificate(counts, SETTING)


def radius(failure: float) -> float:
    return gaussian_radius(0.25, failure, SETTING.error)


def test_fixed_budget_at_beta_over_k() -> None:
    certificate = certify(FixedBudget(10, 1000), stages((10,), (990, 10)))
    [found] = together([certificate], 0.05, attempted=500)
    assert found.radius == pytest.approx(radius(clopper_pearson_upper(10, 1000, 0.05 / 500)))
    assert found.alpha == 0.05 / 500
    assert found.radius < certificate.radius


def test_a_certificate_can_be_lost() -> None:
    votes = next(
        n
        for n in range(500, 1000)
        if certify(FixedBudget(10, 1000), stages((10,), (n, 1000 - n))).label is not None
    )
    [found] = together(
        [certify(FixedBudget(10, 1000), stages((10,), (votes, 1000 - votes)))], 0.05, 500
    )
    assert (found.label, found.radius) == (None, 0.0)


def test_missing_copies_of_a_budget_that_ended_early_count_against_it() -> None:
    certificate = certify(FixedBudget(10, 1000), stages((10,), (30, 570)))
    [found] = together([certificate], 0.05, 500)
    assert found.label is None
    assert found.lower_bound == pytest.approx(1 - clopper_pearson_upper(970, 1000, 1e-4))


def test_anytime_plan_at_the_number_of_copies_drawn() -> None:
    plan = Anytime((0.25,), max_n=1000, n0=10)
    [found] = together([certify(plan, stages((10,), (300,)))], 0.05, 500)
    assert found.radius == pytest.approx(radius(mixture_failure_bound(300, 300, 0.75e-4)))


def test_anytime_look_at_the_cap_and_continuation() -> None:
    plan = Anytime((0.25,), max_n=1000, n0=10, more=500)
    counts = stages((10,), (900, 100))
    counts[Stage.CONTINUATION] = counts_of(Stage.CONTINUATION, (100,))
    [found] = together([certify(plan, counts)], 0.05, 500)
    best = min(
        clopper_pearson_upper(100, 1000, 0.25e-4), mixture_failure_bound(1000, 1100, 0.75e-4)
    )
    assert found.radius == pytest.approx(radius(best))


def test_radius_plan_keeps_the_copies_that_its_pilot_chose() -> None:
    plan = RadiusTarget(of_n=5000, n0=200)
    pilot = stages((199, 1), None)
    n = plan.n(pilot, SETTING)
    assert n is not None
    assert n != plan.n(pilot, replace(SETTING, alpha=1e-4))  # so that it would be refused
    certificate = certify(plan, pilot | stages(None, (n,)))
    [found] = together([certificate], 0.05, 500)
    assert found.radius == pytest.approx(radius(clopper_pearson_upper(0, n, 1e-4)))
    assert found.plan == FixedBudget(200, n)
    assert Certificate.from_json(found.to_json()) == found


def test_two_sided_budget() -> None:
    plan = FixedBudget(10, 1000, two_sided=True)
    [found] = together(
        [
            certify(
                plan,
                stages((10,), (450, 100))
                | {Stage.ESTIMATION: counts_of(Stage.ESTIMATION, (450, 300, 250))},
            )
        ],
        0.05,
        500,
    )
    assert found.upper_bound == pytest.approx(clopper_pearson_upper(300, 1000, 0.5e-4))


def test_certificates_at_a_smaller_alpha_stay_as_they_are() -> None:
    certificate = certify(FixedBudget(10, 1000), stages((10,), (990, 10)))
    assert together([certificate] * 2, 0.05) == (certificate, certificate)
    assert together([], 0.05) == ()


def test_what_is_not_proven_is_kept() -> None:
    setting = replace(setting_of(0.25, 0.001, Noise.GRID), notes=("a note",))
    certificate = FixedBudget(10, 1000).certificate(stages((10,), (990, 10)), setting)
    [found] = together([certificate], 0.05, 500)
    assert found.notes == certificate.notes
    assert (found.counts, found.seed) == (certificate.counts, certificate.seed)


def test_numbers_out_of_range_are_refused() -> None:
    certificate = certify(FixedBudget(10, 1000), stages((10,), (990, 10)))
    with pytest.raises(SettingError, match="attempted must be at least the 2 certificates, got 1"):
        together([certificate] * 2, 0.05, 1)
    with pytest.raises(SettingError, match="beta must lie strictly between 0 and 1"):
        together([certificate], 1.5)
