"""The law of Gaussian noise that is rounded to the 8-bit grid, in exact integers.

On a grid of step 1/255 the noise of a pixel value is an integer K, with

    P(K <= j) = Phi((j + 1/2 - f) / (255 * sigma)),

the law of f + 255 * eta rounded to the nearest integer, eta normal with standard deviation sigma.
The pixel value is (m + f) / 255 with an integer m and a fraction f, |f| <= 1/2; f = 0 on the grid.
A sampler that compares a uniform 62-bit integer U with integer thresholds T_j(f) draws
P(K <= j) = P(U < T_j(f)) = T_j(f) / 2^62 and nothing is rounded after that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.errors import SettingError

BITS = 62
"""Bits of the uniform integers; thresholds up to and including 2^62 fit into int64."""
LARGEST_SIGMA = 14.0
"""Beyond it, pixels and noise together would not fit into 16 bits."""

_REACH = 9.1
"""Phi(-9.1) is 4.5e-20, below 2^-63 = 1.1e-19: what lies farther out is never drawn."""
_DIGITS = 50


@dataclass(frozen=True, slots=True)
class GridLaw:
    """The law of K: ``first`` + #{T in thresholds : U >= T} for U uniform on 0 to 2^62 - 1.

    Args:
        first: -M, the least value of K; the greatest is M.
        thresholds: T_j for j = -M to M - 1, never decreasing, 0 to 2^62; T_{-j-1} + T_j = 2^62.
    """

    first: int
    thresholds: tuple[int, ...]


@lru_cache(maxsize=32)
def grid_thresholds(sigma: float) -> GridLaw:
    """Return the integer thresholds 2^62 * Phi((j + 1/2) / (255 * sigma)), rounded to nearest.

    Phi with 50 digits for j >= 0, the others mirrored, so that K is exactly symmetric. Takes
    up to some tenths of a second; the last few laws are kept.

    Args:
        sigma: standard deviation of the noise on images in [0, 1], taken as the binary fraction
            that the float is.

    Raises:
        SettingError: sigma is not above 0, or so large that K does not fit into 16 bits.
    """
    reach, whole = _reach(sigma), 1 << BITS
    upper = [threshold_at(sigma, j, 0.0) for j in range(reach)]
    return GridLaw(-reach, (*(whole - threshold for threshold in reversed(upper)), *upper))


def threshold_at(sigma: float, j: int, fraction: float) -> int:
    """Return T_j(f) = 2^62 * Phi((j + 1/2 - f) / (255 * sigma)), rounded to nearest.

    Args:
        fraction: f, of a pixel value off the grid, taken as the binary fraction that the float is.
    """
    import mpmath  # large, and needed for few thresholds

    with mpmath.workdps(_DIGITS):
        point = (j + mpmath.mpf(0.5) - fraction) / (255 * mpmath.mpf(float(sigma)))
        # Phi is monotone and 2^62 from 10 on, so nothing changes for a tiny sigma.
        point = max(min(point, mpmath.mpf(10)), mpmath.mpf(-10))
        return int(mpmath.nint(mpmath.ldexp(mpmath.ncdf(point), BITS)))


@lru_cache(maxsize=256)
def grid_error(sigma: float) -> float:
    """Bound on the total variation distance between the drawn and the exact law of one K.

    Let F(j) = Phi((j + 1/2 - f) / (255 * sigma)), |f| <= 1/2, and h = 2^-63. The drawn law has
    the cumulative T_j(f) / 2^62, off by at most h(1 + 1e-20) from F(j) for j = -M to M - 1: a
    rounding to the nearest integer, and an error of Phi below 1e-40. So the probabilities of the
    2M - 1 values between -M and M, each a difference of two cumulatives, are off by
    2h(1 + 1e-20) at most; those of -M and M by h(1 + 1e-20) plus the tail beyond, F(-M - 1) or
    1 - F(M), which is at most Phi(-M / (255 * sigma)) <= Phi(-9.1) < h for any fraction, as
    M >= 9.1 * 255 * sigma; and the two tails are never drawn. Half of the sum:

        (1 + 1e-20) * (2M - 1 + 1) * h + 2 * Phi(-9.1) < (2M + 4) * h.

    For d pixel values, drawn independently, the distance is at most d times that. That the
    uniform bits are those of a pseudo-random generator is not part of it.

    Args:
        sigma: standard deviation of the noise on images in [0, 1].

    Returns:
        (2M + 4) * 2^-63, exact in a float: 1.3e-16 for sigma 0.25.

    Raises:
        SettingError: as for :func:`grid_thresholds`.
    """
    return math.ldexp(2 * _reach(sigma) + 4, -(BITS + 1))


def _reach(sigma: float) -> int:
    """Return M, the greatest value of K; one more than needed, for the rounding of the product."""
    if check_sigma(sigma) > LARGEST_SIGMA:
        raise SettingError(
            f"sigma must be at most {LARGEST_SIGMA:g} for noise on the 8-bit grid, got {sigma!r}. "
            "Use a standard deviation in pixel values in [0, 1], such as 0.25, or float noise."
        )
    return math.ceil(_REACH * 255 * float(sigma)) + 1
