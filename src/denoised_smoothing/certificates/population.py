"""From certified images to the images that they stand for, and to those that truly hold.

The proofs are in ``docs/statistics.md``, "More than one image".
"""

from __future__ import annotations

from numbers import Real

from denoised_smoothing.certificates.bounds import (
    check_alpha,
    check_copies,
    check_trials,
    clopper_pearson_lower,
)
from denoised_smoothing.errors import SettingError

CONFIDENCE = 0.95
"""The confidence of statements about more than one image, unless another is given."""
LEAST_CONFIDENCE = 0.75
"""The smallest confidence; the proof for fixed class shares needs a level of at most 1/4."""


def check_confidence(confidence: float) -> float:
    """Return ``confidence`` if it is at least 0.75 and below 1.

    Raises:
        SettingError: otherwise (also for NaN).
    """
    if not isinstance(confidence, Real) or not LEAST_CONFIDENCE <= confidence < 1.0:
        raise SettingError(
            f"confidence must be at least {LEAST_CONFIDENCE} and below 1, got {confidence!r}. Use "
            "a probability such as 0.95."
        )
    return float(confidence)


def level_of(confidence: float, statements: int = 1) -> float:
    """Return the level of each of several statements that hold together: (1 - confidence) / k.

    Raises:
        SettingError: an argument is out of its range.
    """
    check_copies("statements", statements, "bounds that hold together")
    return (1.0 - check_confidence(confidence)) / statements


def share_lower(successes: int, images: int, level: float) -> float:
    """Lower bound on the mean success probability of independent images, at a level.

    The bound of Clopper & Pearson 1934 and, for a single success, ``level / images``. So it
    also holds if the images have different probabilities, as in a sample with fixed numbers from
    each class (Hoeffding 1956, Theorem 4; Greenberg & Mohri 2014, Theorem 1).

    Args:
        successes: images that succeeded, 0 to ``images``.
        images: at least 1, fixed in advance.
        level: probability that the bound is wrong, in (0, 1/4].

    Raises:
        SettingError: an argument is out of its range.
    """
    check_trials(successes, images)
    if check_alpha(level) > 1.0 - LEAST_CONFIDENCE:
        raise SettingError(f"level must be at most 0.25, got {level!r}. Use one such as 0.05.")
    return level / images if successes == 1 else clopper_pearson_lower(successes, images, level)


def share_upper(successes: int, images: int, level: float) -> float:
    """Upper bound on the mean success probability; see :func:`share_lower`."""
    return 1.0 - share_lower(images - successes, images, level)


def population_bound(
    certified: int,
    images: int,
    alpha: float,
    confidence: float = CONFIDENCE,
    statements: int = 1,
) -> float:
    """Lower bound on the robust accuracy of the population that the images were sampled from.

    An image on which the smoothed classifier is not correct and robust is certified with
    probability at most alpha. So P(certified and correct) <= RA + alpha (1 - RA), and
    RA >= (L - alpha) / (1 - alpha), with L of :func:`share_lower`.

    Args:
        certified: images that are certified at the radius and correct.
        images: all that were attempted: abstentions, refused and unfinished ones count.
        alpha: probability that a certificate is wrong.
        confidence: over the images and the noise, at least 0.75.
        statements: number of bounds that shall hold together, or from which one was chosen.

    Returns:
        A share in [0, 1]; 330 of 500 at alpha 0.001: 0.62313.

    Raises:
        SettingError: an argument is out of its range.
    """
    check_alpha(alpha)
    low = share_lower(certified, images, level_of(confidence, statements))
    return max(0.0, (low - alpha) / (1.0 - alpha))


def false_certificates(
    images: int, alpha: float, confidence: float = CONFIDENCE, statements: int = 1
) -> int:
    """Return the number of false certificates that is not exceeded, with that confidence.

    False certificates among the images are stochastically at most Bin(images, alpha), as the
    noise of the images is independent; this is the exact quantile.

    Raises:
        SettingError: an argument is out of its range.
    """
    from scipy import special

    check_copies("images", images, "images")
    level, false = level_of(confidence, statements), 0
    while special.bdtrc(false, images, check_alpha(alpha)) > level:
        false += 1
    return false


def holds_among(
    certified: int,
    images: int,
    alpha: float,
    confidence: float = CONFIDENCE,
    statements: int = 1,
) -> int:
    """Return the number of these very images on which the smoothed classifier is robust, at least.

    ``certified`` less :func:`false_certificates`. No sampling of the images is assumed: the
    confidence is over the noise alone, and holds at all radii at once. Arguments as for
    :func:`population_bound`.

    Raises:
        SettingError: an argument is out of its range.
    """
    check_trials(certified, images)
    return max(0, certified - false_certificates(images, alpha, confidence, statements))
