from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.certificates.population import (
    false_certificates,
    holds_among,
    level_of,
    population_bound,
    share_lower,
    share_upper,
)
from denoised_smoothing.certificates.radii import format_down
from denoised_smoothing.errors import SettingError


def test_330_of_500_at_alpha_0_001_prove_62_3_percent() -> None:
    lower = stats.binomtest(330, 500, alternative="greater").proportion_ci(0.95, "exact").low
    bound = population_bound(330, 500, 0.001)
    assert bound == pytest.approx((lower - 0.001) / 0.999, rel=1e-9)
    assert format_down(100 * bound, 1) == "62.3"


def test_several_statements_share_the_level() -> None:
    lower = stats.binomtest(330, 500, alternative="greater").proportion_ci(0.99, "exact").low
    assert population_bound(330, 500, 0.001, 0.95, 5) == pytest.approx((lower - 0.001) / 0.999)
    assert level_of(0.9, 4) == pytest.approx(0.025)


def test_no_bound_is_below_zero() -> None:
    assert population_bound(0, 500, 0.001) == 0.0
    assert population_bound(3, 500, 0.05) == 0.0


@pytest.mark.parametrize("level", [0.001, 0.05, 0.25])
@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_bound_covers_images_of_different_probabilities(n: int, level: float) -> None:
    """Every split of n images into two groups; the exact law is a convolution."""
    bounds = np.array([share_lower(k, n, level) for k in range(n + 1)])
    for m, p, q in itertools.product(range(1, n + 1), np.linspace(0, 1, 41), (0.0, 0.02, 0.4, 1.0)):
        law = np.convolve(
            stats.binom.pmf(np.arange(m + 1), m, p), stats.binom.pmf(np.arange(n - m + 1), n - m, q)
        )
        mean = (m * p + (n - m) * q) / n
        assert law[bounds > mean + 1e-12].sum() <= level + 1e-12


def test_clopper_pearson_alone_does_not_cover_a_single_success() -> None:
    """One image of probability 0.0512 among 100 that never succeed: 0.0512 > 0.05."""
    clopper_pearson = 1 - 0.95 ** (1 / 100)
    p = 0.0512
    assert clopper_pearson > p / 100 > share_lower(1, 100, 0.05)


def test_upper_bound_mirrors_the_lower_one() -> None:
    high = stats.binomtest(7, 40, alternative="less").proportion_ci(0.95, "exact").high
    assert share_upper(7, 40, 0.05) == pytest.approx(high)
    assert (share_upper(40, 40, 0.05), share_upper(39, 40, 0.05)) == (1.0, 1 - 0.05 / 40)


@pytest.mark.parametrize(
    ("images", "alpha"), [(500, 0.001), (500, 0.05), (12, 0.3), (10_000, 1e-6)]
)
def test_false_certificates_are_the_exact_quantile(images: int, alpha: float) -> None:
    most = false_certificates(images, alpha)
    assert most == stats.binom.ppf(0.95, images, alpha)
    assert stats.binom.cdf(most, images, alpha) >= 0.95 > stats.binom.cdf(most - 1, images, alpha)


def test_images_that_hold_among_those_certified() -> None:
    assert holds_among(330, 500, 0.001) == 328  # P(Bin(500, 0.001) > 2) = 0.0143, > 1: 0.0901
    assert holds_among(1, 500, 0.001) == 0


def test_arguments_out_of_range_are_refused() -> None:
    for confidence in (0.5, 1.0, float("nan"), "0.95"):
        with pytest.raises(SettingError, match=r"confidence must be at least 0\.75"):
            population_bound(1, 2, 0.001, confidence)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"successes must lie between 0 and n"):
        population_bound(3, 2, 0.001)
    with pytest.raises(SettingError, match="alpha must lie strictly"):
        population_bound(1, 2, 0.0)
    with pytest.raises(SettingError, match="statements must be a whole number"):
        population_bound(1, 2, 0.1, 0.95, 0)
    with pytest.raises(SettingError, match=r"level must be at most 0\.25"):
        share_lower(1, 2, 0.3)
    with pytest.raises(SettingError, match="successes must lie"):
        holds_among(3, 2, 0.1)
