"""Counts made by hand, and plans that are fed from streams of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters

Votes = tuple[int, ...]
Counts = dict[Stage, LabelCounts]
Streams = Mapping[Stage, npt.NDArray[np.int64]]


def counts_of(stage: Stage, votes: Votes, failed: int = 0) -> LabelCounts:
    return LabelCounts("run", "7", stage, votes, failed)


def stages(selection: Votes | None, estimation: Votes | None, failed: int = 0) -> Counts:
    """Counts of selection and estimation; failed copies in the latter."""
    counts = {}
    if selection is not None:
        counts[Stage.SELECTION] = counts_of(Stage.SELECTION, selection)
    if estimation is not None:
        counts[Stage.ESTIMATION] = counts_of(Stage.ESTIMATION, estimation, failed)
    return counts


def setting_of(
    sigma: float = 0.25, alpha: float = 0.001, noise: Noise = Noise.FLOAT
) -> SmoothingParameters:
    """Without an error of the noise, unless the grid is asked for."""
    return SmoothingParameters(
        sigma=sigma, alpha=alpha, dimension=3072, seed=2**63 + 1, noise=noise
    )


def labels_of(
    random: np.random.Generator, probabilities: Sequence[float], n: int
) -> npt.NDArray[np.int64]:
    """Labels of n copies; what is missing to 1 are failed copies, -1."""
    found = np.searchsorted(np.cumsum(probabilities), random.random(n), side="right")
    return np.where(found < len(probabilities), found, -1)


def streams_of(
    random: np.random.Generator,
    probabilities: Sequence[float],
    plan: SamplingPlan,
    *stages: Stage,
) -> Streams:
    """More labels for each stage than the plan may ever ask for."""
    stages = stages or (Stage.SELECTION, Stage.ESTIMATION)
    return {stage: labels_of(random, probabilities, 2 * plan.most_calls()) for stage in stages}


def tally(stage: Stage, labels: npt.NDArray[np.int64]) -> LabelCounts:
    failed, *votes = np.bincount(labels + 1, minlength=1).tolist()
    return counts_of(stage, tuple(votes), failed)


def drive(
    plan: SamplingPlan,
    parameters: SmoothingParameters,
    streams: Streams,
    counts: Counts | None = None,
) -> Counts:
    """The counts on which the plan ends, each stage fed from its stream of labels."""
    counts = dict(counts or {})
    while True:
        wanted = plan.targets(counts, parameters)
        had = {stage: counts[stage].n for stage in wanted if stage in counts}
        assert all(wanted[stage] >= n for stage, n in had.items()), "targets only ever grow"
        if had == wanted:
            return counts
        assert all(len(streams[stage]) >= n for stage, n in wanted.items()), "streams are too short"
        counts |= {stage: tally(stage, streams[stage][:n]) for stage, n in wanted.items()}


def conclude(plan: SamplingPlan, parameters: SmoothingParameters, streams: Streams) -> Certificate:
    """The certificate on which the plan ends."""
    return plan.certificate(drive(plan, parameters, streams), parameters)
