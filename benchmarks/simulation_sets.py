"""Simulation of sets, groups and top-k certificates; a part of ``simulation.py``.

Labels are drawn from known probabilities, so that every false certificate is known. The tables are
those of docs/sets.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.groups import Groups, group_certificates
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.certificates.sets import margin_radius, set_certificates
from denoised_smoothing.certificates.top_k import top_k_certificates, top_k_radius

SEED, N0, N, EVERY = 20260201, 50, 1_000, 250
PARAMETERS = SmoothingParameters(sigma=1.0, alpha=0.05, dimension=64, seed=0, noise=Noise.FLOAT)
LEVELS = (Groups({"ab": (0, 1)}, "fine"), Groups({"abc": (0, 1, 2)}, "coarse"))
TINY = 1e-12

Probabilities = Sequence[float]
Pairs = list[tuple[float, float]]
"""Certified and true radii; the latter from the true probabilities."""


def of_sets(certificate: Certificate, p: Probabilities) -> Pairs:
    pairs = []
    for found in set_certificates(certificate, (2, 3)):
        other = max([q for label, q in enumerate(p) if label not in found.labels], default=TINY)
        inside = sum(p[label] for label in found.labels[: found.leading])
        true = margin_radius(1.0, max(1.0 - inside, TINY), other, size=found.leading)
        pairs.append((found.radius, true))
    return pairs


def of_groups(certificate: Certificate, p: Probabilities) -> Pairs:
    return [
        (found.radius, gaussian_radius(1.0, max(1.0 - sum(p[k] for k in found.labels), TINY)))
        for found in group_certificates(certificate, LEVELS)
    ]


def of_top_2(certificate: Certificate, p: Probabilities) -> Pairs:
    [found] = top_k_certificates(certificate, (2,))
    assert found.label is not None
    first, second = sorted((q for k, q in enumerate(p) if k != found.label), reverse=True)[:2]
    return [(found.radius, top_k_radius(1.0, 1.0 - p[found.label], (second, first + second)))]


CASES: dict[str, tuple[Callable[[Certificate, Probabilities], Pairs], Probabilities]] = {
    "sets of 2 and 3; 0.25 each": (of_sets, (0.25,) * 4),
    "sets of 2 and 3; 0.45, 0.45, 0.05, 0.05": (of_sets, (0.45, 0.45, 0.05, 0.05)),
    "sets of 2 and 3; 0.5, 0.2, 0.1, 0.1, 0.1": (of_sets, (0.5, 0.2, 0.1, 0.1, 0.1)),
    "groups of 2 and 3; 0.25, 0.25, 0.0, 0.5": (of_groups, (0.25, 0.25, 0.0, 0.5)),
    "groups of 2 and 3; 0.4, 0.4, 0.1, 0.1": (of_groups, (0.4, 0.4, 0.1, 0.1)),
    "top 2; 0.3, 0.3, 0.3, 0.1": (of_top_2, (0.3, 0.3, 0.3, 0.1)),
    "top 2; 0.4, 0.3, 0.2, 0.1": (of_top_2, (0.4, 0.3, 0.2, 0.1)),
}
PLANS: dict[str, SamplingPlan] = {
    "fixed": FixedBudget(n0=N0, n=N),
    "anytime": Anytime(max_n=N, n0=N0, every=EVERY),
}


def sets(images: int) -> None:
    """Count images with a false certificate, at 1,000 copies or at any of the anytime looks.

    Also the median of the certified radius over the true one, where there is one.
    """
    random = np.random.default_rng(SEED)
    print(f"\nImages with a false certificate, of {images:,} (alpha 0.05: {0.05 * images:,.0f})")
    print("\n| answers and probabilities | fixed | anytime | certified of the true radius |")
    print("| --- | ---: | ---: | ---: |")
    for name, (judge, p) in CASES.items():
        selections = random.multinomial(N0, p, images)
        looks = random.multinomial(EVERY, p, (images, N // EVERY)).cumsum(axis=1)
        wrong, shares = dict.fromkeys(PLANS, 0), list[float]()
        for first, counts in zip(selections.tolist(), looks.tolist(), strict=True):
            for kind, plan in PLANS.items():
                shown = counts[-1:] if kind == "fixed" else counts
                pairs = [
                    pair
                    for votes in shown
                    for pair in judge(plan.certificate(stages(first, votes), PARAMETERS), p)
                ]
                wrong[kind] += any(radius > true + 1e-9 for radius, true in pairs)
                if kind == "fixed":
                    shares += [radius / true for radius, true in pairs if true > 1e-6]
        share = f"{np.median(shares):.1%}" if shares else ""
        print(f"| {name} | {wrong['fixed']:,} | {wrong['anytime']:,} | {share} |", flush=True)


def stages(selection: list[int], votes: list[int]) -> dict[Stage, LabelCounts]:
    return {
        stage: LabelCounts("", "", stage, dict(enumerate(counts)))
        for stage, counts in ((Stage.SELECTION, selection), (Stage.ESTIMATION, votes))
    }
