"""The calibration of int8 with images of a data set."""

from __future__ import annotations

import numpy as np

from denoised_smoothing.datasets import ImageDataset, select
from denoised_smoothing.errors import ImageError
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

CALIBRATION_IMAGES = 50
"""Images whose noisy copies calibrate int8."""


def calibrate(smoothed: SmoothedClassifier, dataset: ImageDataset, resolution: int | None) -> None:
    """Calibrate int8 with images spread evenly over a data set, prepared as those to certify.

    Raises:
        ImageError: an image cannot be read, or they differ in size.
    """
    stride = max(1, len(dataset.image_ids) // CALIBRATION_IMAGES)
    images = [
        smoothed.prepare(dataset[index].image, resolution, name=f"image {index} of {dataset.name}")
        for index in select(dataset, limit=CALIBRATION_IMAGES, stride=stride)
    ]
    if len({image.shape for image in images}) > 1:
        raise ImageError(
            f"The calibration images of {dataset.name} differ in size. Set a resolution for all "
            "images."
        )
    smoothed.prepared.calibrate(
        np.stack(images),
        calibration_data=dataset.name,
        calibration_fingerprint=dataset.fingerprint,
    )
