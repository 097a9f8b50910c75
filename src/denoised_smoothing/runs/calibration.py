"""The calibration of int8 with images of a data set."""

from __future__ import annotations

from functools import partial

import numpy as np

from denoised_smoothing.datasets import ImageDataset, select
from denoised_smoothing.errors import ImageError
from denoised_smoothing.runs.loading import Shape, common_shape, load_at, none_usable, usable
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

CALIBRATION_IMAGES = 50
"""Images whose noisy copies calibrate int8."""


def calibrate(
    smoothed: SmoothedClassifier,
    dataset: ImageDataset,
    resolution: int | None,
    shape: Shape | None = None,
) -> None:
    """Calibrate int8 with images spread evenly over a data set, prepared as those to certify.

    Images that cannot be certified are left out.

    Args:
        shape: of the images to certify [C, H, W]; None for the common one of these images.

    Raises:
        ImageError: no image can be used, or two shapes are equally frequent.
    """
    stride = max(1, len(dataset.image_ids) // CALIBRATION_IMAGES)
    indices = select(dataset, limit=CALIBRATION_IMAGES, stride=stride)
    shape = shape or common_shape(smoothed, dataset, indices, resolution)
    load = partial(load_at, shape, smoothed, dataset, resolution=resolution)
    refused = list[ImageError]()
    images = [image for _, image in usable(load, indices, refused)]
    if not images:
        raise none_usable(refused)
    smoothed.prepared.calibrate(
        np.stack(images),
        calibration_data=dataset.name,
        calibration_fingerprint=dataset.fingerprint,
    )
