from __future__ import annotations

import math
from decimal import Decimal

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from denoised_smoothing.certificates.grid import grid_error
from denoised_smoothing.certificates.radii import (
    _above_half,
    check_radii,
    check_sigma,
    failure_for_radius,
    format_down,
    gaussian_radius,
    l1_radius,
    linf_radius,
    parse_length,
    round_down,
    short_down,
    two_sided_radius,
)
from denoised_smoothing.errors import SettingError

digits = st.integers(0, 8)
values = st.floats(-1e3, 1e3) | st.integers(0, 10**6).map(lambda k: k / 10**4)
reproducible = settings(derandomize=True, deadline=None, max_examples=300)


@reproducible
@given(st.floats(1e-3, 10), st.floats(1e-300, 0.5))
def test_gaussian_radius_is_sigma_times_the_normal_quantile(sigma: float, failure: float) -> None:
    expected = sigma * stats.norm.isf(failure)
    assert gaussian_radius(sigma, failure) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("sigma", "failure", "radius"),
    [
        (0.25, 1.0, 0.0),
        (0.25, 0.5, 0.0),
        (1.0, 0.1586552539314571, 1.0),  # Phi(-1), Phi(-2) and Phi(-3) of the tables
        (0.5, 0.0227501319481792, 1.0),
        (0.25, 0.0013498980316301, 0.75),
        (0.25, 0.0, math.inf),
    ],
)
def test_gaussian_radius_known_values(sigma: float, failure: float, radius: float) -> None:
    assert gaussian_radius(sigma, failure) == pytest.approx(radius, abs=1e-12)


def test_a_failure_probability_too_small_for_its_complement_keeps_its_radius() -> None:
    """1 - 1e-30 is 1 as a float; Phi(-11.4640...) is 1e-30."""
    assert gaussian_radius(1.0, 1e-30) == pytest.approx(11.464024688, abs=1e-8)


class TestErrorOfTheNoise:
    @reproducible
    @given(st.floats(1e-12, 0.499), st.floats(0.0, 0.2))
    def test_counts_at_the_image_and_at_its_neighbour(self, failure: float, error: float) -> None:
        """Just within the radius the neighbour's probability is still above 1/2, error and all."""
        radius = gaussian_radius(1.0, failure, error)
        expected = stats.norm.isf(min(0.5, failure + error)) - stats.norm.isf(0.5 - error)
        assert radius == pytest.approx(max(0.0, expected), abs=1e-9)
        if radius > 0.0:
            at_neighbour = stats.norm.cdf(stats.norm.isf(failure + error) - radius) - error
            assert at_neighbour == pytest.approx(0.5, abs=1e-9)
            assert radius < gaussian_radius(1.0, failure) or error < 1e-15

    def test_is_tiny_for_the_grid_at_the_size_of_cifar_images(self) -> None:
        error = 3072 * grid_error(0.5)
        lost = gaussian_radius(0.5, 0.001) - gaussian_radius(0.5, 0.001, error)
        assert 0.0 < lost < 1e-9
        assert gaussian_radius(0.5, 0.5, error) == 0.0

    @pytest.mark.parametrize("error", [0.25, 0.4, 0.5, 1.0])
    def test_as_large_as_this_leaves_nothing(self, error: float) -> None:
        assert gaussian_radius(1.0, 1e-9, error) == 0.0
        assert two_sided_radius(1.0, 1e-9, 1e-9, error) == 0.0

    @pytest.mark.parametrize(("failure", "error"), [(0.1, -0.1), (0.1, 1.1), (0.1, math.nan)])
    def test_that_is_no_probability_is_refused(self, failure: float, error: float) -> None:
        with pytest.raises(
            SettingError, match=rf"must lie in \[0, 1\], .* got {failure} and {error}"
        ):
            gaussian_radius(1.0, failure, error)


@reproducible
@given(st.floats(0.1, 2.0), st.floats(0.01, 4.0), st.floats(0.0, 1e-3))
def test_the_failure_for_a_radius_gives_that_radius(
    sigma: float, multiple: float, error: float
) -> None:
    radius = sigma * multiple
    failure = failure_for_radius(sigma, radius, error)
    if failure <= 0.0:
        assert gaussian_radius(sigma, 0.0, error) <= radius * (1 + 1e-9)
    else:
        assert failure < 0.5
        assert gaussian_radius(sigma, failure, error) == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize(("radius", "failure"), [(0.0, 0.5), (1.0, 0.1586552539314571)])
def test_the_failure_for_a_radius_known_values(radius: float, failure: float) -> None:
    assert failure_for_radius(1.0, radius) == pytest.approx(failure, rel=1e-12)


@pytest.mark.parametrize("error", [1e-300, 1e-16, 1e-9, 9.9e-7])
def test_a_quantile_just_above_one_half_is_never_too_small(error: float) -> None:
    """At 60 digits: it is subtracted from radii, where rounding it down would not be safe."""
    with mpmath.workdps(60):
        exact = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(error))
        ratio = mpmath.mpf(_above_half(error)) / exact
    assert 0 <= ratio - 1 < 2e-9


class TestTwoSidedRadius:
    @reproducible
    @given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.1, 2.0))
    def test_is_half_the_distance_of_the_quantiles(
        self, winner: float, other: float, sigma: float
    ) -> None:
        expected = sigma / 2 * (stats.norm.ppf(winner) - stats.norm.ppf(other))
        radius = two_sided_radius(sigma, 1.0 - winner, other)
        assert radius == pytest.approx(max(0.0, expected) if winner + 1e-12 > other else 0.0)

    @reproducible
    @given(st.floats(1e-6, 0.49))
    def test_of_two_classes_is_the_one_sided_one(self, failure: float) -> None:
        assert two_sided_radius(0.5, failure, failure) == pytest.approx(
            gaussian_radius(0.5, failure), rel=1e-12
        )

    @reproducible
    @given(st.floats(0.2, 0.99), st.floats(0.001, 0.19), st.floats(1e-15, 0.02))
    def test_leaves_the_winner_ahead_at_the_neighbour(
        self, winner: float, other: float, error: float
    ) -> None:
        """The exact worst probabilities at the radius still differ by twice the error."""
        radius = two_sided_radius(1.0, 1.0 - winner, other, error)
        assert radius <= two_sided_radius(1.0, 1.0 - winner, other)
        if radius > 0.0:
            ahead = stats.norm.cdf(stats.norm.ppf(winner - error) - radius)
            behind = stats.norm.cdf(stats.norm.ppf(other + error) + radius)
            assert ahead - behind >= 2 * error - 1e-14

    @pytest.mark.parametrize(("failure", "upper"), [(1.0, 0.1), (0.1, 1.0), (0.6, 0.4), (0.7, 0.5)])
    def test_is_0_where_the_winner_is_not_ahead(self, failure: float, upper: float) -> None:
        assert two_sided_radius(1.0, failure, upper) == 0.0

    def test_is_0_where_the_bound_on_the_density_is_not_proven(self) -> None:
        """z t + t^2 / 2 > ln 2: the density may fall below half of that at z before t."""
        failure, upper, error = 0.0, 0.8315, 0.027
        winner, other = stats.norm.isf(failure + error), stats.norm.ppf(upper + error)
        z = (winner + other) / 2
        slack = 2 * error / stats.norm.pdf(z)
        assert z * slack + slack**2 / 2 > math.log(2) > z * slack
        assert (winner - other) / 2 > slack
        assert two_sided_radius(1.0, failure, upper, error) == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.25", 0.25), ("64/255", 64 / 255), (" 1 / 2 ", 0.5), ("0.5/2", 0.25), ("1e-1", 0.1)],
)
def test_a_length_is_a_number_or_a_fraction(text: str, value: float) -> None:
    assert parse_length(text) == value
    assert check_radii((text,)) == check_radii((value,)) == (value,)


@pytest.mark.parametrize("text", ["", "/", "1/", "/2", "1/0", "1/2/3", "64:255", "1,5", "a"])
def test_other_texts_are_no_lengths(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a number or a fraction such as 64/255$"):
        parse_length(text)
    with pytest.raises(SettingError, match="radii must be lengths of at least 0, got"):
        check_radii((0.5, text))


def test_radii_are_put_in_order_and_once() -> None:
    assert check_radii([1.0, 0.25, 1, 0]) == (0.0, 0.25, 1.0)


@pytest.mark.parametrize("radii", [(), (0.5, -0.25), (math.nan,), (math.inf, 1.0)])
def test_radii_that_are_no_lengths_are_refused(radii: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="radii must be lengths of at least 0") as refusal:
        check_radii(radii)
    assert str(radii) in str(refusal.value)


@reproducible
@given(st.integers(1, 2000).flatmap(lambda d: st.tuples(st.just(d), st.integers(0, 2**32 - 1))))
def test_l1_and_linf_balls_lie_within_the_l2_ball(case: tuple[int, int]) -> None:
    dimension, seed = case
    change = np.random.default_rng(seed).normal(size=dimension)
    to_l1 = change * l1_radius(0.7) / np.abs(change).sum()
    to_linf = np.sign(change) * linf_radius(0.7, dimension)
    assert np.linalg.norm(to_l1) <= 0.7 * (1 + 1e-12)
    assert np.linalg.norm(to_linf) == pytest.approx(0.7)


@reproducible
@given(values, digits)
def test_round_down_is_the_next_number_of_so_many_decimals(value: float, digits: int) -> None:
    rounded = round_down(value, digits)
    assert rounded <= value
    assert rounded + 10**-digits > value - 1e-12
    assert rounded == round(rounded, digits)
    assert round_down(rounded, digits) == rounded


@reproducible
@given(values, digits)
def test_format_down_writes_what_round_down_returns(value: float, digits: int) -> None:
    text = format_down(value, digits)
    assert float(text) == round_down(value, digits)
    assert -Decimal(text).as_tuple().exponent == digits
    assert format_down(float(text), digits) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.2999, 2, "0.29"),
        (0.29996, 4, "0.2999"),
        (0.3, 4, "0.3000"),  # as a float a little below 0.3
        (0.1 + 0.2, 1, "0.3"),  # as a float a little above 0.3
        (0.9999999999, 3, "0.999"),
        (0.0, 3, "0.000"),
        (2.0, 0, "2"),
        (1e-9, 4, "0.0000"),
        (math.inf, 4, "inf"),
    ],
)
def test_format_down_known_values(value: float, digits: int, text: str) -> None:
    assert format_down(value, digits) == text
    assert round_down(value, digits) == float(text)
    assert format_down(np.float64(value), digits) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5"), (1.0, "1"), (0.0, "0"), (10.0, "10"), (0.9999999, "0.999999"),
     (0.1234567, "0.123456"), (64 / 255, "0.25098")],
)  # fmt: skip
def test_short_texts_are_rounded_down(value: float, text: str) -> None:
    assert short_down(value) == text


def test_four_decimals_by_default() -> None:
    assert (format_down(0.123456), round_down(0.123456)) == ("0.1234", 0.1234)


@pytest.mark.parametrize("sigma", [0.0, -0.25, math.nan, math.inf])
def test_unusable_sigma_is_refused(sigma: float) -> None:
    message = rf"sigma .* above 0 and finite, got {sigma!r}\. Use a standard deviation"
    for refused in (lambda: check_sigma(sigma), lambda: gaussian_radius(sigma, 0.1)):
        with pytest.raises(SettingError, match=message):
            refused()


def test_usable_sigma_is_returned() -> None:
    assert check_sigma(0.25) == 0.25


@pytest.mark.parametrize("bound", [-0.01, 1.01, math.nan])
def test_a_bound_that_is_no_probability_is_refused(bound: float) -> None:
    with pytest.raises(SettingError, match=rf"must lie in \[0, 1\], .* got {bound!r} and 0\.0"):
        gaussian_radius(0.25, bound)


@pytest.mark.parametrize("dimension", [0, -3])
def test_an_image_without_pixels_is_refused(dimension: int) -> None:
    message = f"at least 1 pixel value, got {dimension}"
    with pytest.raises(SettingError, match=message):
        linf_radius(0.5, dimension)
