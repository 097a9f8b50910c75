"""The photographs that ship with the package, for the demo and the documentation."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from denoised_smoothing.datasets.dataset import ImageDataset
from denoised_smoothing.files import read_lines
from denoised_smoothing.images import load_image
from denoised_smoothing.models.labels import imagenet_classes
from denoised_smoothing.models.shipped import shipped_folder
from denoised_smoothing.models.specs import Source, Spec


def _load_photos(spec: Spec) -> ImageDataset:
    """Open the photographs of 224x224 pixels, in the order of the file of their sources."""
    folder = shipped_folder("photos")
    lines = read_lines(folder / "SOURCES.tsv", "a file of this package; install it again")
    ids, classes = zip(*(line.split("\t")[:2] for line in lines), strict=True)
    known = imagenet_classes()
    digest = hashlib.sha256()
    for name in ids:
        digest.update((folder / name).read_bytes())
    return ImageDataset(
        name=spec.text,
        fingerprint=digest.hexdigest(),
        image_ids=ids,
        read=partial(_read, folder, ids),
        labels=[list(known).index(wordnet) for wordnet in classes],
        label_names=tuple(names[0] for names in known.values()),
    )


def _read(folder: Path, ids: tuple[str, ...], index: int) -> np.ndarray:
    return load_image(folder / ids[index])


PHOTOS = Source(_load_photos, "photos", "12 photographs with classes of ImageNet (CC BY 2.0)")
