"""The rule by which an anytime plan gives up sets of labels that more copies hardly certify.

Giving up concerns power only, never validity: a certificate rests on the counts alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.confidence_sequence import (
    FUTILITY_ALPHA,
    MIXTURE_SHARE,
    NEAR_1,
    mixture_failure_bound,
)
from denoised_smoothing.certificates.sets import (
    SetCertificate,
    margin_radius,
    most_votes,
    others,
    set_certificates,
)

LEAST = 1e-300
"""Stands for a probability of 0, where a bound must be above it."""


def sets_are_open(
    certificate: Certificate, sizes: Sequence[int], radii: Sequence[float], cap: int, last: int
) -> bool:
    """Return whether a set may yet be certified at a larger one of the radii.

    A radius is given up when it is out of reach, even if all copies to come vote for the leading
    labels; or when bounds at 0.01 say that it is improbable.

    Args:
        certificate: of the counts so far.
        sizes: of the sets.
        radii: L2 radii, ascending.
        cap: copies at which there is one Clopper-Pearson check.
        last: the maximum number of copies.
    """
    for found in set_certificates(certificate, sizes):
        missing = next((radius for radius in radii if radius > found.radius), None)
        if missing is None or not found.labels:
            continue
        if _reachable(certificate, found, cap, last) > missing < _probable(certificate, found):
            return True
    return False


def _reachable(certificate: Certificate, found: SetCertificate, cap: int, last: int) -> float:
    """Return the radius if all copies to come vote for the leading labels."""
    votes = certificate.counts.followed_by(certificate.continuation)
    first = found.labels[: found.leading]
    bounds = [
        min(_best_bound(count, votes.n, cap, last, found.alpha / 2), 1.0)
        for count in (others(votes, first), most_votes(votes, 1, found.labels))
    ]
    return _radius(certificate, found, bounds[0], bounds[1])


def _best_bound(count: int, n: int, cap: int, last: int, alpha: float) -> float:
    """Return the bound at the end, if the event does not occur again."""
    found = mixture_failure_bound(last - count, last, MIXTURE_SHARE * alpha, NEAR_1)
    if n <= cap:
        look = clopper_pearson_upper(count, cap, (1 - MIXTURE_SHARE) * alpha)
        found = min(found, look)
    return found


def _probable(certificate: Certificate, found: SetCertificate) -> float:
    """Return the radius at the favourable ends of intervals for the probabilities."""
    votes = certificate.counts.followed_by(certificate.continuation)
    first = found.labels[: found.leading]
    outside = most_votes(votes, 1, found.labels) - votes.failed
    lowest = [
        max(1.0 - mixture_failure_bound(count, votes.n, FUTILITY_ALPHA, NEAR_1), LEAST)
        for count in (others(votes, first), outside)
    ]
    return _radius(certificate, found, lowest[0], lowest[1])


def _radius(certificate: Certificate, found: SetCertificate, q: float, u: float) -> float:
    parameters = certificate.parameters
    return margin_radius(parameters.sigma, q, u, size=found.leading, error=parameters.error)
