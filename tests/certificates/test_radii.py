from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from denoised_smoothing.certificates.radii import (
    check_sigma,
    format_down,
    gaussian_radius,
    l1_radius,
    linf_radius,
    round_down,
)
from denoised_smoothing.errors import SettingError

digits = st.integers(0, 8)
values = st.floats(-1e3, 1e3) | st.integers(0, 10**6).map(lambda k: k / 10**4)
reproducible = settings(derandomize=True, deadline=None, max_examples=300)


@reproducible
@given(st.floats(1e-3, 10), st.floats(0.5, 1 - 1e-12))
def test_gaussian_radius_is_sigma_times_the_normal_quantile(sigma: float, bound: float) -> None:
    expected = sigma * stats.norm.ppf(bound)
    assert gaussian_radius(sigma, bound) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("sigma", "bound", "radius"),
    [
        (0.25, 0.0, 0.0),
        (0.25, 0.5, 0.0),
        (1.0, 0.8413447460685429, 1.0),  # Phi(1), Phi(2) and Phi(3) of the tables
        (0.5, 0.9772498680518208, 1.0),
        (0.25, 0.9986501019683699, 0.75),
        (0.25, 1.0, math.inf),
    ],
)
def test_gaussian_radius_known_values(sigma: float, bound: float, radius: float) -> None:
    assert gaussian_radius(sigma, bound) == pytest.approx(radius, abs=1e-12)


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


def test_four_decimals_by_default() -> None:
    assert (format_down(0.123456), round_down(0.123456)) == ("0.1234", 0.1234)


@pytest.mark.parametrize("sigma", [0.0, -0.25, math.nan, math.inf])
def test_unusable_sigma_is_refused(sigma: float) -> None:
    message = rf"sigma .* above 0 and finite, got {sigma!r}; 0\.12, 0\.25, 0\.5 and 1\.0"
    for refused in (lambda: check_sigma(sigma), lambda: gaussian_radius(sigma, 0.9)):
        with pytest.raises(SettingError, match=message):
            refused()


def test_usable_sigma_is_returned() -> None:
    assert check_sigma(0.25) == 0.25


@pytest.mark.parametrize("bound", [-0.01, 1.01, math.nan])
def test_a_bound_that_is_no_probability_is_refused(bound: float) -> None:
    with pytest.raises(SettingError, match=rf"bound lies in \[0, 1\], got {bound!r}"):
        gaussian_radius(0.25, bound)


@pytest.mark.parametrize("dimension", [0, -3])
def test_an_image_without_pixels_is_refused(dimension: int) -> None:
    message = f"at least 1 pixel value, got dimension {dimension}"
    with pytest.raises(SettingError, match=message):
        linf_radius(0.5, dimension)
