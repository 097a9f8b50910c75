"""Verdicts on a certificate from noisy copies that someone else drew.

*Redraw* draws the recorded copies again, *audit* draws fresh ones with a seed that the certifier
did not know. The proofs are in ``docs/verify.md``; ``alpha`` is the probability that the verdict
on a correct certificate is "contradicted".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from denoised_smoothing.certificates.bounds import (
    check_alpha,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.confidence_sequence import mixture_interval
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.plans import FixedBudget, RadiusTarget
from denoised_smoothing.certificates.radii import failure_for_radius, two_sided_radius
from denoised_smoothing.errors import CountsError


class Verdict(StrEnum):
    """What a check says about one certificate."""

    HOLDS = "holds"
    """Arithmetic: counts, plan and alpha give this radius. A consistent forgery passes, too."""
    EQUAL = "equal"
    """Redraw: all counts are equal."""
    CONSISTENT = "consistent"
    """Redraw: counts differ by no more than chance allows, as of another noise stream."""
    CONFIRMED = "confirmed"
    """Audit: the fresh copies alone prove the radius."""
    NO_CLAIM = "no claim"
    """It abstains, or the image was refused: there is nothing to check."""
    WEAKER = "weaker"
    """Audit: the fresh copies neither prove nor contradict the radius."""
    UNCHECKED = "unchecked"
    """It could not be compared, for example because its image is not at hand."""
    DIFFERENT = "different"
    """Model, image or labels at hand are others than those of the certificate."""
    ALTERED = "altered"
    """A derived field differs from what the counts give."""
    MALFORMED = "malformed"
    """It cannot be read, or its counts do not fit its plan."""
    CONTRADICTED = "contradicted"
    """The copies contradict it."""


@dataclass(frozen=True)
class Finding:
    """A verdict and its reason, a sentence; empty where the verdict says all."""

    verdict: Verdict
    reason: str = ""


def compare_redrawn(
    certificate: Certificate,
    redrawn: Mapping[Stage, LabelCounts],
    alpha: float,
    *,
    exact: bool = False,
) -> Finding:
    """Compare the counts of a certificate with those of its copies, drawn again.

    On another noise stream it is contradicted only if two intervals for the probability of the
    candidate are disjoint: that of the recorded and that of the redrawn counts, each valid under
    the stopping rule of the plan at level ``alpha / 2``. Without a selection stage, disjoint
    intervals contradict only where that of the recorded counts is above 1/2.

    Args:
        redrawn: as many copies of each stage as the certificate has.
        alpha: probability of "contradicted" where both counts come from one classifier, in (0, 1).
        exact: the noise stream is the same, so that any difference contradicts.

    Raises:
        CountsError: the numbers of copies differ.
    """
    check_alpha(alpha)
    recorded = {counts.stage: counts for counts in certificate.stages}
    numbers = [
        {stage: counts.n for stage, counts in stages.items() if counts.n}
        for stages in (recorded, redrawn)
    ]
    if numbers[0] != numbers[1]:
        raise CountsError(
            f"The certificate has copies of {numbers[0]}, got {numbers[1]}. Draw as many of each "
            "stage as it has."
        )
    if all(_votes(counts) == _votes(redrawn.get(stage)) for stage, counts in recorded.items()):
        return Finding(Verdict.EQUAL)
    different = _difference(recorded, redrawn)
    if exact:
        return Finding(Verdict.CONTRADICTED, f"{different}, but the noise is the same")
    label = _candidate(certificate)
    if label is None:
        return Finding(Verdict.UNCHECKED, f"{different}, and no label was chosen to compare")
    pools = not certificate.selection.n
    mine = interval(certificate, recorded, label, alpha / 4 if pools else alpha / 2)
    theirs = interval(certificate, redrawn, label, alpha / 2)
    reason = (
        f"{different}; the probability of label {label} is in [{mine[0]:.5f}, {mine[1]:.5f}] as "
        f"recorded and in [{theirs[0]:.5f}, {theirs[1]:.5f}] as redrawn"
    )
    disjoint = mine[1] < theirs[0] or theirs[1] < mine[0]
    if disjoint and pools and mine[0] <= 0.5:
        return Finding(Verdict.UNCHECKED, f"{reason}, but without a majority that proves nothing")
    return Finding(Verdict.CONTRADICTED if disjoint else Verdict.CONSISTENT, reason)


def interval(
    certificate: Certificate, counts: Mapping[Stage, LabelCounts], label: int, alpha: float
) -> tuple[float, float]:
    """Return the ends of an interval for the probability of a label, under the stopping rule.

    Of a fixed number of copies that of Clopper & Pearson (1934), each side at ``alpha / 2``. Where
    the sampling ended early, the copies that were not drawn count against each side. Of any
    other plan a confidence sequence, for its number of copies depends on the votes.

    Args:
        counts: those of the certificate, or copies redrawn in the same numbers.
        alpha: probability that the true probability is outside, in (0, 1).
    """
    total = counts[Stage.ESTIMATION].followed_by(counts.get(Stage.CONTINUATION))
    successes, n, plan = total.of(label), total.n, certificate.plan
    if isinstance(plan, RadiusTarget):
        pilot = {Stage.SELECTION: certificate.selection}
        planned = plan.n(pilot, certificate.parameters) or n
    elif isinstance(plan, FixedBudget):
        planned = plan.n
    else:
        return mixture_interval(successes, n, alpha) if n else (0.0, 1.0)
    return _fixed_interval(successes, planned - n, planned, alpha)


def judge_audit(certificate: Certificate, fresh: LabelCounts, alpha: float) -> Finding:
    """Judge the certified label and radius by fresh copies, in a number fixed in advance.

    Confirmed if the fresh copies alone, as a fixed budget at ``alpha``, prove the label and a
    radius that is no smaller. Contradicted if even the most favourable probabilities that they
    allow at ``alpha`` give a smaller one. At most one of the two verdicts can be wrong of a
    certificate, so each has the whole alpha.

    Args:
        fresh: votes for copies whose noise is independent of the certificate.
        alpha: probability that the verdict is wrong, in (0, 1).
    """
    check_alpha(alpha)
    if certificate.label is None:
        return Finding(Verdict.NO_CLAIM)
    proven = _certificate_of(certificate, fresh, alpha)
    if proven.label is not None and proven.radius >= certificate.radius:
        return Finding(Verdict.CONFIRMED)
    successes, n = fresh.of(certificate.label), fresh.n
    if certificate.upper_bound is not None:
        return _judge_two_sided(certificate, fresh, alpha)
    needed = required_probability(certificate)
    highest = 1.0 - clopper_pearson_lower(n - successes, n, alpha)
    low, share = proven.lower_bound, f"{successes:,} of {n:,} fresh copies"
    if highest < needed:
        return Finding(
            Verdict.CONTRADICTED,
            f"{share} have label {certificate.label}: its probability is at most {highest:.5f}, "
            f"and the radius needs {needed:.5f}",
        )
    return Finding(
        Verdict.WEAKER,
        f"{share} have label {certificate.label}: its probability is at least {low:.5f}, and the "
        f"radius needs {needed:.5f}",
    )


def required_probability(certificate: Certificate) -> float:
    """Return the probability of the label that the radius needs, if others share the rest.

    1 - q with the q that gives the radius; the error of the noise on the grid is part of it.
    """
    parameters = certificate.parameters
    return 1.0 - failure_for_radius(parameters.sigma, certificate.radius, parameters.error)


def _judge_two_sided(certificate: Certificate, fresh: LabelCounts, alpha: float) -> Finding:
    """Compare with the largest radius that the fresh copies allow, at alpha / 2 each.

    The runner-up is that of the recorded copies, so that it is independent of the fresh ones.
    """
    assert certificate.label is not None
    parameters, n = certificate.parameters, fresh.n
    failures = n - fresh.of(certificate.label)
    rest = {k: v for k, v in certificate.counts.votes.items() if k != certificate.label}
    other = max(rest, key=rest.__getitem__, default=None)
    votes = 0 if other is None else fresh.of(other)
    best = two_sided_radius(
        parameters.sigma,
        clopper_pearson_lower(failures, n, alpha / 2),
        clopper_pearson_lower(votes, n, alpha / 2),
        parameters.error,
    )
    reason = (
        f"of {n:,} fresh copies {n - failures:,} have label {certificate.label} and {votes:,} the "
        f"runner-up: they allow an L2 radius of at most {best:.4f}"
    )
    below = best < certificate.radius
    return Finding(Verdict.CONTRADICTED if below else Verdict.WEAKER, reason)


def _certificate_of(certificate: Certificate, fresh: LabelCounts, alpha: float) -> Certificate:
    """Return what the fresh copies prove of the certified label."""
    assert certificate.label is not None
    two_sided = certificate.upper_bound is not None
    chosen = LabelCounts(fresh.run, fresh.image_id, Stage.SELECTION, {certificate.label: 1})
    return FixedBudget(1, fresh.n, two_sided).certificate(
        {Stage.SELECTION: chosen, Stage.ESTIMATION: replace(fresh, stage=Stage.ESTIMATION)},
        replace(certificate.parameters, alpha=alpha),
    )


def _candidate(certificate: Certificate) -> int | None:
    """Return the label whose probability the copies estimate; None if none was answered."""
    if certificate.selection.n:
        return certificate.selection.top()
    return certificate.counts.followed_by(certificate.continuation).top()


def _votes(counts: LabelCounts | None) -> tuple[Mapping[int, int], int]:
    return ({}, 0) if counts is None else (counts.votes, counts.failed)


def _difference(recorded: Mapping[Stage, LabelCounts], redrawn: Mapping[Stage, LabelCounts]) -> str:
    """Return how many copies at least have another label, and of which stages."""
    changed, n = 0, sum(counts.n for counts in recorded.values())
    for stage, counts in recorded.items():
        other = redrawn.get(stage, counts)
        labels = counts.votes.keys() | other.votes.keys()
        changed += sum(max(0, counts.of(k) - other.of(k)) for k in labels)
        changed += max(0, counts.failed - other.failed)
    return f"at least {changed:,} of {n:,} copies have another label"


@lru_cache(maxsize=2**16)  # many images share the same numbers
def _fixed_interval(successes: int, missing: int, n: int, alpha: float) -> tuple[float, float]:
    """Return the interval of Clopper & Pearson; missing copies may all be failures or successes."""
    failures = n - successes - missing
    low = 1.0 - clopper_pearson_upper(n - successes, n, alpha / 2)
    return low, 1.0 - clopper_pearson_lower(failures, n, alpha / 2)
