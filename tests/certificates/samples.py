"""Counts made by hand, and plans that are fed from streams of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.prediction import PredictionBudget

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
    plan: SamplingPlan | PredictionBudget,
    parameters: SmoothingParameters,
    streams: Streams,
    counts: Counts | None = None,
    *,
    at_once: int | None = None,
) -> Counts:
    """The counts on which the plan ends, each stage fed from its stream of labels.

    The plan is asked after ``at_once`` copies, and always when a stage has what it wants.
    """
    counts, before = dict(counts or {}), dict[Stage, int]()
    while True:
        wanted = plan.targets(counts, parameters)
        had = {stage: counts[stage].n if stage in counts else 0 for stage in wanted}
        grown = all(wanted[stage] >= max(n, before.get(stage, 0)) for stage, n in had.items() if n)
        assert grown, "the target of a stage that has copies only ever grows"
        stage = next((stage for stage, n in had.items() if n < wanted[stage]), None)
        if stage is None:
            return counts | {stage: tally(stage, streams[stage][:n]) for stage, n in had.items()}
        n = min(wanted[stage], had[stage] + (at_once or wanted[stage]))
        assert len(streams[stage]) >= n, "streams are too short"
        counts[stage], before = tally(stage, streams[stage][:n]), wanted


def conclude(plan: SamplingPlan, parameters: SmoothingParameters, streams: Streams) -> Certificate:
    """The certificate on which the plan ends."""
    return plan.certificate(drive(plan, parameters, streams), parameters)


def identity_of(label_name: str | None = "cat") -> Identity:
    """Of an image of 32x32 pixels in colour, whose 3,072 values :func:`setting_of` states."""
    return Identity(
        classifier="cifar-resnet20:FILE",
        classifier_fingerprint="c1" * 32,
        denoiser="none",
        denoiser_fingerprint="d2" * 32,
        image_sha256="e3" * 32,
        label_name=label_name,
        resolution=32,
        image_shape=(3, 32, 32),
        version="0.1.0",
        noise_stream="cpu",
        machine="engine_version 2.5.1; processor x86_64 AVX2",
    )
