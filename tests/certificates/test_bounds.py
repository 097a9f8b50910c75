from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from denoised_smoothing.certificates.bounds import (
    binomial_test,
    check_alpha,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.errors import SettingError

GOLDEN_FILE = Path(__file__).with_name("golden_bounds.csv")
GOLDEN = list(csv.DictReader(GOLDEN_FILE.read_text().splitlines()))

alphas = st.floats(1e-9, 1 - 1e-9)
trials = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
reproducible = settings(derandomize=True, deadline=None, max_examples=200)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: ",".join(list(row.values())[:3]))
def test_lower_bound_and_radius_equal_numbers_computed_at_40_digits(row: dict[str, str]) -> None:
    lower = clopper_pearson_lower(int(row["successes"]), int(row["n"]), float(row["alpha"]))
    assert lower == pytest.approx(float(row["clopper_pearson_lower"]), rel=0, abs=1e-12)
    radius = float(row["cp_radius_over_sigma"] or 0.0)
    failures = int(row["n"]) - int(row["successes"])
    failure = clopper_pearson_upper(failures, int(row["n"]), float(row["alpha"]))
    assert gaussian_radius(1.0, failure) == pytest.approx(radius, rel=0, abs=1e-9)


def test_golden_numbers_are_all_there() -> None:
    assert len(GOLDEN) == 104
    assert {row["cp_radius_over_sigma"] == "" for row in GOLDEN} == {True, False}


@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("n", [1, 20, 100_000])
def test_bounds_at_the_ends_have_their_closed_form(n: int, alpha: float) -> None:
    assert clopper_pearson_lower(0, n, alpha) == 0.0
    assert clopper_pearson_upper(n, n, alpha) == 1.0
    assert clopper_pearson_lower(n, n, alpha) == pytest.approx(alpha ** (1 / n), rel=1e-12)
    assert clopper_pearson_upper(0, n, alpha) == pytest.approx(
        -np.expm1(np.log(alpha) / n), rel=1e-12
    )


@reproducible
@given(trials, alphas)
def test_lower_and_upper_bound_mirror_each_other(trial: tuple[int, int], alpha: float) -> None:
    successes, n = trial
    upper = clopper_pearson_upper(successes, n, alpha)
    assert upper == pytest.approx(1 - clopper_pearson_lower(n - successes, n, alpha), abs=1e-12)
    if alpha <= 0.5:
        assert clopper_pearson_lower(successes, n, alpha) <= successes / n <= upper


@reproducible
@given(trials, alphas)
def test_bounds_solve_their_defining_equations(trial: tuple[int, int], alpha: float) -> None:
    successes, n = trial
    if successes > 0:
        lower = clopper_pearson_lower(successes, n, alpha)
        assert stats.binom.sf(successes - 1, n, lower) == pytest.approx(alpha, rel=1e-6)
    if successes < n:
        # Mirrored, as next to 1 a float has too few digits left for the binomial's tail.
        failures = 1 - clopper_pearson_upper(successes, n, alpha)
        tail = stats.binom.sf(n - successes - 1, n, failures)
        assert tail == pytest.approx(alpha, rel=1e-4, abs=1e-9)


@reproducible
@given(st.integers(1, 80), st.floats(1e-6, 1), st.floats(1e-6, 0.5))
def test_bounds_fail_with_probability_at_most_alpha(n: int, p: float, alpha: float) -> None:
    """Exact coverage: the probabilities of all outcomes whose bound is wrong, summed."""
    probability = stats.binom.pmf(np.arange(n + 1), n, p)
    lower = np.array([clopper_pearson_lower(k, n, alpha) for k in range(n + 1)])
    upper = np.array([clopper_pearson_upper(k, n, alpha) for k in range(n + 1)])
    assert probability[lower > p].sum() <= alpha * (1 + 1e-6)
    assert probability[upper < p].sum() <= alpha * (1 + 1e-6)


@reproducible
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_binomial_test_equals_scipy(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert binomial_test(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_binomial_test_known_values() -> None:
    assert binomial_test(0, 0) == 1.0
    assert binomial_test(7, 7) == 1.0
    assert binomial_test(10, 0) == binomial_test(0, 10) == 2 * 0.5**10


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    message = rf"alpha .* strictly between 0 and 1, got {alpha!r}\. Use the prob.* 0\.001"
    for refused in (
        lambda: check_alpha(alpha),
        lambda: clopper_pearson_lower(1, 2, alpha),
        lambda: clopper_pearson_upper(1, 2, alpha),
    ):
        with pytest.raises(SettingError, match=message):
            refused()


def test_alpha_in_range_is_returned() -> None:
    assert check_alpha(0.001) == 0.001


@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (0, 0), (-1, -1)])
def test_impossible_trials_are_refused(
    bound: Callable[[int, int, float], float], successes: int, n: int
) -> None:
    message = rf"between 0 and n, with n at least 1, got {successes} of {n}\."
    with pytest.raises(SettingError, match=message):
        bound(successes, n, 0.05)


@pytest.mark.parametrize(("first", "second"), [(-1, 3), (3, -1)])
def test_negative_votes_are_refused(first: int, second: int) -> None:
    message = f"Numbers of votes must be at least 0, got {first} and {second}"
    with pytest.raises(SettingError, match=message):
        binomial_test(first, second)
