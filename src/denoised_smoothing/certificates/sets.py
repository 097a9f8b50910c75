"""Set-valued answers: the smoothed classifier's label provably stays within a set of labels.

Where no label has a majority, a few labels together often have one. Proofs: ``docs/sets.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

from denoised_smoothing.certificates.bounds import check_alpha
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts
from denoised_smoothing.certificates.radii import check_sigma, round_down
from denoised_smoothing.errors import SettingError

SIZES = (2, 3, 5)
"""Sizes of sets that are usually of interest."""
TOLERANCE = 1e-12
"""The error of the search for a radius over sigma; the result is lowered by it."""


def margin_radius(
    sigma: float,
    failure_bound: float,
    upper_bound: float,
    *,
    size: int = 1,
    rivals: int = 1,
    error: float = 0.0,
) -> float:
    """Return the radius within which the best of some labels stays ahead of the least of others.

    Some ``size`` labels have together a probability of at least 1 - q at the image, and any
    ``rivals`` others together at most u. Within a shift r, the former keep L = Phi(-z(q + e) -
    r/sigma) and the latter reach U = Phi(z(u + e) + r/sigma) at most, z = Phi^-1 (Neyman &
    Pearson 1933; Cohen et al. 2019, Lemma 3). The best of the former has at least L / size, the
    least of the latter at most U / rivals. The radius is the largest r with

        (L - e) / size > (U + e) / rivals.

    Sizes and rivals of 1 give Theorem 1 of Cohen et al. 2019; size 1 and t rivals one term of
    Theorem 1 of Jia et al. 2020.

    Args:
        sigma: standard deviation of the noise, in pixel values in [0, 1].
        failure_bound: q, upper bound on the probability of all but the ``size`` labels.
        upper_bound: u; where it is above q, q stands for it, as the rivals are among the rest.
        size: number of labels, one of which must stay ahead.
        rivals: number of labels, not all of which may get ahead.
        error: e, as for :func:`~denoised_smoothing.certificates.radii.gaussian_radius`.

    Returns:
        The radius in the same units as sigma; 0.0 where there is none.

    Raises:
        SettingError: sigma is not above 0, or a bound is not above 0 and at most 1.
    """
    from scipy import optimize, special

    check_sigma(sigma)
    if not (0.0 < failure_bound <= 1.0 and 0.0 < upper_bound <= 1.0 and 0.0 <= error <= 1.0):
        raise SettingError(
            "Bounds on probabilities must lie in (0, 1] and the error in [0, 1], got "
            f"{failure_bound!r}, {upper_bound!r} and {error!r}. Use bounds from counts."
        )
    low, high = failure_bound + error, min(upper_bound, failure_bound) + error
    if low >= 1.0 or high >= 1.0:
        return 0.0
    inner, outer = -float(special.ndtri(low)), float(special.ndtri(high))

    def ahead(shift: float) -> float:
        kept, reached = special.ndtr(inner - shift), special.ndtr(outer + shift)
        return float(rivals * (kept - error) - size * (reached + error))

    if ahead(0.0) <= 0.0:
        return 0.0
    end = 1.0
    while ahead(end) > 0.0:
        end *= 2.0
    root = optimize.brentq(ahead, 0.0, end, xtol=TOLERANCE / 2)
    return float(sigma * max(0.0, root - TOLERANCE))


@dataclass(frozen=True)
class SetCertificate:
    """The proof that the smoothed classifier's label stays within ``labels`` up to ``radius``.

    With probability at least 1 - alpha over the noise, the smoothed classifier's label is one of
    ``labels`` at every image closer than ``radius`` in L2. Nothing is said about which one. A
    radius of 0.0 means that nothing is proven.

    Attributes:
        labels: the set, those with the most votes of the selection stage, in that order.
        radius: in pixel values in [0, 1], not rounded.
        lower_bound: lower confidence bound on the probability of the ``leading`` labels together.
        upper_bound: upper confidence bound on the probability of every label outside.
        alpha: probability that the certificate is wrong; several sizes share that of the run.
        size: the number of labels that was asked for; fewer may have votes.
        leading: the number of the first labels, one of which stays ahead of all labels outside.
    """

    labels: tuple[int, ...]
    radius: float
    lower_bound: float
    upper_bound: float
    alpha: float
    size: int
    leading: int

    @property
    def certified(self) -> bool:
        """Whether anything is proven."""
        return self.radius > 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, rounded to the safe side at 6 decimals."""
        return {
            "size": self.size,
            "labels": list(self.labels),
            "leading": self.leading,
            "radius": round_down(self.radius, 6),
            "lower_bound": round_down(self.lower_bound, 6),
            "upper_bound": -round_down(-self.upper_bound, 6),
            "alpha": self.alpha,
        }


def set_certificates(
    certificate: Certificate, sizes: Sequence[int] = SIZES, alpha: float | None = None
) -> tuple[SetCertificate, ...]:
    """Return what the counts of a certificate prove about sets of labels, one for each size.

    The sets have the most frequent labels of the selection stage, which also says how many of
    them it is best to bound together. All certificates together are wrong with probability at
    most alpha: different sets share it equally, and half of a share bounds those labels, half
    the labels outside.

    Args:
        certificate: of an image, also one that abstains or ended early.
        sizes: numbers of labels.
        alpha: probability that any of them is wrong; None for that of the run.

    Raises:
        SettingError: a size or alpha is out of range, or no copies chose the candidate (n0 = 0).
    """
    sizes, votes = check_sizes(sizes), certificate.selection
    sets = [tuple(most_frequent(votes, size)) for size in sizes]
    level = check_alpha(certificate.alpha if alpha is None else alpha) / len(set(sets))
    return tuple(
        _set_certificate(certificate, labels, size, level)
        for labels, size in zip(sets, sizes, strict=True)
    )


def _set_certificate(
    certificate: Certificate, labels: tuple[int, ...], size: int, alpha: float
) -> SetCertificate:
    first = labels[: _leading(certificate.selection, labels)]

    def rest(votes: LabelCounts) -> int:
        return others(votes, first)

    def largest_other(votes: LabelCounts) -> int:
        return most_votes(votes, 1, labels)

    failure = event_bound(certificate, rest, alpha / 2)
    other = min(failure, event_bound(certificate, largest_other, alpha / 2))
    noise = certificate.parameters
    radius = 0.0
    if labels:
        radius = margin_radius(noise.sigma, failure, other, size=len(first), error=noise.error)
    return SetCertificate(labels, radius, 1.0 - failure, other, alpha, size, len(first))


def _leading(selection: LabelCounts, labels: tuple[int, ...]) -> int:
    """Return how many of the first labels to bound, by the shares of the selection stage."""

    def share(copies: int) -> float:
        return (copies + 1) / (selection.n + 2)

    other = share(most_votes(selection, 1, labels))

    def radius(leading: int) -> float:
        failure = share(others(selection, labels[:leading]))
        return margin_radius(1.0, failure, other, size=leading)

    return max(range(1, len(labels) + 1), key=radius, default=0)


def check_sizes(sizes: Sequence[int], name: str = "sizes") -> tuple[int, ...]:
    """Return the sizes in ascending order, each once.

    Args:
        name: of the argument, for the message.

    Raises:
        SettingError: there is none, or one is not a whole number of at least 1.
    """
    if not sizes or not all(type(size) is int and size >= 1 for size in sizes):
        raise SettingError(
            f"{name} must be whole numbers of at least 1, got {tuple(sizes)}. Use some such as "
            "2, 3."
        )
    return tuple(sorted(set(sizes)))


def event_bound(
    certificate: Certificate, occurred: Callable[[LabelCounts], int], alpha: float
) -> float:
    """Return :meth:`SamplingPlan.event_bound` of the counts of a certificate."""
    return certificate.plan.event_bound(
        certificate.counts_by_stage, occurred, alpha, certificate.parameters
    )


def most_frequent(votes: LabelCounts, limit: int) -> list[int]:
    """Return the labels with the most votes, at most ``limit``; the smallest of equals first."""
    return nlargest(limit, votes.votes, key=votes.of)


def others(votes: LabelCounts, labels: Collection[int]) -> int:
    """Return the copies without any of the labels, failed ones included."""
    return votes.n - sum(map(votes.of, labels))


def most_votes(votes: LabelCounts, rivals: int, without: Collection[int]) -> int:
    """Return the votes that any ``rivals`` labels may have together, without some labels.

    Those of the most frequent ones and all failed copies, whatever their labels would have been.
    """
    counts = (count for label, count in votes.votes.items() if label not in without)
    return sum(nlargest(rivals, counts)) + votes.failed
