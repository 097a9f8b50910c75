"""Notes for the user before the images of a run are certified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.parameters import (
    EngineName,
    Noise,
    Precision,
    SmoothingParameters,
)
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.engines.locks import single_caller, tracing
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

MOST, FEWEST = 16, 8
"""Clean images whose answers are compared: at most, and at least to say something."""
_ALIKE, _SURE = 0.1, 0.9
"""Total variation below which answers are alike, and a confidence that images can share."""
_NOT_REQUESTED = [(name, Precision.FLOAT32) for name in (EngineName.AUTO, EngineName.TORCH)]
"""Engines and precisions that are defaults."""


def notes_on_engine(
    smoothed: SmoothedClassifier, image: Float[np.ndarray, "c h w"]
) -> tuple[str, ...]:
    """Return notes about the engine for images like this one."""
    prepared = smoothed.prepared
    choice = prepared.engine_if_used(image)
    if choice is not None:
        return choice.notes
    if (prepared.engine, prepared.precision) in _NOT_REQUESTED:
        return ()
    return (
        "--engine and --precision have no effect: without a denoiser, the remote classifier gets "
        "the noisy copies as they are.",
    )


def notes_on_plan(plan: SamplingPlan, parameters: SmoothingParameters) -> tuple[str, ...]:
    """Return a note about a plan that cannot certify any of its radii."""
    if not isinstance(plan, Anytime) or plan.boundaries(parameters):
        return ()
    return (
        f"No radius of {plan.radii} can be certified at sigma {parameters.sigma:g} by up to "
        f"{plan.max_n:,} copies, so no copy is drawn. Use a larger sigma, smaller --radii or a "
        "larger --max-n; 'denoised-smoothing plan' prints the minimum.",
    )


def notes_on_models(smoothed: SmoothedClassifier) -> tuple[str, ...]:
    """Return notes about the cost of the denoiser, and about noise without a proof."""
    notes = []
    if (passes := getattr(smoothed.denoiser, "model_calls", 1)) > 1:
        samples = getattr(smoothed.denoiser, "samples", 1)
        more = f" and {samples} of the classifier" if samples > 1 else ""
        notes.append(f"Each noisy copy takes {passes} passes of the denoising model{more}.")
    if smoothed.noise is Noise.FLOAT:
        notes.append(
            "With --noise float the certificates are not proven, because the proof does not "
            "cover noise that is added in floating point. Use --noise grid, which is proven."
        )
    return tuple(notes)


def notes_on_answers(
    smoothed: SmoothedClassifier,
    images: Sequence[Float[np.ndarray, "c h w"]],
    labels: Sequence[int | None],
) -> tuple[str, ...]:
    """Return a note if a local classifier gives nearly the same answer to all clean images.

    That is so where it expects pixel values of another scale. One confident answer to all is
    right if the images have one label.

    Raises:
        ClassifierError: an answer cannot be used.
    """
    if len(images) < FEWEST:
        return ()
    clean = torch.from_numpy(np.stack(images)).to(smoothed.device)
    classifier = Pipeline(smoothed.classifier, None, smoothed.sigma, smoothed.device)
    with torch.inference_mode(), tracing(), single_caller:
        answer = classifier(clean)
    if answer.ndim == 1:
        return ()
    answers = answer.double()
    if bool((answers < 0).any()) or not torch.allclose(
        answers.sum(dim=1), torch.ones(len(answers)).to(answers), atol=1e-3
    ):  # logits, not probabilities
        answers = answers.softmax(dim=1)
    apart = (answers - answers.mean(dim=0)).abs().sum(dim=1) / 2
    confidence = float(answers.amax(dim=1).mean())
    one_label = len(set(labels) - {None}) <= 1
    if not float(apart.max()) < _ALIKE or (one_label and confidence > _SURE):
        return ()
    return (
        f"The classifier gives nearly the same answer to {len(images)} clean images. It gets "
        "values in [0, 1]: if it expects others, convert them in front of it, or set mean and std "
        "(of an ONNX file, or scale=255).",
    )
