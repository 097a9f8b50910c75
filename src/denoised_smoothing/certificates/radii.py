"""From a bound on a probability to a certified radius, and radii as they leave the program.

Radii are in units of pixel values in [0, 1]: an L2 radius of 0.5 means that the Euclidean
norm of the change over all pixels and channels is below 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal
from numbers import Real

from denoised_smoothing.errors import SettingError

DIGITS = 4
"""Decimals of a radius where it is printed or exported."""
LEVEL = 1 / 255
"""The step between 8-bit values: two 8-bit images that differ are at least as far in Linf."""


def check_sigma(sigma: float) -> float:
    """Return ``sigma`` if it is a usable noise level: finite and above 0.

    Raises:
        SettingError: otherwise (also for NaN).
    """
    if not (isinstance(sigma, Real) and sigma > 0.0 and math.isfinite(sigma)):
        raise SettingError(
            f"sigma must be above 0 and finite, got {sigma!r}. Use a standard deviation in pixel "
            "values in [0, 1], such as 0.25."
        )
    return float(sigma)


def parse_length(text: str) -> float:
    """Read a sigma or a radius: a number, or a fraction such as ``64/255``.

    Raises:
        ValueError: the text is neither; says what is expected.
    """
    above, slash, below = text.partition("/")
    try:
        return float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError("a number or a fraction such as 64/255") from error


def check_radii(radii: Sequence[float | str]) -> tuple[float, ...]:
    """Return the radii in ascending order, each once.

    Raises:
        SettingError: none is given, or one is not a finite length of at least 0.
    """
    try:
        found = {parse_length(r) if isinstance(r, str) else float(r) for r in radii}
    except ValueError:
        found = set()
    lengths = tuple(sorted(found))
    if not lengths or not all(math.isfinite(r) and r >= 0.0 for r in lengths):
        raise SettingError(
            f"radii must be lengths of at least 0, got {tuple(radii)}. Use some such as 0.25, 0.5."
        )
    return lengths


def gaussian_radius(sigma: float, failure_bound: float, error: float = 0.0) -> float:
    """Certified L2 radius of Gaussian noise, from an upper bound q on the failure probability.

    sigma * (Phi^-1(1 - q - e) - Phi^-1(1/2 + e)). With e = 0 it is Cohen et al. 2019, Theorem 1
    with the runner-up bounded by q. In q, as 1 - q loses the digits of a small q.

    Args:
        sigma: standard deviation of the noise, in pixel values in [0, 1].
        failure_bound: q, upper bound on the probability of any other class or of none.
        error: e, bound on the total variation distance between the noise that is drawn and
            Gaussian noise, at least 0. It counts twice: at the image and at its neighbour. The
            radius of the smoothed classifier with exact noise is no smaller: it needs the first.

    Returns:
        The radius in the same units as sigma; 0.0 where nothing is left of it, and infinity
        where q and e are 0.

    Raises:
        SettingError: sigma is not above 0, or a bound is not in [0, 1].
    """
    from scipy import special

    check_sigma(sigma)
    if not (0.0 <= failure_bound <= 1.0 and 0.0 <= error <= 1.0):
        raise SettingError(
            "failure_bound and error must lie in [0, 1], as probabilities, got "
            f"{failure_bound!r} and {error!r}"
        )
    if failure_bound + 2.0 * error >= 0.5:
        return 0.0
    return max(0.0, sigma * (-float(special.ndtri(failure_bound + error)) - _above_half(error)))


def failure_for_radius(sigma: float, radius: float, error: float = 0.0) -> float:
    """Return the failure probability below which ``radius`` is certified.

    The inverse of :func:`gaussian_radius`: the q that gives this radius, at most 1/2; 0.0 or
    less where no q does.
    """
    from scipy import special

    return float(special.ndtr(-radius / check_sigma(sigma) - _above_half(error))) - error


def two_sided_radius(
    sigma: float, failure_bound: float, upper_bound: float, error: float = 0.0
) -> float:
    """Certified L2 radius from bounds on the winner and on the runner-up.

    sigma / 2 * (Phi^-1(p_A) - Phi^-1(p_B)), Cohen et al. 2019, Theorem 1.

    Args:
        sigma: standard deviation of the noise, in pixel values in [0, 1].
        failure_bound: 1 - p_A, p_A the lower bound on the winner's probability.
        upper_bound: p_B, the upper bound on that of any other class.
        error: as for :func:`gaussian_radius`.

    Returns:
        The radius; 0.0 where p_A does not exceed p_B.
    """
    from scipy import special

    check_sigma(sigma)
    low, high = failure_bound + error, upper_bound + error
    if low >= 1.0 or high >= 1.0 or low + high >= 1.0:
        return 0.0
    winner, other = -float(special.ndtri(low)), float(special.ndtri(high))
    # At the neighbour the two probabilities must differ by 2e still. Where they meet, both are
    # the normal distribution at z; its density over t <= 2e / density is at least half of that.
    z = abs(winner + other) / 2.0
    density = math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    slack = 2.0 * error / density if error else 0.0
    if z * slack + slack * slack / 2.0 > math.log(2.0):
        return 0.0
    return max(0.0, sigma * ((winner - other) / 2.0 - slack))


def _above_half(error: float) -> float:
    """Return Phi^-1(1/2 + error), not rounded to 0 where the error is tiny."""
    if error < 1e-6:
        return error * math.sqrt(2.0 * math.pi) * (1.0 + 1e-9)
    from scipy import special

    return -float(special.ndtri(0.5 - error))


def l1_radius(radius: float) -> float:
    """L1 radius implied by an L2 radius: the same, as the L2 norm never exceeds the L1 norm."""
    return radius


def linf_radius(radius: float, dimension: int) -> float:
    """Linf radius implied by an L2 radius in ``dimension`` pixel values: radius / sqrt(d).

    Raises:
        SettingError: the dimension is below 1.
    """
    if dimension < 1:
        raise SettingError(f"dimension must be at least 1 pixel value, got {dimension}")
    return radius / math.sqrt(dimension)


def round_down(value: float, digits: int = DIGITS) -> float:
    """Return the largest number of ``digits`` decimals that is not above ``value``.

    Rounding half up would certify what was not proven, so radii leave the program through
    this function or :func:`format_down`.
    """
    return float(_floor(value, digits)) if math.isfinite(value) else value


def format_down(value: float, digits: int = DIGITS) -> str:
    """Return ``value`` as text with ``digits`` decimals, rounded down (0.2999: '0.29' at 2)."""
    return str(_floor(value, digits)) if math.isfinite(value) else str(value)


def short_down(value: float, digits: int = 6) -> str:
    """Return :func:`format_down` without zeros at its end, for numbers that a user chose."""
    text = format_down(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _floor(value: float, digits: int) -> Decimal:
    # repr, as the binary value of 0.3 lies below 0.3: it would lose a digit each time it is rounded
    return Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR)
