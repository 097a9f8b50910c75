"""Exact confidence bounds on a probability from a fixed number of trials, and the exact test."""

from __future__ import annotations

from functools import lru_cache
from numbers import Real

from denoised_smoothing.errors import SettingError


def check_alpha(alpha: float) -> float:
    """Return ``alpha`` if it is a failure probability, strictly between 0 and 1.

    Raises:
        SettingError: otherwise (also for NaN).
    """
    if not isinstance(alpha, Real) or not 0.0 < alpha < 1.0:
        raise SettingError(
            f"alpha must lie strictly between 0 and 1, got {alpha!r}. Use the probability that a "
            "certificate may be wrong, such as 0.001."
        )
    return float(alpha)


def check_copies(name: str, value: int, what: str = "noisy copies, such as 1000") -> None:
    """Check that a number, of noisy copies unless ``what`` says else, is whole and at least 1.

    Raises:
        SettingError: it is not; the message has its name.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingError(
            f"{name} must be a whole number of at least 1, got {value!r}. Use a number of {what}."
        )


def checkpoint_step(n: int) -> int:
    """Return the copies between the checks of a fixed number: a tenth of n, in whole fifties."""
    return min(n, -(-n // 500) * 50)


def clopper_pearson_lower(successes: int, n: int, alpha: float) -> float:
    """One-sided lower bound on p that holds with probability at least 1 - alpha.

    The p with P(Bin(n, p) >= successes) = alpha (Clopper & Pearson 1934), as a quantile of
    the beta distribution with parameters ``successes`` and ``n - successes + 1``. Valid for a
    number of trials that was fixed in advance.

    Args:
        successes: trials that succeeded, 0 to ``n``.
        n: trials, at least 1.
        alpha: probability that the bound is wrong, in (0, 1).

    Raises:
        SettingError: an argument is out of its range.
    """
    from scipy import special

    check_trials(successes, n)
    check_alpha(alpha)
    return float(special.betaincinv(successes, n - successes + 1, alpha)) if successes else 0.0


@lru_cache(maxsize=2**16)  # many images share the same numbers
def clopper_pearson_upper(successes: int, n: int, alpha: float) -> float:
    """One-sided upper bound on p that holds with probability at least 1 - alpha.

    The p with P(Bin(n, p) <= successes) = alpha (Clopper & Pearson 1934); arguments and errors
    as for :func:`clopper_pearson_lower`.
    """
    from scipy import special

    check_trials(successes, n)
    check_alpha(alpha)
    if successes == n:
        return 1.0
    return float(special.betainccinv(successes + 1, n - successes, alpha))


def binomial_test(first: int, second: int) -> float:
    """Two-sided p-value of ``first`` against ``second`` votes under a fair coin.

    The test that says whether the most frequent label of a sample is the most probable one
    (Hung & Fithian 2019, Theorem 1), as used by ``predict`` (Cohen et al. 2019, section 3.2.1).

    Args:
        first, second: counts of the two most frequent labels, at least 0.

    Returns:
        P(a split at least as uneven | both equally probable), 1.0 without votes.

    Raises:
        SettingError: a count is negative.
    """
    from scipy import special

    if first < 0 or second < 0:
        raise SettingError(
            f"Numbers of votes must be at least 0, got {first} and {second}. Count each copy once."
        )
    fewer, n = min(first, second), first + second
    return min(1.0, 2.0 * float(special.bdtr(fewer, n, 0.5)))


def check_trials(successes: int, n: int) -> None:
    """Check that ``successes`` of ``n`` trials are possible.

    Raises:
        SettingError: successes are not in 0 to n, or n is below 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise SettingError(
            f"successes must lie between 0 and n, with n at least 1, got {successes} of {n}. "
            "Count each trial once."
        )
