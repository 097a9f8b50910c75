from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import FixedBudget, RadiusTarget
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.errors import CountsError, SettingError

from ..samples import conclude, counts_of, drive, setting_of, stages, streams_of

PLAN = RadiusTarget(of_n=5_000, n0=200)
SETTING = setting_of(1.0)
reproducible = settings(derandomize=True, deadline=None, max_examples=25)


def copies(successes: int, plan: RadiusTarget = PLAN) -> int:
    n = plan.n(stages((successes, plan.n0 - successes), None), SETTING)
    assert n is not None
    return n


def test_pilot_is_a_tenth_by_default() -> None:
    assert (RadiusTarget(of_n=10_000).n0, RadiusTarget(of_n=500).n0) == (1000, 100)


def test_number_of_copies_is_unknown_until_the_pilot_is_complete() -> None:
    for counts in ({}, stages((199,), None)):
        assert PLAN.n(counts, SETTING) is None
        assert PLAN.targets(counts, SETTING) == {Stage.SELECTION: 200, Stage.ESTIMATION: 0}


def test_number_of_copies_is_fixed_by_the_pilot_alone() -> None:
    pilot = stages((190, 10), None)
    n = PLAN.n(pilot, SETTING)
    assert n is not None
    for votes in ((n,), (n // 2, n - n // 2), (5,)):
        assert PLAN.n(pilot | stages(None, votes), SETTING) == n


@reproducible
@given(st.integers(0, 200), st.floats(0.5, 0.999))
def test_number_of_copies_never_exceeds_the_fixed_one(successes: int, share: float) -> None:
    assert 1 <= copies(successes, RadiusTarget(5_000, share, 200)) <= 5_000


@pytest.mark.parametrize("successes", [200, 199, 190, 150, 120])
def test_number_of_copies_by_the_definition(successes: int) -> None:
    """The mean over quantiles of the posterior and of the failures, by SciPy's distributions."""
    posterior = stats.beta(200 - successes + 0.5, successes + 0.5)  # of Jeffreys

    def expected_radius(n: int) -> float:
        radii = [
            gaussian_radius(1.0, clopper_pearson_upper(int(failures), n, 0.001))
            for q in posterior.ppf((np.arange(15) + 0.5) / 15)
            for failures in stats.binom.ppf((np.arange(9) + 0.5) / 9, n, q)
        ]
        return float(np.mean(radii))

    sizes = np.unique(np.geomspace(20, 5_000, 60).round().astype(int)).tolist()
    enough = 0.95 * expected_radius(5_000) - 1e-9
    assert copies(successes) == next(n for n in sizes if expected_radius(n) >= enough)


def test_small_caps_are_kept_too() -> None:
    assert copies(100, RadiusTarget(of_n=7, n0=100)) <= 7


def test_a_larger_share_takes_more_copies() -> None:
    sizes = [copies(150, RadiusTarget(5_000, share, 200)) for share in (0.5, 0.8, 0.9, 0.95, 0.99)]
    assert sizes == sorted(set(sizes))
    assert sizes[-2] < 5_000


@pytest.mark.parametrize("p", [0.7, 0.9, 0.98])
def test_mean_radius_is_the_share_of_that_of_the_fixed_budget(p: float) -> None:
    random, radii, calls = np.random.default_rng(3), [], []
    fixed = [
        gaussian_radius(1.0, clopper_pearson_upper(int(f), 5_000, 0.001))
        for f in random.binomial(5_000, 1 - p, size=200)
    ]
    for _ in range(60):
        certificate = conclude(PLAN, SETTING, streams_of(random, (p, 1 - p), PLAN))
        radii.append(certificate.radius)
        calls.append(certificate.calls)
    assert np.mean(radii) == pytest.approx(0.955 * np.mean(fixed), rel=0.02)
    assert np.mean(calls) < 0.7 * 5_200


def test_pilot_is_not_used_again() -> None:
    """Its votes for the candidate choose n; the bound is that of the fresh copies."""
    n = copies(190)
    counts = stages((190, 10), (n - 40, 40))
    certificate = PLAN.certificate(counts, SETTING)
    failure = clopper_pearson_upper(40, n, 0.001)
    assert certificate.radius == gaussian_radius(1.0, failure)
    assert certificate.lower_bound == 1.0 - failure
    assert certificate.calls == 200 + n


def test_ends_early_where_the_image_abstains_anyhow() -> None:
    streams = {stage: np.arange(6_000) % 4 for stage in (Stage.SELECTION, Stage.ESTIMATION)}
    counts = drive(PLAN, SETTING, streams)
    n = PLAN.n(counts, SETTING)
    assert n is not None
    assert PLAN.certificate(counts, SETTING).label is None
    assert counts[Stage.ESTIMATION].n <= n


def test_without_any_label_in_the_pilot_it_abstains_at_once() -> None:
    counts = {
        Stage.SELECTION: counts_of(Stage.SELECTION, (), failed=200),
        Stage.ESTIMATION: counts_of(Stage.ESTIMATION, ()),
    }
    assert PLAN.targets(counts, SETTING)[Stage.ESTIMATION] == 0
    certificate = PLAN.certificate(counts, SETTING)
    assert (certificate.label, certificate.calls) == (None, 200)


def test_another_number_of_copies_is_refused() -> None:
    n = copies(190)
    for had in (n - 1, n + 1):
        with pytest.raises(CountsError, match=rf"{n} copies for estimation, got {had}:"):
            PLAN.certificate(stages((190, 10), (had,)), SETTING)
    with pytest.raises(CountsError, match=r"200 copies for selection, got 199:"):
        PLAN.certificate(stages((199,), (5_000,)), SETTING)


def test_is_not_extended_afterwards() -> None:
    with pytest.raises(SettingError, match="plan 'radius' cannot be extended by 100 copies"):
        PLAN.extended(100)
    assert PLAN.joined(FixedBudget()) is None
    assert PLAN.joined(RadiusTarget(of_n=5_000, n0=200)) is PLAN
    assert PLAN.most_calls() == 5_200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of_n": 0}, "^of_n must .* got 0"),
        ({"n0": -5}, "^n0 must .* got -5"),
        ({"share": 1.0}, "^share must .* got 1.0. Use a share"),
        ({"share": 0.0}, "^share must .* got 0.0. Use"),
        ({"share": float("nan")}, "^share must .* got nan. Use"),
    ],
)
def test_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RadiusTarget(**options)
