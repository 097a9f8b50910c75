"""Training images as an endless stream whose samples are keyed by their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from denoised_smoothing.datasets import Example, ImageDataset
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.images import match_channels, resize
from denoised_smoothing.noise import derive_key
from denoised_smoothing.training.config import check_at_least

Sample = tuple[Tensor, int, int]
"""Image [C, H, W] in [0, 1], label or -1, and number of the sample."""

KEPT = 2**30
"""Maximum bytes of decoded images that a process keeps."""


def channels_of(dataset: ImageDataset, first: int = 20) -> int:
    """Return the channels of a training: 3 if one of the first images has colour, else 1."""
    shapes = (dataset[index].image.shape for index in range(min(first, len(dataset))))
    return 3 if any(shape[0] == 3 for shape in shapes) else 1


@dataclass(frozen=True)
class Preparation:
    """How an image of the data set becomes a training sample. Lengths are in pixels.

    Args:
        channels: channels of the images, 1 or 3.
        resolution: side to which images are resized and centre-cropped first, or None.
        crop: side of random square crops, or None for the size of the image.
        pad: black border on each side before cropping, which shifts the image.
        flip: whether half of the samples are mirrored left to right.
        scale: the smallest factor, in (0, 1], by which larger squares are reduced to crops.
        colour: the largest change, in [0, 1), of contrast, brightness and single channels.

    Raises:
        SettingError: a length is too small, or a number out of its range.
    """

    channels: int
    resolution: int | None = None
    crop: int | None = None
    pad: int = 0
    flip: bool = True
    scale: float = 1.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        check_at_least(2, self, "resolution", "crop")
        check_at_least(0, self, "pad")
        if not 0 < self.scale <= 1 or (self.scale < 1 and self.crop is None):
            raise SettingError(
                f"scale must be above 0 and at most 1, and needs crops, got {self.scale} with "
                f"crop={self.crop}. Use 0.5 and a crop, or omit scale."
            )
        if not 0 <= self.colour < 1:
            raise SettingError(
                f"colour must be in [0, 1), got {self.colour}. Use 0.2, or 0 for the colours of "
                "the images."
            )

    def clean(self, example: Example) -> Float[np.ndarray, "c h w"]:
        """Return the image with the right channels and resolution.

        Raises:
            ImageError: the image has other channels, or is smaller than the crops.
        """
        image = match_channels(example.image, self.channels)
        if self.resolution is not None:
            image = resize(image, self.resolution)
        if self.crop is not None and min(image.shape[1:]) < self.crop:
            raise ImageError(
                f"images must be at least as large as crops of {self.crop} pixels, got "
                f"{image.shape[2]}x{image.shape[1]} of image {example.image_id}. Use smaller "
                "crops, or remove that image."
            )
        return image

    def augment(
        self, image: Float[np.ndarray, "c h w"], rng: np.random.Generator
    ) -> Float[np.ndarray, "c i j"]:
        """Return a random crop of the padded image, reduced, mirrored and coloured or not."""
        size = image.shape[1:] if self.crop is None else (self.crop, self.crop)
        if self.crop is not None and self.scale < 1:
            side = round(self.crop / math.exp(rng.uniform(math.log(self.scale), 0)))
            size = (min(side, *image.shape[1:]),) * 2
        padded = image
        if self.pad:
            channels, height, width = image.shape
            padded = np.zeros((channels, height + 2 * self.pad, width + 2 * self.pad), np.float32)
            padded[:, self.pad : -self.pad, self.pad : -self.pad] = image
        top, left = (
            rng.integers(0, whole - part + 1)
            for whole, part in zip(padded.shape[1:], size, strict=True)
        )
        image = padded[:, top : top + size[0], left : left + size[1]]
        if self.crop is not None:
            image = resize(image, self.crop)
        image = image[:, :, ::-1] if self.flip and rng.random() < 0.5 else image
        return self._coloured(image, rng) if self.colour else image

    def _coloured(
        self, image: Float[np.ndarray, "c i j"], rng: np.random.Generator
    ) -> Float[np.ndarray, "c i j"]:
        """Return the image with a random contrast, brightness, and gain of each channel."""
        contrast, brightness = rng.uniform(-self.colour, self.colour, 2)
        gains = 1 + rng.uniform(-self.colour, self.colour, (len(image), 1, 1)) / 2
        mean = image.mean()
        changed = ((image - mean) * (1 + contrast) + mean + brightness / 2) * gains
        clipped: Float[np.ndarray, "c i j"] = np.clip(changed, 0, 1).astype(np.float32)
        return clipped

    def centre(self, image: Float[np.ndarray, "c h w"]) -> Float[np.ndarray, "c i j"]:
        """Return the centre crop, for validation."""
        if self.crop is None:
            return image
        top, left = ((side - self.crop) // 2 for side in image.shape[1:])
        return image[:, top : top + self.crop, left : left + self.crop]


class SampleStream(Dataset[Sample]):
    """Training samples by number, without end.

    Every pass over the data is a permutation. Crops and flips are keyed by the seed and the
    sample's number, so that a resumed training gets equal samples. Decoded images are kept up to
    :data:`KEPT`.
    """

    def __init__(self, dataset: ImageDataset, preparation: Preparation, seed: int) -> None:
        self.dataset = dataset
        self.preparation = preparation
        self.seed = seed
        self._kept: dict[int, tuple[Float[np.ndarray, "c h w"], int | None]] = {}
        self._capacity = KEPT

    def __getitem__(self, number: int) -> Sample:
        passed, position = divmod(number, len(self.dataset))
        order = _permutation(self.seed, passed, len(self.dataset))
        image, label = self._clean(int(order[position]))
        rng = np.random.default_rng(derive_key(self.seed, "augmentation", number))
        return _sample(self.preparation.augment(image, rng), label, number)

    def _clean(self, index: int) -> tuple[Float[np.ndarray, "c h w"], int | None]:
        if index in self._kept:
            return self._kept[index]
        example = self.dataset[index]
        found = self.preparation.clean(example), example.label
        if found[0].nbytes <= self._capacity:
            self._capacity -= found[0].nbytes
            self._kept[index] = found
        return found


class ValidationImages(Dataset[Sample]):
    """The first ``limit`` images of a data set, without augmentation."""

    def __init__(self, dataset: ImageDataset, preparation: Preparation, limit: int) -> None:
        self.dataset = dataset
        self.preparation = preparation
        self.count = min(limit, len(dataset))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> Sample:
        example = self.dataset[position]
        return _sample(
            self.preparation.centre(self.preparation.clean(example)), example.label, position
        )


class EpochSampler(Sampler[int]):
    """The sample numbers of one epoch on one of several devices.

    Epoch e covers the numbers from e * size to (e + 1) * size. Lightning calls
    :meth:`set_epoch`, also after resuming.
    """

    def __init__(self, size: int, rank: int, world_size: int) -> None:
        self.size = size
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration covers."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.size
        return iter(range(first + self.rank, first + self.size, self.world_size))

    def __len__(self) -> int:
        return len(range(self.rank, self.size, self.world_size))


def _sample(image: Float[np.ndarray, "c h w"], label: int | None, number: int) -> Sample:
    return torch.from_numpy(np.ascontiguousarray(image)), -1 if label is None else label, number


@lru_cache(maxsize=2)
def _permutation(seed: int, passed: int, size: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng(derive_key(seed, "order", passed)).permutation(size)
