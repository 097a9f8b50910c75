"""Sequences of (image, label) from Python, such as a torch ``Dataset``, as data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from denoised_smoothing.datasets.dataset import ImageDataset, Names
from denoised_smoothing.errors import DatasetError, ImageError, first_line, raised_as
from denoised_smoothing.images import as_array, as_image, digest

_ITEM = "(image, label), as torchvision's data sets give them"


def from_sequence(items: Any, *, name: str | None = None) -> ImageDataset:
    """Return the data set of a sequence of (image, label), such as a torch ``Dataset``.

    All items are read once, for their labels and the fingerprint. One that raises has no label,
    and is refused with its number.

    Args:
        items: has ``len`` and gives (image, label) by index. An image is one of
            :func:`~denoised_smoothing.images.as_image`, or 8-bit values [C, H, W] or [H, W, C]; a
            label is a number, a name or None, and below 0 unknown. An attribute ``classes`` holds
            the label names, as in torchvision.
        name: of the data set; None for the name of the type.

    Raises:
        DatasetError: it has no length or no items, none can be read, or one is not such a pair.
    """
    if isinstance(items, ImageDataset):
        return items
    name = name or type(items).__name__
    labels: list[Any] = []
    refused: list[ImageError] = []
    content = hashlib.sha256()
    for index in range(_length(items, name)):
        try:
            image, label = _pair(items, name, index)
        except ImageError as error:  # of one item: the others are used
            refused.append(error)
            image, label = None, None
        labels.append(_label(label, f"Item {index} of {name}"))
        content.update(_digest(image, index).encode())
    if not labels:
        raise DatasetError(f"{name} has no items. Use one for each image.")
    if len(refused) == len(labels):
        raise DatasetError(f"No item of {name} can be read: {refused[0]}")
    names = _names(items)
    if any(isinstance(label, str) for label in labels):
        words = tuple(sorted({str(label) for label in labels if label is not None}))
        names = names if names is not None and set(words) <= set(names) else words
        labels = [None if label is None else names.index(str(label)) for label in labels]
    content.update(repr((labels, names)).encode())
    return ImageDataset(
        name=name,
        fingerprint=content.hexdigest(),
        image_ids=[str(index) for index in range(len(labels))],
        read=partial(_read, items, name),
        labels=labels,
        label_names=names,
    )


def _length(items: Any, name: str) -> int:
    what = f"A data set must have a length and give {_ITEM}, by index, got {name}"
    with raised_as(DatasetError, what, "Put the items into a list."):
        _ = items.__getitem__
        return len(items)


def _pair(items: Any, name: str, index: int) -> tuple[Any, Any]:
    with raised_as(ImageError, f"item {index} of {name} cannot be read", "Repair it or omit it."):
        item = items[index]
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
        keys = f" with the keys {', '.join(map(str, item))}" if isinstance(item, Mapping) else ""
        raise DatasetError(
            f"Item {index} of {name} must be {_ITEM}, got {type(item).__name__}{keys}. Wrap it: "
            "[(image, label) for ... in ...]."
        )
    return item[0], item[1]


def _read(items: Any, name: str, index: int) -> np.ndarray:
    return _image(_pair(items, name, index)[0], f"item {index} of {name}")


def _image(value: Any, name: str) -> np.ndarray:
    """Return an image in the one format; 8-bit values are divided by 255."""
    array = as_array(value, name) if str(getattr(value, "dtype", "")) == "torch.uint8" else value
    if isinstance(array, np.ndarray) and array.dtype == np.uint8:
        if array.ndim == 2:
            array = array[None]
        if array.ndim == 3 and array.shape[0] not in (1, 3) and array.shape[2] in (1, 3):
            array = array.transpose(2, 0, 1)
        array = array / np.float32(255)
    return as_image(array, name=name)


def _digest(value: Any, index: int) -> str:
    """Return the digest of an image; one that cannot be read is refused later, with its number."""
    try:
        return digest(_image(value, f"item {index}"))
    except ImageError:
        return f"refused {index}"


def _label(value: Any, what: str) -> int | str | None:
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        try:
            value = value.item()
        except Exception as error:  # of any library
            raise DatasetError(
                f"{what} has the label {value!r} ({first_line(error)}). Convert it to a number."
            ) from error
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value) if value >= 0 else None
    raise DatasetError(
        f"{what} has the label {value!r}, expected a whole number, a name or None. Convert it."
    )


def _names(items: Any) -> Names:
    """Return the names of ``classes``, also of the data set behind a torch ``Subset``."""
    for holder in _behind(items):
        what = f"the names in classes of {type(holder).__name__} cannot be read"
        with raised_as(DatasetError, what, "Use a list of strings."):
            classes = getattr(holder, "classes", None)
            if isinstance(classes, Sequence) and not isinstance(classes, str) and len(classes):
                return tuple(c if isinstance(c, str) else ", ".join(map(str, c)) for c in classes)
    return None


def _behind(items: Any) -> Iterator[Any]:
    seen: list[Any] = []
    while items is not None and not any(items is each for each in seen):
        seen.append(items)
        yield items
        items = getattr(items, "dataset", None)
