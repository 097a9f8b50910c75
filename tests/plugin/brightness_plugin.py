"""What a package must hold to add sources: a ``Source`` for each entry point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from denoised_smoothing import ImageDataset, Source, Spec


def load_classifier(spec: Spec) -> Callable[[Tensor], Tensor]:
    threshold = float(spec.rest)
    steepness = spec.number("steepness", 1)

    def classify(images: Tensor) -> Tensor:
        difference = steepness * (images.mean(dim=(1, 2, 3)) - threshold)
        return torch.stack([-difference, difference], dim=1)

    return classify


def load_denoiser(spec: Spec) -> Callable[[Tensor, float], Tensor]:
    return lambda noisy, sigma: noisy / (1 + sigma * float(spec.rest))


def load_dataset(spec: Spec) -> ImageDataset:
    count = int(spec.rest)

    def read(index: int) -> np.ndarray:
        return np.full((1, 4, 4), index / count, np.float32)

    ids = [str(index) for index in range(count)]
    return ImageDataset(spec.text, "greys", ids, read, [int(2 * i >= count) for i in range(count)])


def load_lacking(spec: Spec) -> None:
    import no_such_package  # noqa: F401


CLASSIFIER = Source(
    load_classifier, "brightness:THRESHOLD", "dark or bright", options=("steepness",)
)
DENOISER = Source(load_denoiser, "dimmer:SHARE", "makes everything darker")
DATASET = Source(load_dataset, "greys:COUNT", "one grey after the other")
LACKING = Source(load_lacking, "lacking:X", "needs more", package="no_such_package")
