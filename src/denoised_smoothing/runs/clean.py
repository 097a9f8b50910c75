"""Labels of the clean images of a run: of the classifier alone, and behind the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from denoised_smoothing.engines.locks import single_caller, tracing
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.models.answers import labels_of
from denoised_smoothing.runs.loading import Loaded, usable
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

BATCH = 16
"""Clean images in one forward pass."""


def note_clean_labels(
    store: Store,
    name: str,
    smoothed: SmoothedClassifier,
    load: Callable[[int], Loaded],
    indices: Sequence[int],
) -> None:
    """Record the labels of the clean images of a run in its info, where they are missing.

    ``clean`` holds lists of equal length: ``index``, places in the data set; ``classifier``,
    labels of the classifier alone; ``denoised``, labels of the clean images behind the denoiser
    at the run's sigma (None without one). Labels below 0 are answers without a label. PyTorch
    computes them in float32, whatever engine the run has. Of a converted bundle nothing is
    recorded: it holds no classifier apart from the denoiser.

    Args:
        load: from an index to the image as it is certified.
        indices: of all images; those that cannot be loaded are left out.

    Raises:
        ClassifierError: an answer cannot be used.
        StoreError: the store cannot be written.
    """
    if smoothed.models.bundle is not None and smoothed.models.bundle.converted:
        return
    pipelines = {
        "classifier": Pipeline(smoothed.classifier, None, smoothed.sigma, smoothed.device),
        "denoised": None if smoothed.denoiser is None else smoothed.prepared.pipeline,
    }
    held = store.run(name).info.get("clean", {})
    found: dict[str, Any] = {"index": list(held.get("index", []))}
    for key, pipeline in pipelines.items():
        found[key] = None if pipeline is None else list(held.get(key, []))
    missing = sorted(set(indices).difference(found["index"]))
    images = usable(load, missing, [])
    while batch := list(islice(images, BATCH)):
        clean = torch.from_numpy(np.stack([image for _, image in batch])).to(smoothed.device)
        found["index"] += [example.index for example, _ in batch]
        for key, pipeline in pipelines.items():
            if pipeline is not None:
                with torch.inference_mode(), tracing(), single_caller:
                    found[key] += labels_of(pipeline(clean)).tolist()
    if missing:
        store.note(name, clean=found)
