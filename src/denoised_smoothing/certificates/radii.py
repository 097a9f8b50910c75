"""From a bound on a probability to a certified radius, and radii as they leave the program.

Radii are in units of pixel values in [0, 1]: an L2 radius of 0.5 means that the Euclidean
norm of the change over all pixels and channels is below 0.5.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from numbers import Real

from scipy import special

from denoised_smoothing.errors import SettingError

DIGITS = 4
"""Decimals of a radius where it is printed or exported."""


def check_sigma(sigma: float) -> float:
    """Return ``sigma`` if it is a usable noise level: finite and above 0.

    Raises:
        SettingError: otherwise (also for NaN).
    """
    if not (isinstance(sigma, Real) and sigma > 0.0 and math.isfinite(sigma)):
        raise SettingError(
            f"sigma is the standard deviation of the noise on images in [0, 1] and must be "
            f"above 0 and finite, got {sigma!r}; 0.12, 0.25, 0.5 and 1.0 are customary"
        )
    return float(sigma)


def gaussian_radius(sigma: float, lower_bound: float) -> float:
    """Certified L2 radius of Gaussian noise: sigma * Phi^-1(lower_bound).

    Cohen et al. 2019, Theorem 1 with the runner-up bounded by 1 - lower_bound.

    Args:
        sigma: standard deviation of the noise, in pixel values in [0, 1].
        lower_bound: lower bound on the probability of the candidate class.

    Returns:
        The radius in the same units as sigma; 0.0 where ``lower_bound`` is at most 1/2,
        and infinity where it is 1.

    Raises:
        SettingError: sigma is not above 0, or the bound is not in [0, 1].
    """
    check_sigma(sigma)
    if not 0.0 <= lower_bound <= 1.0:
        raise SettingError(f"a probability bound lies in [0, 1], got {lower_bound!r}")
    if lower_bound <= 0.5:
        return 0.0
    return sigma * float(special.ndtri(lower_bound))


def l1_radius(radius: float) -> float:
    """L1 radius implied by an L2 radius: the same, as the L2 norm never exceeds the L1 norm."""
    return radius


def linf_radius(radius: float, dimension: int) -> float:
    """Linf radius implied by an L2 radius in ``dimension`` pixel values: radius / sqrt(d).

    Raises:
        SettingError: the dimension is below 1.
    """
    if dimension < 1:
        raise SettingError(f"an image has at least 1 pixel value, got dimension {dimension}")
    return radius / math.sqrt(dimension)


def round_down(value: float, digits: int = DIGITS) -> float:
    """The largest number of ``digits`` decimals that is not above ``value``.

    Rounding half up would certify what was not proven, so radii leave the program through
    this function or :func:`format_down`.
    """
    return float(_floor(value, digits)) if math.isfinite(value) else value


def format_down(value: float, digits: int = DIGITS) -> str:
    """``value`` as text with ``digits`` decimals, rounded down (0.2999 -> '0.29' at 2)."""
    return str(_floor(value, digits)) if math.isfinite(value) else str(value)


def _floor(value: float, digits: int) -> Decimal:
    # repr, as the binary value of 0.3 lies below 0.3: it would lose a digit each time it is rounded
    return Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR)
