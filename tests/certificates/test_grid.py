"""certificates/grid.py: the integer thresholds, against Phi from its series in decimals."""

from __future__ import annotations

import hashlib
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

import pytest
from scipy import stats

from denoised_smoothing.certificates.grid import (
    LARGEST_SIGMA,
    grid_error,
    grid_thresholds,
    threshold_at,
)
from denoised_smoothing.errors import SettingError

FRACTIONS = (-0.5, -0.3125, -(2.0**-24), 0.0, 2.0**-140, 0.07, 0.5)
SIGMAS = (0.05, 0.12, 0.25, 0.5, 1.0, 2.0)
WHOLE = 2**62
DENSITY = Decimal("0.398942280401432677939946059934381868475858631164934657665925829670657926")
"""1 / sqrt(2 pi)."""


def upper_tail(point: Fraction) -> Fraction:
    """1 - Phi(point), point >= 0: Phi = 1/2 + density * sum z^(2k+1) / (1 * 3 * ... (2k+1))."""
    with localcontext(prec=80):
        z = Decimal(point.numerator) / Decimal(point.denominator)
        term = total = z
        k = 0
        while term > total * Decimal("1e-75"):
            k += 1
            term *= z * z / (2 * k + 1)
            total += term
        return Fraction(Decimal("0.5") - DENSITY * (-z * z / 2).exp() * total)


def exact_tails(sigma: float, reach: int) -> list[Fraction]:
    """P(K > j) for j = 0 to reach; P(K <= -j - 1) is the same number."""
    step = 1 / (255 * Fraction(sigma))
    return [upper_tail((j + Fraction(1, 2)) * step) for j in range(reach + 1)]


def exact_cumulative(sigma: float, j: int, fraction: float) -> Fraction:
    """P(K <= j) of a pixel value with this fraction."""
    point = (j + Fraction(1, 2) - Fraction(fraction)) / (255 * Fraction(sigma))
    return upper_tail(-point) if point < 0 else 1 - upper_tail(point)


class TestThresholds:
    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_are_symmetric_in_order_and_reach_both_ends(self, sigma: float) -> None:
        law = grid_thresholds(sigma)
        assert len(law.thresholds) == -2 * law.first
        assert all(type(threshold) is int for threshold in law.thresholds)
        assert all(
            low + high == WHOLE
            for low, high in zip(law.thresholds, reversed(law.thresholds), strict=True)
        )
        assert list(law.thresholds) == sorted(law.thresholds)
        assert law.thresholds[0] == 0
        assert law.thresholds[-1] == WHOLE
        inner = [threshold for threshold in law.thresholds if 1000 < threshold < WHOLE - 1000]
        assert all(low < high for low, high in pairwise(inner))
        assert len(inner) > 16 * 255 * sigma

    @pytest.mark.parametrize("sigma", [0.05, 0.25, 1.0])
    def test_are_phi_rounded_to_the_nearest_integer(self, sigma: float) -> None:
        law = grid_thresholds(sigma)
        tails = exact_tails(sigma, -law.first - 1)
        assert law.thresholds[-law.first :] == tuple(round(WHOLE * (1 - tail)) for tail in tails)

    @pytest.mark.parametrize("fraction", FRACTIONS)
    def test_off_the_grid_are_phi_rounded_to_the_nearest_integer(self, fraction: float) -> None:
        for sigma in (0.05, 0.25):
            reach = -grid_thresholds(sigma).first
            for j in range(-reach, reach, 17):
                expected = round(WHOLE * exact_cumulative(sigma, j, fraction))
                assert threshold_at(sigma, j, fraction) == expected
                assert threshold_at(sigma, -j - 1, -fraction) == WHOLE - expected

    def test_of_the_fraction_0_are_those_of_the_grid(self) -> None:
        law = grid_thresholds(0.12)
        js = range(law.first, -law.first)
        assert [threshold_at(0.12, j, 0.0) for j in js] == list(law.thresholds)

    def test_follow_phi_of_scipy(self) -> None:
        law = grid_thresholds(0.25)
        values = range(law.first, -law.first)
        for j, threshold in zip(values, law.thresholds, strict=True):
            expected = stats.norm.cdf((j + 0.5) / (255 * 0.25))
            assert threshold / WHOLE == pytest.approx(expected, rel=1e-12, abs=2**-62)

    def test_are_pinned(self) -> None:
        """Runs of old would silently get other noise if a threshold changed."""
        law = grid_thresholds(0.25)
        assert law.first == -582
        assert law.thresholds[581:584] == (
            2291413380394810866, 2320272638032577038, 2349128345418500439,
        )  # fmt: skip
        assert hashlib.sha256(repr(law.thresholds).encode()).hexdigest() == (
            "e72f01866ccb6e0ad7dec346833e9e9d07a21f5fcf7af3340d333e71c315655d"
        )

    def test_a_tiny_sigma_leaves_the_image_alone(self) -> None:
        for sigma in (5e-324, 1e-9):
            assert set(grid_thresholds(sigma).thresholds) == {0, WHOLE}

    @pytest.mark.parametrize("sigma", [LARGEST_SIGMA * 1.001, 1000.0])
    def test_a_huge_sigma_is_refused(self, sigma: float) -> None:
        for refusing in (grid_thresholds, grid_error):
            with pytest.raises(
                SettingError, match=rf"sigma must be at most 14 .* got {sigma}.*float noise"
            ):
                refusing(sigma)

    def test_the_largest_sigma_leaves_room_for_the_pixels_in_16_bits(self) -> None:
        reach = (grid_error(LARGEST_SIGMA) * 2**63 - 4) / 2
        assert reach + 255 < 2**15 - 1

    @pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_sigma_that_is_none_is_refused(self, sigma: float) -> None:
        for refusing in (grid_thresholds, grid_error):
            with pytest.raises(SettingError, match="sigma"):
                refusing(sigma)


class TestError:
    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_bounds_the_distance_of_the_drawn_law_from_the_exact_one(self, sigma: float) -> None:
        law = grid_thresholds(sigma)
        reach = -law.first
        tails = exact_tails(sigma, reach)
        drawn = [Fraction(WHOLE - threshold, WHOLE) for threshold in law.thresholds[reach:]] + [
            Fraction(0)
        ]
        half = sum(
            (abs((tails[j] - tails[j + 1]) - (drawn[j] - drawn[j + 1])) for j in range(reach)),
            start=Fraction(0),
        )
        # Both sides alike, the value 0 between them, and the tails beyond, never drawn.
        distance = half + abs(tails[0] - drawn[0]) + tails[reach]
        assert distance <= Fraction(grid_error(sigma))
        assert distance > Fraction(grid_error(sigma)) / 10

    @pytest.mark.parametrize("fraction", FRACTIONS)
    @pytest.mark.parametrize("sigma", [0.004, 0.05])
    def test_bounds_it_off_the_grid_as_well(self, sigma: float, fraction: float) -> None:
        reach = -grid_thresholds(sigma).first
        ends = range(-reach - 1, reach + 1)
        exact = [Fraction(0), *(exact_cumulative(sigma, j, fraction) for j in ends), Fraction(1)]
        drawn = [Fraction(threshold_at(sigma, j, fraction), WHOLE) for j in ends]
        assert (drawn[0], drawn[-1]) == (0, 1), "else more than the values -M to M is drawn"
        drawn = [Fraction(0), *drawn, Fraction(1)]
        pairs = zip(pairwise(exact), pairwise(drawn), strict=True)
        distance = sum(abs((b - a) - (d - c)) for (a, b), (c, d) in pairs)
        assert Fraction(grid_error(sigma)) / 20 < distance / 2 <= Fraction(grid_error(sigma))

    @pytest.mark.parametrize("sigma", [1e-6, 0.01, *SIGMAS, LARGEST_SIGMA])
    def test_what_lies_beyond_the_reach_is_smaller_than_half_a_step(self, sigma: float) -> None:
        reach = Fraction(grid_error(sigma)) * 2**62 - 2
        assert reach.denominator == 1
        point = reach / (255 * Fraction(sigma))  # half a level nearer, for any fraction
        assert point >= Fraction("9.1")
        assert upper_tail(min(point, Fraction("9.1"))) < Fraction(1, 2**63)

    def test_counts_the_thresholds(self) -> None:
        for sigma in SIGMAS:
            assert grid_error(sigma) == (len(grid_thresholds(sigma).thresholds) + 4) * 2.0**-63

    def test_is_about_1e_16_at_customary_noise(self) -> None:
        assert grid_error(0.25) == pytest.approx(1.27e-16, rel=0.01)
        assert 3072 * grid_error(0.25) < 1e-12
