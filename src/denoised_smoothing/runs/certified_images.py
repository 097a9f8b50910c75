"""The images of certificates, found in data by their pixels, and what the data say about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import DatasetError, ImageError
from denoised_smoothing.models.labels import GivenLabels, LabelMatch
from denoised_smoothing.runs.labels import matched
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

Image = Float[np.ndarray, "c h w"]
Certified = Float[np.ndarray, "c i j"]
"""An image as it was certified, perhaps of another size than in the data."""
LARGEST = 2**26
"""Values of the largest image that is resized because a certificate says so."""


@dataclass(frozen=True)
class Stated:
    """What a row of a file says about an image next to its certificate; None where it does not.

    ``index`` is its place in the data, ``true_label`` a number of the classifier.
    """

    index: int | None = None
    true_label: int | None = None


@dataclass(frozen=True, eq=False)
class FoundImage:
    """The image of a certificate, and what the data say about it; None where they do not.

    Args:
        pixels: as they were certified.
        index: its place, if it was found by the image id of the certificate.
        true_label: as a number of the classifier.
        names: of the labels.
    """

    pixels: Certified
    index: int | None = None
    true_label: int | None = None
    names: Sequence[str] | None = None

    def differences(
        self,
        certificate: Certificate,
        stated: Stated,
        names: Sequence[str] | Mapping[int, str] | None,
    ) -> list[str]:
        """List in which respects a certificate and its row are about something else.

        Args:
            names: of the labels, by the classifier.
        """
        found: list[str] = []
        identity, shape = certificate.identity, self.pixels.shape
        assert identity is not None
        side = identity.resolution
        for name, held, here in (
            ("dimension", certificate.parameters.dimension, self.pixels.size),
            ("image_shape", identity.image_shape, shape),
            ("resolution", None if side is None else (side, side), shape[1:]),
            ("index", stated.index, self.index),
            ("true_label", stated.true_label, self.true_label),
        ):
            if None not in (held, here) and held != here:
                found.append(f"{name} is {held} in the file and {here} of the image at hand")
        unnamed = replace(identity, label_name=None)
        named = [unnamed.named(certificate.label, each) for each in (names, self.names) if each]
        known = [each.label_name for each in named]
        if known and identity.label_name not in (None, *known):
            found.append(f"label_name is {identity.label_name!r} in the file and {known[0]!r} here")
        return found


def certified_pixels(
    smoothed: SmoothedClassifier, image: Image, certificate: Certificate
) -> Certified | None:
    """Return an image as it was certified: as it is, or resized as recorded; None if neither is."""
    identity = certificate.identity
    if identity is None or image_forms.digest(image) == identity.image_sha256:
        return None if identity is None else image
    dimension = certificate.parameters.dimension
    prepared = _prepared(smoothed, image, identity.resolution, dimension)
    same = prepared is not None and image_forms.digest(prepared) == identity.image_sha256
    return prepared if same else None


def _prepared(
    smoothed: SmoothedClassifier, image: Image, resolution: int | None, dimension: int
) -> Certified | None:
    """Return an image at a resolution, if it then has ``dimension`` values and can be resized."""
    with suppress(ImageError):  # what cannot be prepared was not certified either
        if math.prod(smoothed.prepared_shape(image.shape, resolution)) == dimension <= LARGEST:
            return smoothed.prepare(image, resolution)
    return None


class ImagesByPixels:
    """Finds the images of a data set by the SHA-256 of their pixels, as they were certified.

    That whose id the certificate has is tried first, then all.

    Args:
        labels: assigns classes of the data to labels of the classifier, as for the run.
    """

    def __init__(self, dataset: ImageDataset, labels: GivenLabels | None = None) -> None:
        self._dataset, self._labels = dataset, labels
        self._ids = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
        self._places = lru_cache(maxsize=4)(self._find_places)
        self._matched = lru_cache(maxsize=4)(self._match)

    def __call__(self, smoothed: SmoothedClassifier, certificate: Certificate) -> FoundImage | None:
        """Return the image of a certificate; None if the data set does not have it."""
        identity = certificate.identity
        if identity is None:
            return None
        named = place = self._ids.get(certificate.counts.image_id)
        pixels = None if place is None else self._at(place, smoothed, certificate)
        if pixels is None:
            dimension = certificate.parameters.dimension
            places = self._places(smoothed, identity.resolution, dimension)
            place = places.get(bytes.fromhex(identity.image_sha256))
            pixels = None if place is None else self._at(place, smoothed, certificate)
        if place is None or pixels is None:
            return None
        match, label = self._matched(smoothed), self._dataset.labels[place]
        true_label = None if label is None else match.numbers.get(label)
        return FoundImage(pixels, place if place == named else None, true_label, match.names)

    def _at(
        self, place: int, smoothed: SmoothedClassifier, certificate: Certificate
    ) -> Certified | None:
        try:
            return certified_pixels(smoothed, self._dataset.read(place), certificate)
        except ImageError:
            return None

    def _match(self, smoothed: SmoothedClassifier) -> LabelMatch:
        """Return the labels of the data as those of the classifier; none if they do not match."""
        try:
            return matched(self._dataset, smoothed.classifier, self._labels)
        except DatasetError:  # its certificates come from images without labels
            return LabelMatch({}, None)

    def _find_places(
        self, smoothed: SmoothedClassifier, resolution: int | None, dimension: int
    ) -> dict[bytes, int]:
        """Return the place of each image by the SHA-256 of its pixels, as it is and resized."""
        places: dict[bytes, int] = {}
        for index in range(len(self._dataset)):
            with suppress(ImageError):
                image = self._dataset.read(index)
                for pixels in (image, _prepared(smoothed, image, resolution, dimension)):
                    if pixels is not None:
                        places.setdefault(bytes.fromhex(image_forms.digest(pixels)), index)
        return places
