"""The one form of a data set: images with stable ids, and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from denoised_smoothing.errors import DatasetError
from denoised_smoothing.text import escaped, fits

_MAX_LABELS = 2**31
"""Maximum number of labels: the store keeps a label in 32 bits."""
Names = tuple[str, ...] | None
"""The name of each label, None if unknown."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image of a data set: float32 [C, H, W] on the 8-bit grid, label None if unknown.

    ``image_id`` is unique in the data set and stays the same for the same data.
    """

    index: int
    image_id: str
    image: Float32[np.ndarray, "c h w"]
    label: int | None


@dataclass(frozen=True)
class ImageDataset:
    """A sequence of :class:`Example`; an image is decoded when it is read.

    Args:
        name: the spec that loaded it.
        fingerprint: SHA-256, in hex, of its contents (see :func:`load_dataset`).
        image_ids: one for each image. If one cannot be stored as text, such as the name of a file
            that is not UTF-8, all are escaped (see :mod:`denoised_smoothing.text`).
        read: from an index to the image [C, H, W]; raises ImageError if it cannot be decoded.
        labels: one for each image, None where unknown.
        label_names: the name of each label, None if unknown; escaped as the image ids are.
        read_shape: from an index to the shape [C, H, W] without decoding the image; None to decode
            it. Raises ImageError if the image cannot be read.

    Raises:
        DatasetError: a label is below 0 or above 2^31 - 1, or has no name where there are names.
    """

    name: str
    fingerprint: str
    image_ids: Sequence[str]
    read: Callable[[int], np.ndarray]
    labels: Sequence[int | None]
    label_names: Names = None
    read_shape: Callable[[int], tuple[int, int, int]] | None = None

    def __post_init__(self) -> None:
        present = [label for label in self.labels if label is not None]
        most = min(max(present, default=0) + 1, _MAX_LABELS)
        if self.label_names is not None:
            most = len(self.label_names)
        if wrong := [label for label in present if not 0 <= label < most]:
            raise DatasetError(
                f"{self.name!r} has the label {wrong[0]}, expected 0 to {most - 1}"
                f"{'' if self.label_names is None else ', as it has that many label names'}. "
                "Correct the labels, or their names."
            )
        if not all(map(fits, self.image_ids)):
            object.__setattr__(self, "image_ids", list(map(escaped, self.image_ids)))
        if self.label_names is not None and not all(map(fits, self.label_names)):
            object.__setattr__(self, "label_names", tuple(map(escaped, self.label_names)))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        return Example(index, self.image_ids[index], self.read(index), self.labels[index])

    def shape(self, index: int) -> tuple[int, int, int]:
        """Return the shape [C, H, W] of an image, from its header where the data have one.

        Raises:
            ImageError: the image cannot be read.
        """
        if self.read_shape is not None:
            return self.read_shape(index)
        channels, height, width = self.read(index).shape
        return channels, height, width
