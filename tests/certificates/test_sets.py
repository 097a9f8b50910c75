from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.certificates.radii import gaussian_radius, two_sided_radius
from denoised_smoothing.certificates.sets import SetCertificate, margin_radius, set_certificates
from denoised_smoothing.errors import SettingError

from .samples import conclude, counts_of, drive, setting_of, stages, streams_of

PHI, QUANTILE = stats.norm.cdf, stats.norm.ppf
chances = st.floats(1e-9, 0.999)


def of_votes(
    plan: SamplingPlan, selection: Sequence[int], votes: Sequence[int], failed: int = 0
) -> Certificate:
    return plan.certificate(stages(tuple(selection), tuple(votes), failed), setting_of(1.0))


def test_the_radius_of_two_labels_with_a_share_of_nine_tenths() -> None:
    """The worked example: 0.85 sigma without and 1.50 sigma with a bound on other labels."""
    plain = margin_radius(1.0, 0.1, 1.0, size=2)
    assert plain == pytest.approx(QUANTILE(0.9) - QUANTILE(2 / 3), abs=1e-9)
    assert plain == pytest.approx(0.8509, abs=1e-4)
    sharper = margin_radius(1.0, 0.1, 0.01, size=2)
    assert sharper == pytest.approx(1.50515, abs=1e-5)
    kept, reached = PHI(QUANTILE(0.9) - sharper) / 2, PHI(QUANTILE(0.01) + sharper)
    assert kept == pytest.approx(reached, abs=1e-9)


@given(q=chances, u=chances, sigma=st.floats(0.1, 2.0))
def test_one_label_has_the_radius_of_the_top_label(q: float, u: float, sigma: float) -> None:
    one = margin_radius(sigma, q, 1.0)
    assert one == pytest.approx(gaussian_radius(sigma, q), abs=1e-6)
    two = margin_radius(sigma, q, u)
    assert two == pytest.approx(two_sided_radius(sigma, q, min(u, q)), abs=1e-6)


@given(q=chances, size=st.integers(1, 10), e=st.floats(0.0, 0.01))
def test_sets_without_a_bound_on_others_have_the_closed_form(q: float, size: int, e: float) -> None:
    """R_S = sigma (Phi^-1(p - e) - Phi^-1(m / (m + 1) + e))."""
    p, least = 1.0 - q - e, size / (size + 1) + e
    expected = max(0.0, QUANTILE(p) - QUANTILE(least)) if p > 0.0 and least < 1.0 else 0.0
    assert margin_radius(0.5, q, 1.0, size=size, error=e) == pytest.approx(0.5 * expected, abs=1e-6)


@given(q=chances, u=chances, size=st.integers(1, 6), rivals=st.integers(1, 6))
def test_it_is_the_largest_radius(q: float, u: float, size: int, rivals: int) -> None:
    def ahead(r: float) -> float:
        reached = PHI(QUANTILE(min(u, q)) + r)
        return float((1 - PHI(QUANTILE(q) + r)) / size - reached / rivals)

    radius = margin_radius(1.0, q, u, size=size, rivals=rivals)
    if radius == 0.0:
        assert ahead(0.0) <= 1e-9
    else:
        assert ahead(radius) >= -1e-9
        assert ahead(radius + 1e-6) < 1e-9


def test_an_error_of_the_noise_counts_at_the_image_and_at_its_neighbour() -> None:
    e, q, u = 0.02, 0.1, 0.03

    def ahead(r: float) -> float:
        kept = PHI(QUANTILE(1 - q - e) - r) - e
        return float(kept / 3 - PHI(QUANTILE(u + e) + r) - e)

    expected = optimize.brentq(ahead, 0.0, 5.0)
    assert margin_radius(0.5, q, u, size=3, error=e) == pytest.approx(expected / 2, abs=1e-9)
    assert margin_radius(0.5, q, u, size=3, error=0.3) == 0.0
    assert margin_radius(0.5, 1.0, 1.0, size=3, error=e) == 0.0


@pytest.mark.parametrize(("q", "u", "e"), [(0.0, 0.1, 0.0), (0.1, 1.1, 0.0), (0.1, 0.1, -1.0)])
def test_bounds_out_of_range_are_refused(q: float, u: float, e: float) -> None:
    with pytest.raises(SettingError, match=r"must lie in \(0, 1\]"):
        margin_radius(1.0, q, u, error=e)


def test_the_sets_of_a_fixed_budget() -> None:
    plan = FixedBudget(n0=100, n=1000)
    certificate = of_votes(plan, (40, 35, 20, 5), (430, 420, 90, 40, 10), failed=10)
    assert certificate.label is None
    two, three = set_certificates(certificate, (3, 2))
    assert (two.labels, three.labels) == ((0, 1), (0, 1, 2))
    assert (two.leading, two.size) == (2, 2)
    level = 0.0005  # alpha 0.001 for two sizes, and half of a share for each bound
    p = stats.beta.ppf(level / 2, 850, 151)
    u = stats.beta.ppf(1 - level / 2, 101, 900)  # the 90 of label 2 and the 10 failed copies
    assert two.alpha == level
    assert two.lower_bound == pytest.approx(p)
    assert two.upper_bound == pytest.approx(u)
    assert two.radius == pytest.approx(
        optimize.brentq(lambda r: PHI(QUANTILE(p) - r) / 2 - PHI(QUANTILE(u) + r), 0, 3), abs=1e-6
    )
    assert three.radius > two.radius > 0.0
    assert three.certified
    assert two.to_dict()["radius"] <= two.radius
    assert two.to_dict()["upper_bound"] >= two.upper_bound


def test_the_selection_says_how_many_labels_lead() -> None:
    """One label is far ahead of those outside: no need to share its votes with four others."""
    plan = FixedBudget(n0=100, n=1000)
    certificate = of_votes(plan, (60, 10, 9, 9, 6, 6), (600, 100, 90, 90, 60, 60))
    [found] = set_certificates(certificate, (5,))
    assert (found.labels, found.leading) == ((0, 1, 2, 3, 4), 1)
    lower, upper = stats.beta.ppf(0.0005, 600, 401), stats.beta.ppf(0.9995, 61, 940)
    assert (found.lower_bound, found.upper_bound) == pytest.approx((lower, upper))
    assert found.radius == pytest.approx((QUANTILE(lower) - QUANTILE(upper)) / 2, abs=1e-6)
    assert found.radius > margin_radius(1.0, 0.06, 0.06, size=5) > 0.0


def test_equal_sets_share_one_level() -> None:
    """The selection stage has seen two labels, so that sizes 2, 3 and 5 have one set."""
    certificate = of_votes(FixedBudget(n0=10, n=100), (5, 5), (50, 50))
    found = set_certificates(certificate)
    assert [held.size for held in found] == [2, 3, 5]
    assert {(held.labels, held.alpha) for held in found} == {((0, 1), 0.001)}


def test_missing_copies_count_against_the_set() -> None:
    """The top label cannot win any more with 300 of 800 votes, so the budget ends."""
    plan = FixedBudget(n0=10, n=1000)
    [early] = set_certificates(of_votes(plan, (6, 4), (300, 480, 20)), (2,))
    assert early.lower_bound == pytest.approx(stats.beta.ppf(0.0005, 780, 221))
    assert early.upper_bound == pytest.approx(stats.beta.ppf(0.9995, 221, 780))
    whole = stats.beta.ppf(0.0005, 780, 221)
    assert early.radius == pytest.approx(QUANTILE(whole) - QUANTILE(2 / 3), abs=1e-6)


def test_a_radius_plan_has_the_number_that_its_pilot_chose() -> None:
    plan = RadiusTarget(of_n=1000, n0=100)
    certificate = conclude(
        plan, setting_of(1.0), streams_of(np.random.default_rng(0), (1.0,), plan)
    )
    [found] = set_certificates(certificate, (1,))
    n = plan.n({Stage.SELECTION: certificate.selection}, certificate.parameters)
    assert n is not None
    assert n < 1000
    assert found.lower_bound == pytest.approx(0.0005 ** (1 / n))


def test_an_anytime_plan_bounds_by_mixture_and_look() -> None:
    plan = Anytime((0.25,), max_n=1000, n0=20)
    certificate = of_votes(plan, (10, 10), (300, 290, 10))
    [found] = set_certificates(certificate, (2,))
    # The evidence by numerical integration of the truncated Jeffreys prior.
    from scipy import integrate

    def evidence(q0: float) -> float:
        def likelihood(s: float) -> float:
            return float(
                np.exp(590 * np.log((1 - s) / (1 - q0)) + 10 * np.log(s / q0))
                / np.sqrt(s * (1 - s))
            )

        above = integrate.quad(likelihood, 0, q0, points=[10 / 600], limit=200)[0]
        return float(above / (2 * np.arcsin(np.sqrt(q0))))

    wanted = 1 / (0.75 * 0.0005)
    q = optimize.brentq(lambda q0: np.log(evidence(q0) / wanted), 10 / 600, 0.5)
    assert 1 - found.lower_bound == pytest.approx(q, rel=1e-6)
    at_cap = of_votes(plan, (10, 10), (500, 490, 10))
    look = stats.beta.ppf(1 - 0.25 * 0.0005, 11, 990)
    assert 1 - set_certificates(at_cap, (2,))[0].lower_bound == pytest.approx(look)


def test_a_plan_without_selection_is_refused() -> None:
    plan = Anytime((0.25,), max_n=100, n0=0)
    certificate = plan.certificate(stages(None, (60, 40)), setting_of())
    with pytest.raises(SettingError, match="--n0 50"):
        set_certificates(certificate)


def test_without_votes_nothing_is_proven() -> None:
    selection = counts_of(Stage.SELECTION, (), failed=10)
    plan = FixedBudget(n0=10, n=100)
    counts = {
        Stage.SELECTION: selection,
        Stage.ESTIMATION: LabelCounts("run", "7", Stage.ESTIMATION),
    }
    [found] = set_certificates(plan.certificate(counts, setting_of()), (3,))
    assert (found.labels, found.radius, found.lower_bound) == ((), 0.0, 0.0)


@pytest.mark.parametrize("sizes", [(), (0,), (2.5,), (True,)])
def test_sizes_must_be_whole_numbers(sizes: tuple[int, ...]) -> None:
    certificate = of_votes(FixedBudget(n0=10, n=100), (5, 5), (50, 50))
    with pytest.raises(SettingError, match="whole numbers of at least 1"):
        set_certificates(certificate, sizes)


def test_grid_noise_costs_its_error() -> None:
    plan = FixedBudget(n0=10, n=100)
    counts = stages((5, 5), (50, 50))
    exact, grid = (
        set_certificates(plan.certificate(counts, setting_of(noise=noise)), (2,))[0].radius
        for noise in (Noise.FLOAT, Noise.GRID)
    )
    assert grid < exact
    assert grid == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("sizes", [(2,), (2, 3)])
def test_the_exact_chance_that_a_bound_of_a_set_is_wrong(sizes: tuple[int, ...]) -> None:
    """Summed over all counts of three labels, at probabilities on the edge of both bounds.

    Label 0 leads the set of 0 and 1, and 2 is outside. Just below its bound, a probability is
    missed with exactly the level: half of alpha, shared by the sizes. A split that is forgotten
    misses it more often.
    """
    n, alpha = 80, 0.05
    level = alpha / len(sizes) / 2
    p0 = stats.beta.ppf(level, 36, n - 35) - 1e-9  # where 36 copies vote for label 0
    p2 = stats.beta.ppf(1 - level, 25, n - 24) + 1e-9  # where 24 copies vote for label 2
    p = (p0, 1 - p0 - p2, p2)
    plan, setting = FixedBudget(n0=30, n=n), setting_of(1.0, alpha)
    truth = margin_radius(1.0, 1 - p0, p2)
    wrong = {"lower": 0.0, "upper": 0.0, "any": 0.0}
    for votes in ((a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)):
        certificate = plan.certificate(stages((20, 6, 4), votes), setting)
        found = set_certificates(certificate, sizes)[0]
        assert (found.labels, found.leading) == ((0, 1), 1)
        chance = float(stats.multinomial.pmf(votes, n, p))
        wrong["lower"] += chance * (found.lower_bound > p0)
        wrong["upper"] += chance * (found.upper_bound < p2)
        if found.lower_bound > p0 or found.upper_bound < p2:
            wrong["any"] += chance
        else:
            assert found.radius <= truth + 1e-9
    assert wrong["lower"] == pytest.approx(level, rel=1e-4)
    assert wrong["upper"] == pytest.approx(level, rel=1e-4)
    assert 1.5 * level < wrong["any"] <= 2 * level


PLANS: dict[str, SamplingPlan] = {
    "anytime": Anytime((0.1, 0.9), max_n=300, n0=20, every=50),
    "continued": Anytime((0.1, 0.9), max_n=150, n0=20, every=50, more=150),
    "radius": RadiusTarget(of_n=300, n0=40, share=0.9),
}
PROBABILITIES = {
    "two of four alike": (0.25, 0.25, 0.25, 0.25),
    "five of six": (0.2, 0.2, 0.2, 0.2, 0.1, 0.1),
    "a third behind": (0.34, 0.34, 0.16, 0.16),
    "failed copies would vote for another": (0.35, 0.35, 0.2),
}


def true_radius(p: Sequence[float], found: SetCertificate) -> float:
    """Of the set, given that failed copies are votes for the first label outside."""
    outside = [q for k, q in enumerate(p) if k not in found.labels]
    other = max(outside, default=0.0) + 1 - sum(p)
    inside = sum(p[k] for k in found.labels[: found.leading])
    return margin_radius(0.5, max(1 - inside, 1e-9), max(other, 1e-9), size=found.leading)


@pytest.mark.parametrize("p", PROBABILITIES.values(), ids=list(PROBABILITIES))
@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_no_plan_gives_many_wrong_sets(plan: SamplingPlan, p: Sequence[float]) -> None:
    """A coarse check of plans whose number of copies is random; the split is summed above."""
    random, repeats, alpha = np.random.default_rng(21), 400, 0.05
    setting, wrong = setting_of(0.5, alpha), 0
    drawn = (Stage.SELECTION, Stage.ESTIMATION, Stage.CONTINUATION)
    for _ in range(repeats):
        counts = drive(plan, setting, streams_of(random, p, plan, *drawn))
        found = set_certificates(plan.certificate(counts, setting), (2, 3))
        wrong += any(held.radius > true_radius(p, held) + 1e-9 for held in found)
    assert stats.binomtest(wrong, repeats, alpha, alternative="greater").pvalue > 1e-6
