"""Certificates of many images that hold together, with one failure probability for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.errors import SettingError

_PROVEN = ("label", "radius", "lower_bound", "upper_bound", "plan", "parameters")


def together(
    certificates: Sequence[Certificate], beta: float, attempted: int | None = None
) -> tuple[Certificate, ...]:
    """Return the certificates at a level at which all hold together, with probability 1 - beta.

    The counts are evaluated again at alpha = beta / K, for the number of copies that was drawn,
    or at their own alpha if that is smaller. Labels and radii get weaker. By the union bound one
    of K certificates is false with probability at most beta.

    Args:
        certificates: of all images, abstentions included. To leave out images after their
            result was seen is invalid, unless ``attempted`` counts them.
        beta: probability that any of them is false, in (0, 1).
        attempted: K, all images for which a certificate was attempted: refused and unfinished ones
            count. None for the number of certificates.

    Raises:
        SettingError: beta is out of its range, or K is below the number of certificates.
        CountsError: counts do not fit their plan.
    """
    if not 0.0 < beta < 1.0:
        raise SettingError(
            f"beta must lie strictly between 0 and 1, got {beta!r}. Use the probability that any "
            "certificate may be wrong, such as 0.05."
        )
    k = len(certificates) if attempted is None else attempted
    if k < len(certificates):
        raise SettingError(
            f"attempted must be at least the {len(certificates)} certificates, got {k}. Count "
            "every image for which a certificate was attempted."
        )
    return tuple(_at_level(certificate, beta / k) for certificate in certificates)


def _at_level(certificate: Certificate, alpha: float) -> Certificate:
    if certificate.alpha <= alpha:
        return certificate
    found = certificate.plan.recertify(certificate.counts_by_stage, certificate.parameters, alpha)
    weaker = replace(certificate, **{name: getattr(found, name) for name in _PROVEN})
    if weaker.label is None and weaker.identity is not None:
        return replace(weaker, identity=replace(weaker.identity, label_name=None))
    return weaker
