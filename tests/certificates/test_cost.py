"""Planning: exact expectations against the plans themselves, and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.confidence_sequence import mixture_failure_bound
from denoised_smoothing.certificates.cost import (
    Bound,
    estimate,
    expected_calls,
    least_cap,
    least_copies,
)
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.errors import SettingError

SETTING = SmoothingParameters(sigma=0.5, alpha=0.001, dimension=3072, seed=0)
UNIT = SmoothingParameters(sigma=1.0, alpha=0.001, dimension=1, seed=0, noise=Noise.FLOAT)


def run_plan(plan: Anytime | FixedBudget, radius: float, p: float, seed: int) -> tuple[int, bool]:
    """Calls and verdict of the plan itself on one image whose label 0 has probability p."""
    random = np.random.default_rng(seed)
    counts: dict[Stage, LabelCounts] = {}
    while True:
        missing = {
            stage: wanted - (counts[stage].n if stage in counts else 0)
            for stage, wanted in plan.targets(counts, SETTING).items()
        }
        if not any(missing.values()):
            break
        for stage, n in missing.items():
            votes = int(random.binomial(n, p)) if stage is not Stage.SELECTION else n
            had = counts.get(stage, LabelCounts("run", "0", stage))
            counts[stage] = had + LabelCounts(had.run, had.image_id, stage, (votes,), n - votes)
    certificate = plan.certificate(counts, SETTING)
    return certificate.calls, certificate.radius >= radius


class TestLeastCopies:
    @pytest.mark.parametrize(
        ("ratio", "fixed", "mixture"),
        [
            (0.5, 19, 22),
            (1.0, 40, 47),
            (1.5, 100, 117),
            (2.0, 301, 351),
            (2.5, 1109, 1296),
            (3.0, 5114, 5977),
        ],
    )
    def test_published_numbers(self, ratio: float, fixed: int, mixture: int) -> None:
        assert least_copies(Bound.CLOPPER_PEARSON, UNIT, ratio) == fixed
        assert least_copies(Bound.MIXTURE, UNIT, ratio) == mixture

    @pytest.mark.parametrize("radius", [0.0, 0.3, 0.77, 1.2, 1.6])
    def test_one_less_does_not_certify(self, radius: float) -> None:
        for bound in Bound:
            n = least_copies(bound, SETTING, radius)
            assert n is not None
            for copies, enough in ((n, True), (n - 1, False)):
                if bound is Bound.MIXTURE:
                    failure = mixture_failure_bound(copies, copies, SETTING.alpha)
                else:
                    failure = clopper_pearson_upper(0, copies, SETTING.alpha)
                certified = (
                    failure <= 0.5 and gaussian_radius(0.5, failure, SETTING.error) >= radius
                )
                assert certified is enough, (bound, copies)

    def test_the_error_of_the_noise_puts_large_radii_out_of_reach(self) -> None:
        far = 0.5 * 8
        assert least_copies(Bound.CLOPPER_PEARSON, SETTING, far) is None
        assert least_copies(Bound.MIXTURE, SETTING, far) is None
        assert least_copies(Bound.CLOPPER_PEARSON, UNIT, 8.0) > 10**15  # type: ignore[operator]
        for bound in Bound:
            assert least_copies(bound, UNIT, 9.5) is None  # beyond 2^60 copies

    def test_a_negative_radius_is_refused(self) -> None:
        with pytest.raises(SettingError, match="at least 0"):
            least_copies(Bound.MIXTURE, SETTING, -0.5)


class TestLeastCap:
    @pytest.mark.parametrize("n0", [0, 50])
    @pytest.mark.parametrize("radius", [0.25, 1.0, 1.5])
    def test_the_plan_reaches_with_it_and_not_with_less(self, radius: float, n0: int) -> None:
        cap = least_cap(Anytime(n0=n0), SETTING, radius)
        assert cap is not None
        assert Anytime(radii=(radius,), max_n=cap, n0=n0).boundaries(SETTING)
        assert not Anytime(radii=(radius,), max_n=cap - 1, n0=n0).boundaries(SETTING)

    def test_none(self) -> None:
        assert least_cap(Anytime(), SETTING, 30.0) is None


class TestExpectedCalls:
    @pytest.mark.parametrize(
        "plan",
        [
            Anytime(radii=(0.5,), max_n=1000, n0=20, every=50),
            Anytime(radii=(0.5,), max_n=450, n0=20, every=100, more=330),
            FixedBudget(n0=20, n=300),
        ],
        ids=["anytime", "continued", "fixed"],
    )
    @pytest.mark.parametrize("p", [0.3, 0.8, 0.9, 0.97])
    def test_the_plan_itself_takes_as_many(self, plan: Anytime | FixedBudget, p: float) -> None:
        """400 images: five standard errors, 24 cases."""
        images = 400
        runs = [run_plan(plan, 0.5, p, seed) for seed in range(images)]
        calls, certified = np.array(runs, dtype=float).T
        expected = expected_calls(plan, SETTING, 0.5, p)
        slack = 5 * calls.std() / math.sqrt(images) + 0.2  # what hardly any image does
        assert expected.calls == pytest.approx(calls.mean(), abs=slack)
        share = expected.certified
        slack = 5 * math.sqrt(max(share * (1 - share), 1e-5) / images)
        assert share == pytest.approx(certified.mean(), abs=slack)

    def test_a_fixed_budget_certifies_with_the_binomial_probability(self) -> None:
        plan, p = FixedBudget(n0=100, n=1000), 0.87
        most = max(
            failures
            for failures in range(1001)
            if gaussian_radius(0.5, clopper_pearson_upper(failures, 1000, 0.001), SETTING.error)
            >= 0.5
        )
        expected = stats.binom.cdf(most, 1000, 1 - p)
        assert 0.05 < expected < 0.95
        got = expected_calls(plan, SETTING, 0.5, p)
        assert got.certified == pytest.approx(expected, rel=1e-9)
        assert got.calls == pytest.approx(1100)

    @pytest.mark.parametrize("p", [0.3, 0.42, 0.5])
    def test_a_fixed_budget_ends_where_the_rest_cannot_prevent_an_abstention(
        self, p: float
    ) -> None:
        """After 50 of 100 copies, unless 50 more successes are enough for a bound above 1/2."""
        enough = next(s for s in range(101) if stats.beta.ppf(0.001, s, 101 - s) > 0.5)
        goes_on = stats.binom.sf(enough - 50 - 1, 50, p)
        found = expected_calls(FixedBudget(10, 100), SETTING, 0.5, p)
        assert found.calls == pytest.approx(60 + 50 * goes_on, abs=1e-9)

    def test_certain_images_end_at_the_first_decision(self) -> None:
        assert expected_calls(Anytime(), SETTING, 0.5, 1.0).calls == pytest.approx(150)
        assert expected_calls(Anytime(), SETTING, 0.5, 1.0).certified == pytest.approx(1.0)
        assert expected_calls(Anytime(), SETTING, 0.5, 0.0).calls == pytest.approx(150)
        assert expected_calls(Anytime(), SETTING, 0.5, 0.0).certified == 0.0

    def test_at_the_threshold_hardly_any_is_certified(self) -> None:
        p = float(stats.norm.cdf(1.0))
        got = expected_calls(Anytime(max_n=2000), SETTING, 0.5, p)
        assert 0.0 < got.certified <= 0.001

    def test_what_is_out_of_reach_takes_no_call(self) -> None:
        got = expected_calls(Anytime(), SETTING, 2.5, 1.0)
        assert (got.calls, got.certified) == (0.0, 0.0)

    @pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
    def test_no_probability(self, p: float) -> None:
        with pytest.raises(SettingError, match="must lie in \\[0, 1\\]"):
            expected_calls(Anytime(), SETTING, 0.5, p)

    def test_two_sided_is_refused(self) -> None:
        with pytest.raises(SettingError, match="runner-up"):
            expected_calls(FixedBudget(two_sided=True), SETTING, 0.5, 0.9)


class TestEstimate:
    def test_of_a_pilot(self) -> None:
        got = estimate([100.0, 200.0, 300.0, 400.0], 100)
        assert got.total == pytest.approx(25_000)
        error = 100 * np.std([100, 200, 300, 400], ddof=1) / 2 * math.sqrt(0.96)
        assert got.error == pytest.approx(error)
        assert got.high - got.total == pytest.approx(3.182446 * error, rel=1e-6)

    def test_the_total_is_at_least_what_was_spent(self) -> None:
        assert estimate([1.0, 1000.0], 4).low == pytest.approx(1001)

    def test_once_all_are_measured_nothing_is_uncertain(self) -> None:
        got = estimate([10.0, 20.0], 2)
        assert (got.low, got.total, got.high) == (30.0, 30.0, 30.0)

    def test_the_interval_covers(self) -> None:
        """5,000 pilots of 30 normal amounts out of 300: 95 % with five standard errors."""
        random = np.random.default_rng(3)
        hits = 0
        for _ in range(5000):
            amounts = random.normal(100, 10, 300)
            got = estimate(amounts[:30].tolist(), 300)
            hits += got.low <= amounts.sum() <= got.high
        assert abs(hits / 5000 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 5000)

    def test_too_few(self) -> None:
        with pytest.raises(SettingError, match="at least 2 images, got 1"):
            estimate([10.0], 100)
        with pytest.raises(SettingError, match="include the 3 images of the pilot, got 2"):
            estimate([10.0, 20.0, 30.0], 2)
