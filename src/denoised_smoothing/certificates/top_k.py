"""Top-k certificates: a label provably stays among the k most probable ones (Jia et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from denoised_smoothing.certificates.bounds import check_alpha
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts
from denoised_smoothing.certificates.radii import round_down
from denoised_smoothing.certificates.sets import (
    check_sizes,
    event_bound,
    margin_radius,
    most_frequent,
    most_votes,
)


def top_k_radius(
    sigma: float, failure_bound: float, upper_bounds: Sequence[float], error: float = 0.0
) -> float:
    """Certified L2 radius within which a label stays among the k most probable ones.

    The largest r with Phi(Phi^-1(1 - q) - r/sigma) > min_t Phi(Phi^-1(u_t) + r/sigma) / t for
    e = 0: Jia et al. 2020, Theorem 1. Errors of the noise as in :func:`margin_radius`.

    Args:
        sigma: standard deviation of the noise, in pixel values in [0, 1].
        failure_bound: q, 1 - q being the lower bound on the label's probability.
        upper_bounds: u_1 to u_k: whatever k labels get ahead, some t of them have together at
            most u_t at the image.
        error: e, as for :func:`~denoised_smoothing.certificates.radii.gaussian_radius`.

    Returns:
        The radius in the same units as sigma; 0.0 where there is none.

    Raises:
        SettingError: as for :func:`margin_radius`.
    """
    return max(
        margin_radius(sigma, failure_bound, bound, rivals=rivals, error=error)
        for rivals, bound in enumerate(upper_bounds, start=1)
    )


@dataclass(frozen=True)
class TopKCertificate:
    """The proof that ``label`` stays among the k most probable labels up to ``radius``.

    With probability at least 1 - alpha over the noise, fewer than k labels are at least as
    probable as ``label`` under the smoothing noise, at every image closer than ``radius`` in L2.
    A radius of 0.0 means that nothing is proven.

    Attributes:
        label: the candidate, the most frequent label of the selection stage; None without one.
        k: number of labels, among which it stays.
        radius: in pixel values in [0, 1], not rounded.
        lower_bound: lower confidence bound on the probability of the label.
        upper_bounds: upper confidence bounds u_1 to u_k of :func:`top_k_radius`.
        alpha: probability that the certificate is wrong; several k share that of the run.
    """

    label: int | None
    k: int
    radius: float
    lower_bound: float
    upper_bounds: tuple[float, ...]
    alpha: float

    @property
    def certified(self) -> bool:
        """Whether anything is proven."""
        return self.radius > 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, rounded to the safe side at 6 decimals."""
        return {
            "label": self.label,
            "k": self.k,
            "radius": round_down(self.radius, 6),
            "lower_bound": round_down(self.lower_bound, 6),
            "upper_bounds": [-round_down(-bound, 6) for bound in self.upper_bounds],
            "alpha": self.alpha,
        }


def top_k_certificates(
    certificate: Certificate, ks: Sequence[int], alpha: float | None = None
) -> tuple[TopKCertificate, ...]:
    """Return what the counts of a certificate prove about the k most probable labels, for each k.

    The paper bounds each of C classes at alpha / C. Here the selection stage fixes which k - t
    labels may be ahead anyway. Of any k labels ahead, t are others, and the votes of t others
    are at most those of the t most frequent ones: one bound for each t, whatever C is. Half of
    alpha bounds the label, the rest is shared by the t (``docs/sets.md``).

    Args:
        certificate: of an image, also one that abstains or ended early.
        ks: numbers of labels; they share alpha.
        alpha: probability that any of the certificates is wrong; None for that of the run.

    Raises:
        SettingError: a k or alpha is out of range, or no copies chose the candidate (n0 = 0).
    """
    ks = check_sizes(ks, "ks")
    level = check_alpha(certificate.alpha if alpha is None else alpha) / len(ks)
    return tuple(_top_k_certificate(certificate, k, level) for k in ks)


def _top_k_certificate(certificate: Certificate, k: int, alpha: float) -> TopKCertificate:
    ranked = most_frequent(certificate.selection, k)
    label = ranked[0] if ranked else None

    def rest(votes: LabelCounts) -> int:
        return votes.n - (0 if label is None else votes.of(label))

    failure = event_bound(certificate, rest, alpha / 2)
    bounds = []
    for rivals in range(1, k + 1):
        ahead = ranked[: k - rivals + 1]  # the label itself, and k - rivals others

        def together(votes: LabelCounts, rivals: int = rivals, ahead: list[int] = ahead) -> int:
            return most_votes(votes, rivals, ahead)

        bounds.append(min(failure, event_bound(certificate, together, alpha / 2 / k)))
    parameters = certificate.parameters
    radius = (
        0.0 if label is None else top_k_radius(parameters.sigma, failure, bounds, parameters.error)
    )
    return TopKCertificate(label, k, radius, 1.0 - failure, tuple(bounds), alpha)
