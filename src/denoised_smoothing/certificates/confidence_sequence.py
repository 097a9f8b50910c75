"""Anytime-valid bounds: sampling may stop, or resume, at any moment.

The evidence is a mixture martingale. A copy fails with probability q = 1 - p. Against the
hypothesis q >= q0 stands the Krichevsky-Trofimov (Jeffreys) prior truncated to q < q0; the
ratio E of the two likelihoods is a supermartingale under the hypothesis, so it ever reaches
1/alpha with probability at most alpha (Ville 1939; Robbins 1970; Howard et al. 2021). The
proofs that the project relies on are in ``docs/statistics.md``.

Everything is in q, not p, so that probabilities near 1 keep their digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from denoised_smoothing.certificates.bounds import check_alpha, check_trials
from denoised_smoothing.errors import SettingError

LARGEST_ALPHA = 0.36
"""Up to 1/e the bound is monotone in the evidence; see ``docs/statistics.md``."""
MIXTURE_SHARE = 0.75
"""Share of alpha for the mixture, which may be checked at any time; the rest is for one look."""
FUTILITY_ALPHA = 0.01
"""Level of the mirrored mixture that gives a radius up; affects power only, never validity."""
ROUNDING = 4.0 * float(np.finfo(np.float64).eps)
"""Times n ln n: what the logarithms of large factorials may add to the evidence by rounding."""
NEAR_1 = 1.0 - 1e-6
"""The largest bound on a probability above 1/2 that is looked for; beyond it there is none."""
SLACK = 1e-12
"""The root found is moved outwards by this share, the tolerance of the search."""

Integers = npt.NDArray[np.int64]


def log_evidence(
    successes: npt.ArrayLike, failures: npt.ArrayLike, q0: float
) -> npt.NDArray[np.float64]:
    """Ln E against the hypothesis that a copy fails with probability q0 or more.

    ln E = ln B(A+1/2, F+1/2) + ln I_q0(F+1/2, A+1/2) - ln B(1/2, 1/2) - ln I_q0(1/2, 1/2)
    - A ln(1-q0) - F ln q0, the one-sided truncated Krichevsky-Trofimov mixture.

    Args:
        successes, failures: A and F, arrays that broadcast.
        q0: in (0, 1).

    Returns:
        ln E, of the broadcast shape; -inf where the failures speak clearly for the hypothesis.
    """
    from scipy import special

    a, f = np.asarray(successes, dtype=np.float64), np.asarray(failures, dtype=np.float64)
    with np.errstate(divide="ignore"):
        below = np.log(special.betainc(f + 0.5, a + 0.5, q0))
    prior = math.log(math.pi) + math.log(special.betainc(0.5, 0.5, q0))
    evidence = special.betaln(a + 0.5, f + 0.5) + below - prior
    return np.asarray(evidence - a * math.log1p(-q0) - f * math.log(q0))


@lru_cache(maxsize=2**16)  # many images share the same numbers
def mixture_failure_bound(successes: int, n: int, alpha: float, largest: float = 0.5) -> float:
    """Upper bound on the failure probability q that holds at all times at once.

    The smallest q above the observed failure rate at which the evidence reaches 1/alpha: with
    probability at least 1 - alpha it is above the true q at every n, whatever made the sampling
    stop. 1.0 where none up to ``largest`` does.

    Args:
        successes: copies that did not fail, 0 to ``n``.
        n: copies so far, at least 1.
        alpha: probability that the bound is ever wrong, in (0, 0.36].
        largest: the largest bound of interest, 1/2 for a class that must have the majority.

    Raises:
        SettingError: an argument is out of its range.
    """
    from scipy import optimize

    check_trials(successes, n)
    check_anytime_alpha(alpha)
    failures, wanted = n - successes, float(_wanted(alpha, n))

    def missing(log_q: float) -> float:
        return float(log_evidence(successes, failures, math.exp(log_q))) - wanted

    highest = math.log(largest)
    if failures >= largest * n or missing(highest) < 0.0:
        return 1.0
    # At the observed rate no alternative is more likely, so the evidence is at most 1 there.
    lowest = math.log(failures / n) if failures else math.log(1e-6 / n)
    root = optimize.brentq(missing, lowest, highest, xtol=1e-14, rtol=1e-14)
    return min(math.exp(root) * (1.0 + SLACK), largest)


@lru_cache(maxsize=2**16)  # many images share the same numbers
def mixture_interval(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Interval for the success probability p that holds at all times at once.

    All p at which the ratio of the Krichevsky-Trofimov mixture, over the whole of (0, 1), to the
    likelihood of p stays below 1/alpha. The ratio at the true p is a martingale from 1 on, so with
    probability at least 1 - alpha the true p is inside at every n, whatever made the sampling stop
    (Ville 1939; Robbins 1970). The ratio is convex in p, with its minimum at ``successes / n``.

    Args:
        successes: copies that succeeded, 0 to ``n``.
        n: copies so far, at least 1.
        alpha: probability that p is ever outside, in (0, 1).

    Returns:
        The lower and the upper end.

    Raises:
        SettingError: an argument is out of its range.
    """
    check_trials(successes, n)
    check_alpha(alpha)
    failures, wanted = n - successes, float(_wanted(alpha, n))
    lower = 1.0 - _highest_rate(failures, successes, wanted)
    return lower, _highest_rate(successes, failures, wanted)


def _highest_rate(events: int, others: int, wanted: float) -> float:
    """Return the highest probability of an event whose mixture ratio is below exp(wanted)."""
    from scipy import optimize, special

    if not others:  # the ratio is smallest at 1
        return 1.0
    mixture = float(special.betaln(events + 0.5, others + 0.5)) - math.log(math.pi) - wanted

    def excess(rate: float) -> float:
        return mixture - float(special.xlogy(events, rate) + special.xlog1py(others, -rate))

    highest = math.nextafter(1.0, 0.0)
    if excess(highest) <= 0.0:
        return 1.0
    root = optimize.brentq(excess, events / (events + others), highest, xtol=1e-15)
    return min(1.0, float(root) + SLACK)


def _wanted(alpha: float, n: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the logarithm of the evidence required after n copies, rounding errors covered."""
    copies = np.asarray(n, dtype=np.float64)
    return np.asarray(ROUNDING * copies * np.log(copies + 2.0) - math.log(alpha))


def check_anytime_alpha(alpha: float) -> float:
    """Return ``alpha`` if an anytime-valid bound accepts it.

    Raises:
        SettingError: it is not in (0, 0.36].
    """
    if check_alpha(alpha) > LARGEST_ALPHA:
        raise SettingError(
            f"alpha must be at most {LARGEST_ALPHA} with an anytime plan, got {alpha!r}. Use a "
            "small probability, such as 0.001."
        )
    return alpha


@dataclass(frozen=True)
class Boundary:
    """The decisions on whether the failure probability is below q0.

    At the checkpoint of index k, ``checkpoints[k]`` copies, the radius is certified with
    ``certify[k]`` successes or more, and given up with ``give_up[k]`` or fewer.
    """

    checkpoints: Integers
    certify: Integers
    give_up: Integers

    @property
    def reachable(self) -> bool:
        """Return whether any number of copies up to the last checkpoint can certify."""
        return bool((self.certify <= self.checkpoints).any())


@lru_cache(maxsize=512)
def boundary(
    q0: float, alpha: float, look_alpha: float, max_n: int, more: int, every: int
) -> Boundary:
    """Return the decisions of an anytime plan for one q0.

    Args:
        q0: the failure probability below which the radius is certified, in (0, 1/2].
        alpha: level of the mixture.
        look_alpha: level of the one Clopper-Pearson look at ``max_n``; 0.0 for none.
        max_n: the cap that was set at the start.
        more: copies beyond it, judged by the mixture alone.
        every: copies between checkpoints.
    """
    last = max_n + more
    checkpoints = np.unique(np.append(np.arange(every, last, every), [max_n, last]))
    certify = _least_successes(checkpoints, q0, alpha)
    at_cap = int(np.searchsorted(checkpoints, max_n))
    by_mixture = int(certify[-1])
    look = least_for_clopper_pearson(max_n, q0, look_alpha) if look_alpha else max_n + 1
    certify[at_cap] = min(certify[at_cap], look)
    # A success only raises the evidence: what successes alone cannot reach is out of reach.
    out_of_reach = np.minimum(
        by_mixture - (last - checkpoints),
        np.where(checkpoints <= max_n, look - (max_n - checkpoints), last + 1),
    )
    futile = np.full_like(checkpoints, -1)
    if 1.0 - q0 < 1.0:  # else q0 is below the precision of floats, and out of reach
        futile = checkpoints - _least_successes(checkpoints, 1.0 - q0, FUTILITY_ALPHA)
    give_up = np.minimum(np.maximum(out_of_reach - 1, futile), certify - 1)
    return Boundary(checkpoints, certify, give_up)


def _least_successes(n: Integers, q0: float, alpha: float) -> Integers:
    """Return, for each n, the least A whose evidence reaches 1/alpha; n + 1 where none does.

    At fixed n the evidence increases with A, and is at most 1 while the failure rate is q0 or more.
    """
    low, high = np.maximum(np.floor(n * (1.0 - q0)).astype(np.int64) - 1, -1), n + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = log_evidence(middle.clip(0), (n - middle).clip(0), q0) >= _wanted(alpha, n)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.asarray(high)


def least_for_clopper_pearson(n: int, q0: float, alpha: float) -> int:
    """Return the least successes of n with a Clopper-Pearson bound of at most q0, else n + 1."""
    from scipy import special

    low, high = -1, n  # failures: P(at most low of n fail | q0) <= alpha, not so for high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if special.bdtr(middle, n, q0) <= alpha else (low, middle)
    return n - low
