"""The images of a run: their one shape, and those that cannot be certified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from denoised_smoothing.datasets import Example, ImageDataset
from denoised_smoothing.errors import ImageError, RefusedImagesError
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import RefusedImage

_LISTED, _NAMED = 10, 3
"""Reasons that an error lists if no image can be certified, and if some cannot."""

_RESIZE = "Set a resolution (--resolution) for all images."

Loaded = tuple[Example, Float[np.ndarray, "c h w"]]
"""An example, and its image as it is certified."""
Shape = tuple[int, int, int]
"""Channels, height and width."""


def common_shape(
    smoothed: SmoothedClassifier,
    dataset: ImageDataset,
    indices: Sequence[int],
    resolution: int | None,
) -> Shape:
    """Return the one shape [C, H, W] at which images of a data set are certified.

    That of the bundle; else that of the resolution or, without one, of the classifier's; else the
    most frequent one of the images, from their headers. Images that cannot be certified at any
    shape do not count.

    Raises:
        ImageError: two shapes are equally frequent, or no image can be certified.
    """
    if (bundled := smoothed.prepared.bundle_shape) is not None:
        channels, height, width = bundled
        return channels, height, width
    side = smoothed.resolution if resolution is None else resolution
    if side is not None and smoothed.channels is not None:
        return smoothed.channels, side, side
    found, refused = Counter[Shape](), list[ImageError]()
    for index in indices:
        name = _name(dataset, index)
        try:
            found[smoothed.prepared_shape(dataset.shape(index), resolution, name=name)] += 1
        except ImageError as error:
            refused.append(error)
    if not found:
        raise none_usable(refused)
    most = max(found.values())
    first, *others = sorted(shape for shape, count in found.items() if count == most)
    if others:
        same_size = all(shape[1:] == first[1:] for shape in others)
        hint = "Convert all images to RGB, or all to grey." if same_size else _RESIZE
        raise ImageError(
            f"The images have several shapes, and {_as_text(first)} and {_as_text(others[0])} are "
            f"equally frequent, {most:,} of {len(indices):,} images each. {hint}"
        )
    return first


def load_at(
    shape: Shape,
    smoothed: SmoothedClassifier,
    dataset: ImageDataset,
    index: int,
    resolution: int | None,
) -> Loaded:
    """Return an example, and its image at the resolution and on the 8-bit grid.

    Raises:
        ImageError: it cannot be read, or certified, or has another shape [C, H, W].
    """
    example, name = dataset[index], _name(dataset, index)
    image = smoothed.prepare(example.image, resolution, name=name)
    if image.shape != shape:
        hint = f"Convert it to {_kind(shape)}." if len(image) != shape[0] else _RESIZE
        raise ImageError(
            f"{name[0].upper()}{name[1:]} has shape {list(image.shape)}, but this run certifies "
            f"images of shape {list(shape)}. {hint}"
        )
    return example, image


def usable(
    load: Callable[[int], Loaded], indices: Iterable[int], refused: list[ImageError]
) -> Iterator[Loaded]:
    """Yield the images that can be loaded; add the errors of all others to ``refused``."""
    for index in indices:
        try:
            loaded = load(index)
        except ImageError as error:
            refused.append(error)
        else:
            yield loaded


def none_usable(refused: Sequence[ImageError]) -> ImageError:
    """Return the error of images of which none can be certified, with the first reasons."""
    if len(refused) == 1:
        return refused[0]
    more = len(refused) - _LISTED
    lines = [*map(str, refused[:_LISTED]), *([f"... and {more:,} more"] if more > 0 else [])]
    return ImageError("\n".join([f"None of {len(refused):,} images can be certified:", *lines]))


def some_refused(run: str, refused: Sequence[RefusedImage], images: int) -> RefusedImagesError:
    """Return the error of a run in which some images could not be certified."""
    reasons = " ".join(image.reason for image in refused[:_NAMED])
    more = f" ... and {len(refused) - _NAMED:,} more." if len(refused) > _NAMED else ""
    return RefusedImagesError(
        f"{len(refused):,} of {images:,} images could not be certified; all others of run {run!r} "
        f"are: {reasons}{more} Report and exports list each, or its result of fewer copies."
    )


def _name(dataset: ImageDataset, index: int) -> str:
    return f"image {dataset.image_ids[index]!r}"


def _as_text(shape: Shape) -> str:
    return f"{shape[1]}x{shape[2]} {_kind(shape)}"


def _kind(shape: Shape) -> str:
    return "grey" if shape[0] == 1 else "RGB"
