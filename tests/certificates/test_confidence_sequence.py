"""The mixture and its boundary: golden numbers, its theory, and its validity by exact sums."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.confidence_sequence import (
    NEAR_1,
    Boundary,
    boundary,
    check_anytime_alpha,
    log_evidence,
    mixture_failure_bound,
    mixture_interval,
)
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.errors import SettingError

GOLDEN_FILE = Path(__file__).with_name("golden_bounds.csv")
GOLDEN = list(csv.DictReader(GOLDEN_FILE.read_text().splitlines()))
ALPHA = 0.001
reproducible = settings(derandomize=True, deadline=None, max_examples=100)
trials = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
alphas = st.floats(1e-6, 0.36)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: ",".join(list(row.values())[:3]))
def test_mixture_bound_and_radius_equal_numbers_computed_at_40_digits(row: dict[str, str]) -> None:
    bound = mixture_failure_bound(int(row["successes"]), int(row["n"]), float(row["alpha"]))
    if row["mixture_lower"] == "":
        assert bound == 1.0
        return
    assert 1.0 - bound == pytest.approx(float(row["mixture_lower"]), rel=0, abs=1e-9)
    radius = float(row["mixture_radius_over_sigma"])
    assert gaussian_radius(1.0, bound) == pytest.approx(radius, rel=0, abs=1e-9)


@pytest.mark.parametrize(
    ("multiple", "mixture", "fixed"),
    [
        (0.5, 22, 19),
        (1, 47, 40),
        (1.5, 117, 100),
        (2, 351, 301),
        (2.5, 1296, 1109),
        (3, 5977, 5114),
    ],
)
def test_least_number_of_successes_in_a_row_that_certifies(
    multiple: float, mixture: int, fixed: int
) -> None:
    q0 = float(special.ndtr(-multiple))
    assert mixture_failure_bound(mixture, mixture, ALPHA) <= q0
    assert mixture_failure_bound(mixture - 1, mixture - 1, ALPHA) > q0
    assert clopper_pearson_upper(0, fixed, ALPHA) <= q0 < clopper_pearson_upper(0, fixed - 1, ALPHA)
    for n, enough in ((mixture - 1, False), (mixture, True)):
        assert boundary(q0, ALPHA, 0.0, n, 0, n).reachable is enough
    for n, enough in ((fixed - 1, False), (fixed, True)):
        assert boundary(q0, 1e-30, ALPHA, n, 0, n).reachable is enough


@pytest.mark.parametrize(
    ("successes", "n", "fixed", "mixture"),
    [(9_500, 10_000, 1.5797, 1.5523), (1_000, 1_000, 2.4633, 2.4071)],
)
def test_radius_over_sigma_known_values(
    successes: int, n: int, fixed: float, mixture: float
) -> None:
    failure = clopper_pearson_upper(n - successes, n, ALPHA)
    assert gaussian_radius(1.0, failure) == pytest.approx(fixed, abs=5e-5)
    failure = mixture_failure_bound(successes, n, ALPHA)
    assert gaussian_radius(1.0, failure) == pytest.approx(mixture, abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "failures", "q0"),
    [
        (0, 0, 0.3),
        (22, 0, 0.3085375387259869),
        (50, 10, 0.4),
        (3, 7, 0.2),
        (100, 80, 0.5),
        (990, 10, 0.02),
        (60, 2, 0.97),
        (5977, 0, 0.0013498980316301),
    ],
)
def test_evidence_equals_the_ratio_of_likelihoods_integrated_over_the_prior(
    successes: int, failures: int, q0: float
) -> None:
    """With q = s^2, which takes the singularity of the prior at 0 away."""
    with mpmath.workdps(30):
        edge = mpmath.sqrt(q0)
        points = mpmath.linspace(0, edge, 41)
        joint = mpmath.quad(
            lambda s: s ** (2 * failures) * (1 - s * s) ** (successes - mpmath.mpf(0.5)), points
        )
        prior = mpmath.quad(lambda s: (1 - s * s) ** mpmath.mpf(-0.5), [0, edge])
        null = successes * mpmath.log1p(-q0) + failures * mpmath.log(q0)
        expected = float(mpmath.log(joint / prior) - null)
    assert float(log_evidence(successes, failures, q0)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n", [30_000, 50_000, 100_000, 200_000])
@pytest.mark.parametrize("failures", [0, 1, 5, 30, 100])
def test_rounding_errors_of_large_n_stay_on_the_safe_side(n: int, failures: int) -> None:
    """The logarithms of large factorials lose digits: unguarded, most of these fall short.

    The missing evidence is up to 3e-10 of ln 1/alpha; the guard is above it by 1e-10 or more.
    """
    q = mpmath.mpf(mixture_failure_bound(n - failures, n, ALPHA))
    with mpmath.workdps(40):
        assert 0.0 <= exact_surplus(n - failures, failures, q) < 1e-8


@pytest.mark.parametrize(("failures", "n"), [(0, 15), (0, 20), (5, 50), (0, 100), (10, 200)])
def test_the_bound_lies_just_above_the_exact_root(failures: int, n: int) -> None:
    """By 1e-12 of it; the guard against rounding errors adds less than a tenth of that."""
    bound = mixture_failure_bound(n - failures, n, ALPHA)
    with mpmath.workdps(40):
        root = mpmath.findroot(lambda q: exact_surplus(n - failures, failures, q), bound)
        assert 0.9e-12 < bound / root - 1 < 1.2e-12


def exact_surplus(successes: int, failures: int, q: mpmath.mpf) -> mpmath.mpf:
    """The evidence against failures of probability q, beyond ln 1/alpha."""
    a, f, half = mpmath.mpf(successes), mpmath.mpf(failures), mpmath.mpf(1) / 2
    mixture = mpmath.betainc(f + half, a + half, 0, q) / mpmath.betainc(half, half, 0, q)
    evidence = mpmath.log(mixture) - a * mpmath.log1p(-q) - f * mpmath.log(q)
    return evidence - mpmath.log(1 / mpmath.mpf(ALPHA))


@reproducible
@given(st.integers(0, 500), st.integers(0, 500), st.floats(1e-4, 0.9))
def test_evidence_is_a_martingale_at_the_threshold(a: int, f: int, q0: float) -> None:
    now, success, failure = log_evidence([a, a + 1, a], [f, f, f + 1], q0)
    assume(special.betainc(f + 1.5, a + 0.5, q0) > 1e-290)  # where floats keep their digits
    mean = np.logaddexp(math.log1p(-q0) + success, math.log(q0) + failure)
    assert mean == pytest.approx(now, rel=1e-9, abs=1e-9)


@reproducible
@given(st.integers(0, 300), st.integers(0, 300), st.floats(1e-4, 0.5), st.floats(0.0, 1.0))
def test_evidence_shrinks_on_average_under_the_hypothesis(
    a: int, f: int, q0: float, share: float
) -> None:
    q = q0 + share * (1.0 - q0)
    now, success, failure = log_evidence([a, a + 1, a], [f, f, f + 1], q0)
    assume(special.betainc(f + 1.5, a + 0.5, q0) > 1e-290)
    assert (1 - q) * math.exp(success - now) + q * math.exp(failure - now) <= 1 + 1e-8


@reproducible
@given(trials, alphas)
def test_evidence_that_is_enough_stays_enough_for_larger_failure_probabilities(
    trial: tuple[int, int], alpha: float
) -> None:
    """So the bound is the only crossing above the observed rate, and radii are nested."""
    successes, n = trial
    failures, wanted = n - successes, -math.log(alpha)
    assume(2 * failures < n)
    bound = mixture_failure_bound(successes, n, alpha)
    rate = max(failures / n, 1e-9 / n)
    below = np.geomspace(rate, min(bound, 0.5), 40)[:-1]
    assert all(float(log_evidence(successes, failures, q)) < wanted + 1e-9 for q in below)
    if bound < 1.0:
        above = np.linspace(bound, 0.5, 40)
        assert all(float(log_evidence(successes, failures, q)) >= wanted - 1e-9 for q in above)


@reproducible
@given(trials, alphas)
def test_the_mixture_is_a_little_wider_than_clopper_pearson(
    trial: tuple[int, int], alpha: float
) -> None:
    successes, n = trial
    bound = mixture_failure_bound(successes, n, alpha)
    assert bound > min(clopper_pearson_upper(n - successes, n, alpha), 0.5)
    assert bound > (n - successes) / n or bound == 1.0


@reproducible
@given(trials, alphas, st.floats(1e-3, 0.5))
def test_the_boundary_certifies_exactly_where_the_bounds_undercut(
    trial: tuple[int, int], alpha: float, q0: float
) -> None:
    successes, n = trial
    mixture = mixture_failure_bound(successes, n, 0.75 * alpha)
    [least] = boundary(q0, 0.75 * alpha, 0.0, n, 0, n).certify
    assert (successes >= least) == (mixture <= q0)
    [least] = boundary(q0, 0.75 * alpha, 0.25 * alpha, n, 0, n).certify
    look = clopper_pearson_upper(n - successes, n, 0.25 * alpha)
    assert (successes >= least) == (min(mixture, look) <= q0)


@pytest.mark.parametrize("more", [0, 450])
@pytest.mark.parametrize("q0", [0.5, 0.1586552539314571, 0.02])
def test_a_radius_is_given_up_where_it_is_out_of_reach_or_improbable(q0: float, more: int) -> None:
    judged = boundary(q0, 0.00075, 0.00025, 1000, more, 100)
    assert list(judged.checkpoints) == [*range(100, 1001, 100), *range(1100, 1001 + more, 100)] + (
        [1450] if more else []
    )
    assert (judged.give_up < judged.certify).all()
    for k, n in enumerate(judged.checkpoints):
        for successes in (int(judged.give_up[k]), int(judged.give_up[k]) + 1):
            if not 0 <= successes < judged.certify[k]:
                continue
            ahead = successes + judged.checkpoints[k:] - n
            reachable = bool((ahead >= judged.certify[k:]).any())
            evidence = float(log_evidence(n - successes, successes, 1.0 - q0))
            given_up = not reachable or evidence >= math.log(100)  # of a level of 0.01
            assert given_up == (successes <= judged.give_up[k])
    if not more:  # at the last checkpoint everything is decided
        assert judged.give_up[-1] == judged.certify[-1] - 1


def test_the_look_is_spent_once_at_the_cap() -> None:
    alone = boundary(0.1, 0.00075, 0.0, 1000, 500, 100)
    both = boundary(0.1, 0.00075, 0.00025, 1000, 500, 100)
    assert list(np.flatnonzero(alone.certify != both.certify)) == [9]
    assert both.certify[9] < alone.certify[9]
    assert list(both.certify[:10]) == list(boundary(0.1, 0.00075, 0.00025, 1000, 0, 100).certify)


class TestValidity:
    """The probability of ever certifying at the threshold, summed exactly over all streams."""

    CAP = 2000
    THRESHOLDS = (0.5, 0.3085375387259869, 0.1, 0.02)

    @staticmethod
    def ever(judged: Boundary, q: float) -> float:
        alive, wrong, before = np.ones(1), 0.0, 0
        for n, certify in zip(judged.checkpoints.tolist(), judged.certify.tolist(), strict=True):
            step = stats.binom.pmf(np.arange(n - before + 1), n - before, 1.0 - q)
            alive, before = np.convolve(alive, step), n
            wrong += float(alive[certify:].sum())
            alive[certify:] = 0.0
        return wrong

    def naive(self, q0: float, alpha: float, every: int) -> Boundary:
        """Clopper-Pearson at every checkpoint, as if each were the only one."""
        ns = np.arange(every, self.CAP + 1, every)
        least: list[npt.NDArray[np.int64]] = [
            boundary(q0, 1e-30, alpha, int(n), 0, int(n)).certify for n in ns
        ]
        return Boundary(ns, np.concatenate(least), np.full(len(ns), -1))

    @pytest.mark.parametrize("every", [1, 100])
    @pytest.mark.parametrize("alpha", [0.001, 0.05])
    @pytest.mark.parametrize("q0", THRESHOLDS)
    def test_of_mixture_and_look(self, q0: float, alpha: float, every: int) -> None:
        judged = boundary(q0, 0.75 * alpha, 0.25 * alpha, self.CAP, 0, every)
        assert 0.1 * alpha < self.ever(judged, q0) <= alpha

    @pytest.mark.parametrize("q0", THRESHOLDS)
    def test_of_a_run_that_was_continued(self, q0: float) -> None:
        judged = boundary(q0, 0.0375, 0.0125, 500, self.CAP - 500, 50)
        assert 0.005 < self.ever(judged, q0) <= 0.05

    @pytest.mark.parametrize("p", [0.5, 0.4, 0.2])
    def test_of_pooling_is_at_most_twice_p_times_the_one_of_a_coin(self, p: float) -> None:
        """The lemma that makes alpha / 2 enough for all classes together."""
        judged = boundary(0.5, 0.75 * 0.025, 0.25 * 0.025, self.CAP, 0, 10)
        coin = self.ever(judged, 0.5)
        assert coin <= 0.025
        assert self.ever(judged, 1.0 - p) <= 2 * p * coin * (1 + 1e-9)

    def test_of_pooling_at_the_whole_alpha_would_be_lost(self) -> None:
        """Either class of p = (1/2, 1/2) may be certified by the look, each with nearly alpha."""
        coin = self.ever(boundary(0.5, 1e-30, 0.05, self.CAP, 0, 10), 0.5)
        assert coin <= 0.05 < 2 * coin
        assert 2 * self.ever(boundary(0.5, 1e-30, 0.025, self.CAP, 0, 10), 0.5) <= 0.05

    @pytest.mark.parametrize("q0", THRESHOLDS)
    def test_of_peeking_at_clopper_pearson_is_lost(self, q0: float) -> None:
        assert self.ever(self.naive(q0, 0.001, 50), q0) > 5 * 0.001
        assert self.ever(self.naive(q0, 0.05, 50), q0) > 3 * 0.05


@pytest.mark.parametrize("alpha", [0.37, 0.9])
def test_an_alpha_too_large_for_an_anytime_bound_is_refused(alpha: float) -> None:
    message = rf"at most 0\.36 with an anytime plan, got {alpha}\. Use .* 0\.001"
    for refused in (
        lambda: check_anytime_alpha(alpha),
        lambda: mixture_failure_bound(9, 10, alpha),
    ):
        with pytest.raises(SettingError, match=message):
            refused()


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_trials_are_refused(successes: int, n: int) -> None:
    with pytest.raises(SettingError, match=rf"got {successes} of {n}\."):
        mixture_failure_bound(successes, n, ALPHA)


@reproducible
@given(trials, st.floats(1e-6, 0.9))
def test_the_interval_ends_where_the_mixture_ratio_is_one_over_alpha(
    numbers: tuple[int, int], alpha: float
) -> None:
    successes, n = numbers
    with mpmath.workdps(30):
        mixture = mpmath.beta(successes + 0.5, n - successes + 0.5) / mpmath.pi
        for end, outer in zip(mixture_interval(successes, n, alpha), (0.0, 1.0), strict=True):
            if end in (outer, 1.0):
                continue
            ratio = mixture / mpmath.mpf(end) ** successes / mpmath.mpf(1 - end) ** (n - successes)
            assert float(ratio) == pytest.approx(1 / alpha, rel=1e-4)
    low, high = mixture_interval(successes, n, alpha)
    assert low <= successes / n <= high
    mirrored = mixture_interval(n - successes, n, alpha)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-11)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.999])
def test_the_interval_misses_at_any_time_with_at_most_alpha(p: float) -> None:
    """The chance that p is ever outside, within 150 copies: summed over all paths that stay in."""
    inside, alpha = np.ones(1), 0.05
    for n in range(1, 151):
        inside = np.convolve(inside, [1 - p, p])
        held = [
            low <= p <= high for low, high in (mixture_interval(k, n, alpha) for k in range(n + 1))
        ]
        inside *= held
    missed = 1 - inside.sum()
    assert 0.002 <= missed <= alpha


@pytest.mark.parametrize(("successes", "n"), [(30, 100), (3, 40), (400, 1000), (1, 10)])
def test_a_bound_above_one_half_is_the_root_of_the_integrated_evidence(
    successes: int, n: int
) -> None:
    """For groups and sets that are rarer than a majority; at 30 digits from the definition."""
    failures = n - successes
    bound = mixture_failure_bound(successes, n, ALPHA, NEAR_1)
    assert bound > 0.5
    assert mixture_failure_bound(successes, n, ALPHA) == 1.0
    with mpmath.workdps(30):

        def evidence(q0: float) -> mpmath.mpf:
            q = mpmath.mpf(q0)

            def likelihood(theta: mpmath.mpf) -> mpmath.mpf:  # s = sin(theta)^2, flat in theta
                s = mpmath.sin(theta) ** 2
                return ((1 - s) / (1 - q)) ** successes * (s / q) ** failures

            top = mpmath.asin(mpmath.sqrt(q))
            peak = mpmath.asin(mpmath.sqrt(mpmath.mpf(failures) / n))
            return mpmath.quad(likelihood, [0, peak, top]) / top

        assert evidence(bound) == pytest.approx(1 / ALPHA, rel=1e-6)


@reproducible
@given(trials, alphas)
def test_a_bound_above_one_half_is_monotone(numbers: tuple[int, int], alpha: float) -> None:
    successes, n = numbers
    bound = mixture_failure_bound(successes, n, alpha, NEAR_1)
    assert (n - successes) / n <= bound <= 1.0
    if successes < n:
        assert mixture_failure_bound(successes + 1, n, alpha, NEAR_1) <= bound
    if bound < 1.0:  # from it on, the evidence only grows
        points = np.linspace(bound, NEAR_1, 200)
        evidence = [float(log_evidence(successes, n - successes, q)) for q in points]
        assert (np.diff(evidence) > -1e-9).all()
    assert mixture_failure_bound(successes, n, alpha) in (1.0, pytest.approx(bound, rel=1e-9))
