"""Four images with labels, and whether a data set still has them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import partial

import numpy as np
import PIL.Image
import torch

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import ImageError
from denoised_smoothing.images import to_png
from denoised_smoothing.runs.labels import as_setting, matched
from denoised_smoothing.runs.loading import common_shape, load_at, usable

LEVELS = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 4), dtype=np.uint8)
IMAGES = LEVELS / np.float32(255)
PNGS = [to_png(image) for image in IMAGES]
FILE = io.BytesIO()
PIL.Image.fromarray(LEVELS[0].transpose(1, 2, 0)).save(FILE, "BMP")
BMP = FILE.getvalue()
LABELS = [0, 1, 2, 1]
NAMES = ["cat", "dog", "fox"]
SMOOTHED = SmoothedClassifier(torch.nn.Flatten(), 0.25)


def read(dataset: ImageDataset) -> list[int]:
    """Read all labels and images as a run does; return the images that are refused."""
    match, indices = matched(dataset, SMOOTHED.classifier), range(len(dataset))
    json.dumps([as_setting(match, dataset, None), list(dataset.label_names or ())])
    for text in (*dataset.image_ids, *(dataset.label_names or ())):
        text.encode()
    for label in match.labels(dataset.labels):
        assert label is None or (type(label) is int and 0 <= label < 2**31)
    shape = common_shape(SMOOTHED, dataset, indices, None)
    load = partial(load_at, shape, SMOOTHED, dataset, resolution=None)
    refused = list[ImageError]()
    loaded = [example.index for example, _ in usable(load, indices, refused)]
    assert len(loaded) + len(refused) == len(dataset)
    return sorted({*indices} - {*loaded})


def check_others(dataset: ImageDataset, odd: set[int], place: Sequence[int] = range(4)) -> int:
    """Check that images without damage are as they were; return the number of refused images.

    Args:
        place: of each image in the data set.
    """
    refused = read(dataset)
    assert {*refused} <= {place[index] for index in odd}
    for index in {*range(4)} - odd:
        example = dataset[place[index]]
        assert np.array_equal(example.image, IMAGES[index])
        assert example.label == LABELS[index]
    return len(refused)
