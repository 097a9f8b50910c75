"""Labels of the clean images of a run: of the classifier alone, and behind the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from denoised_smoothing.engines.locks import single_caller, tracing
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.errors import ClassifierError
from denoised_smoothing.models.answers import labels_of
from denoised_smoothing.runs.loading import Loaded, usable
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

BATCH = 16
"""Clean images in one forward pass."""
SAVE_EVERY = 256
"""Images after which their labels are written."""


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
        indices: of all images. Those that the run refused, and those that cannot be loaded, are
            left out.

    An answer that cannot be used ends this with ``clean_error`` in the info of the run, whose
    certificates do not depend on it. The labels so far are kept, also after Ctrl-C.

    Raises:
        StoreError: the store cannot be written.
    """
    if smoothed.models.bundle is not None and smoothed.models.bundle.converted:
        return
    pipelines = {
        "classifier": Pipeline(smoothed.classifier, None, smoothed.sigma, smoothed.device),
        "denoised": None if smoothed.denoiser is None else smoothed.prepared.pipeline,
    }
    run = store.run(name)
    held = run.info.get("clean", {})
    found: dict[str, Any] = {"index": list(held.get("index", []))}
    for key, pipeline in pipelines.items():
        found[key] = None if pipeline is None else list(held.get(key, []))
    refused = {image.index for image in run.refused}
    missing = sorted(set(indices).difference(found["index"], refused))
    images, saved = usable(load, missing, []), len(found["index"])
    try:
        while batch := list(islice(images, BATCH)):
            clean = torch.from_numpy(np.stack([image for _, image in batch])).to(smoothed.device)
            labels = {key: _labels(pipeline, clean) for key, pipeline in pipelines.items()}
            labels["index"] = [example.index for example, _ in batch]
            found = {key: new and found[key] + new for key, new in labels.items()}  # all or none
            if len(found["index"]) - saved >= SAVE_EVERY:
                store.note(name, clean=found)
                saved = len(found["index"])
    except ClassifierError as error:
        store.note(name, clean_error=f"Labels of clean images are missing: {error}")
    else:
        if run.info.get("clean_error"):
            store.note(name, clean_error=None)
    finally:
        if len(found["index"]) > saved:
            store.note(name, clean=found)


def _labels(pipeline: Pipeline | None, images: torch.Tensor) -> list[int] | None:
    if pipeline is None:
        return None
    with torch.inference_mode(), tracing(), single_caller:
        labels: list[int] = labels_of(pipeline(images)).tolist()
    return labels
