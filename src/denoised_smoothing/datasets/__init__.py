"""Data sets by name or path: (index, stable image id, image, label or none)."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import posixpath
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from denoised_smoothing.datasets.dataset import Example as Example
from denoised_smoothing.datasets.dataset import ImageDataset as ImageDataset
from denoised_smoothing.datasets.hugging_face import HUGGING_FACE as HUGGING_FACE
from denoised_smoothing.datasets.photos import PHOTOS as PHOTOS
from denoised_smoothing.datasets.sequences import from_sequence as from_sequence
from denoised_smoothing.datasets.tables import PARQUET as PARQUET
from denoised_smoothing.errors import (
    DatasetError,
    SettingError,
    SpecError,
    raised_as,
)
from denoised_smoothing.files import cache_folder, expand_home, sha256_of
from denoised_smoothing.images import SUFFIXES, image_shape
from denoised_smoothing.images import load_image as load_image  # public here, too
from denoised_smoothing.models.specs import Role, Source, Spec, has_source, open_spec, schemes

DATA_FOLDER_VARIABLE = "DENOISED_SMOOTHING_DATA"
"""The environment variable that names the folder for downloads."""
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}
"""Names of folders that hold the class folders of a split, in lower case."""
_OF_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN"}
"""Folders that archives and file servers add; like hidden folders, they are not classes."""
_TYPES = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))


def load_dataset(spec: str) -> ImageDataset:
    """Open a data set; images are decoded later, one by one.

    Args:
        spec: one of
            ``digits[:train|test|all]``: the 8x8 grey digits of scikit-learn; every fourth is a
            test image, and test is the default;
            ``cifar10[:train|test][:FOLDER]``: CIFAR-10 (Krizhevsky 2009), test by default, from
            a folder that holds ``cifar-10-batches-py``; without FOLDER it is downloaded once to
            the folder that the environment variable DENOISED_SMOOTHING_DATA names, or to
            ``~/.cache/denoised-smoothing`` (see :func:`~denoised_smoothing.files.cache_folder`).
            Its files are pickles, which torchvision opens only if they have the published MD5 sums;
            ``folder:PATH``: images (png, jpg, jpeg, bmp, webp) in one sub-folder for each class,
            labelled in the order of their names, or in a flat folder, without labels; hidden
            folders and those without images are not classes, and of several splits (train, val)
            one must be named;
            ``parquet:FILE``: the layout of Hugging Face (a column of structs with ``bytes``,
            labels as numbers or names if known, -1 where not), or several files by a pattern with
            ``*``; the encoded images are held in memory; ``?image=COLUMN`` and ``?label=COLUMN``
            choose among several columns, and ``?label=none`` leaves the labels out;
            ``hf:NAME[:SPLIT]``: a folder that ``save_to_disk`` of the package datasets wrote, or
            a data set in its cache on this machine, with the same options;
            ``photos``: 12 photographs of 224x224 pixels that ship with the package;
            the path of an image file.

    Returns:
        The data set. Its fingerprint is the SHA-256 of the files (parquet, image file), of the
        values and labels (digits, cifar10, hf), or of the sorted paths and sizes (folder).

    Raises:
        SpecError: the name is unknown.
        DatasetError: missing, empty or not in the expected format.
        MissingExtraError: the package that reads it is not installed.
    """
    if has_source(Role.DATASET, spec):
        dataset: ImageDataset = open_spec(Role.DATASET, spec)
        return dataset
    remedy = f"Write the path of an image ({_TYPES}), or SCHEME:REST."
    with raised_as(SpecError, f"cannot look for the data set {spec!r}", remedy):
        path = expand_home(spec)
        if path.suffix.lower() in SUFFIXES:
            return _load_file(spec, path)
        is_folder = path.is_dir()
    if is_folder:
        hint = f"Did you mean 'folder:{spec}'?"
    elif path.suffix == ".parquet":
        hint = f"Did you mean 'parquet:{spec}'?"
    else:
        known = schemes(Role.DATASET)
        nearest = difflib.get_close_matches(spec.partition(":")[0], known, n=1, cutoff=0.5)
        hint = f"Did you mean '{nearest[0]}'? " if nearest else ""
        hint += f"Known are {', '.join(known)} and the path of an image ({_TYPES})."
    raise SpecError(f"There is no data set {spec!r}. {hint}")


def select(dataset: ImageDataset, *, limit: int | None = None, stride: int = 1) -> list[int]:
    """Return the indices 0, stride, 2 * stride, ..., at most ``limit`` of them.

    Raises:
        SettingError: limit or stride is below 1.
    """
    for name, value in (("limit", limit), ("stride", stride)):
        if value is not None and value < 1:
            raise SettingError(f"{name} must be at least 1, got {value}. Use a number of images.")
    return list(range(0, len(dataset), stride))[:limit]


def _load_digits(spec: Spec) -> ImageDataset:
    from sklearn.datasets import load_digits

    splits = {"train": (1, 2, 3), "test": (0,), "all": (0, 1, 2, 3)}  # index modulo 4
    split = spec.rest or "test"
    if split not in splits:
        raise DatasetError(f"digits has no split {split!r}. Use one of {', '.join(splits)}.")
    digits = load_digits()
    indices = [index for index in range(len(digits.images)) if index % 4 in splits[split]]
    values = np.rint(digits.images[indices] * 255 / 16).astype(np.uint8)[:, None]
    labels = digits.target[indices].tolist()
    return _of_values(spec, b"", indices, values, labels, [str(digit) for digit in range(10)])


def _load_cifar10(spec: Spec) -> ImageDataset:
    from torchvision.datasets import CIFAR10

    split, _, given = spec.rest.partition(":")
    if split not in ("train", "test"):
        split, given = "test", spec.rest
    folder = expand_home(given or os.environ.get(DATA_FOLDER_VARIABLE) or cache_folder())
    is_there = (folder / CIFAR10.base_folder).is_dir()
    if given and not is_there:
        raise DatasetError(
            f"{given!r} holds no folder {CIFAR10.base_folder}. Use the folder above it, as in "
            "cifar10[:train|test][:FOLDER], or omit it to download the data."
        )
    try:
        cifar = CIFAR10(folder, train=split == "train", download=not is_there)
    except (OSError, RuntimeError) as error:
        raise DatasetError(
            f"Cannot load CIFAR-10 from {str(folder)!r}: {error}. Delete "
            f"{str(folder / CIFAR10.base_folder)!r} to download it again, or use parquet:FILE."
        ) from error
    values = np.ascontiguousarray(cifar.data.transpose(0, 3, 1, 2))
    head = f"cifar10:{split}".encode()
    return _of_values(spec, head, range(len(values)), values, cifar.targets, cifar.classes)


def _of_values(
    spec: Spec,
    head: bytes,
    ids: Sequence[int],
    values: np.ndarray,
    labels: Sequence[int],
    label_names: Sequence[str],
) -> ImageDataset:
    """Return a data set of 8-bit values; its fingerprint is of ``head``, values and labels."""
    digest = hashlib.sha256(head + values.tobytes() + bytes(labels)).hexdigest()
    read = partial(_from_values, values)
    return ImageDataset(spec.text, digest, list(map(str, ids)), read, labels, tuple(label_names))


def _from_values(values: np.ndarray, index: int) -> np.ndarray:
    image: np.ndarray = values[index] / np.float32(255)
    return image


def _load_folder(spec: Spec) -> ImageDataset:
    folder = expand_home(spec.rest)
    if not spec.rest or not folder.is_dir():
        raise DatasetError(f"There is no folder {spec.rest!r}. Check the path in {spec.text!r}.")
    relative = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    visible = [path for path in relative if not any(map(_is_hidden, path.parts))]
    ids = sorted(path.as_posix() for path in visible if path.suffix.lower() in SUFFIXES)
    if not ids:
        raise DatasetError(
            f"{spec.rest!r} holds no images. Use files of the type {_TYPES}, in one folder "
            "for each class or in the folder itself."
        )
    flat, nested = ([i for i in ids if ("/" in i) == inside] for inside in (False, True))
    if flat and nested:
        raise DatasetError(
            f"{spec.rest!r} mixes images ({flat[0]!r}) and class folders ({nested[0]!r}). Move the "
            "images into class folders, or out of it."
        )
    # A folder without images is no class: one that is added would change the numbers of the others.
    classes = sorted({i.split("/")[0] for i in ids}) if nested else []
    _refuse_splits(spec, classes, ids)
    _refuse_wrapper(spec, ids)
    sizes = [(image_id, _size(folder / image_id)) for image_id in ids]
    return ImageDataset(
        name=spec.text,
        fingerprint=hashlib.sha256(json.dumps(sizes).encode()).hexdigest(),
        image_ids=ids,
        read=partial(_from_folder, folder, ids),
        labels=[classes.index(i.split("/")[0]) if nested else None for i in ids],
        label_names=tuple(classes) or None,
        read_shape=partial(_from_folder, folder, ids, load=image_shape),
    )


def _size(path: Path) -> int:
    """Return the size of a file; 0 of a link to nothing, which is refused when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS


def _refuse_splits(spec: Spec, folders: Sequence[str], ids: Sequence[str]) -> None:
    """Refuse a folder whose sub-folders are splits, such as train and val, and not classes."""
    splits = [name for name in folders if name.casefold() in _SPLITS]
    deep = {image_id.split("/")[0] for image_id in ids if image_id.count("/") > 1}
    if len(splits) > 1 or (splits == folders and deep.intersection(splits)):
        choices = " or ".join(f"{spec.text.rstrip('/')}/{name}" for name in splits)
        raise DatasetError(
            f"{spec.rest!r} holds the splits {', '.join(splits)}, which are not classes. Name one "
            f"of them: {choices}."
        )


def _refuse_wrapper(spec: Spec, ids: Sequence[str]) -> None:
    """Refuse one folder above others, such as that of an archive: it is no class."""
    above = posixpath.commonpath([posixpath.dirname(posixpath.dirname(i)) for i in ids])
    if above:
        first = above.split("/")[0]
        inside = sorted({i.removeprefix(f"{above}/").split("/")[0] for i in ids})
        names = ", ".join(inside[:3]) + (", ..." if len(inside) > 3 else "")
        raise DatasetError(
            f"{spec.rest!r} holds the one folder {first!r}, and no image is directly in it. If "
            f"the classes are {names}, use {spec.text.rstrip('/')}/{above}. If {first!r} is the "
            f"one class, move its images directly into {first!r}."
        )


def _from_folder(
    folder: Path, ids: Sequence[str], index: int, *, load: Callable[..., Any] = load_image
) -> Any:
    return load(folder / ids[index])


def _load_file(spec: str, path: Path) -> ImageDataset:
    if not path.is_file():
        raise DatasetError(f"There is no image file {spec!r}. Check the path.")
    read = partial(_from_folder, path.parent, [path.name])
    return ImageDataset(spec, sha256_of(path), [path.name], read, [None])


DIGITS = Source(
    _load_digits,
    "digits[:train|test|all]",
    "8x8 grey digits of scikit-learn",
    package="sklearn",
    extra="digits",
)
CIFAR = Source(
    _load_cifar10,
    "cifar10[:train|test][:FOLDER]",
    "CIFAR-10, downloaded once or from a folder",
    package="torchvision",
    extra="torchvision",
)
FOLDER = Source(_load_folder, "folder:PATH", "image files, flat or in one folder for each class")
