"""Decoding of uploaded images, after a check of their size, and conversion for a classifier."""

from __future__ import annotations

import io
import threading

import numpy as np
import PIL.Image
from jaxtyping import Float

from denoised_smoothing.errors import ImageError
from denoised_smoothing.images import FORMATS, load_image, resize, to_grid

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601), as Pillow converts."""
LONGEST = 8
"""Maximum ratio of the sides of an image: a longer one takes more memory when it is resized."""
_DECODING = threading.Semaphore(2)
"""Images that are decoded at a time; a large one takes much memory."""


def read_upload(content: bytes, *, pixels: int) -> Float[np.ndarray, "c h w"]:
    """Decode an uploaded image [C, H, W], verified by decoding all of it.

    Args:
        pixels: maximum of width times height, as its header states them.

    Raises:
        ImageError: empty, of another format, broken, too large or long, 16 bits or transparent.
    """
    expected = f"expected an intact file in the format {', '.join(FORMATS)}"
    if not content:
        raise ImageError(f"The image is empty (0 bytes); {expected}")
    try:
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except Exception as error:  # Pillow's errors for broken files are of many types
        raise ImageError(f"The image cannot be read; {expected}") from error
    if width * height > pixels:
        raise ImageError(
            f"The image has {width}x{height} pixels; at most {pixels:,} are accepted. Send a "
            "smaller one."
        )
    if max(width, height) > LONGEST * min(width, height):
        raise ImageError(
            f"The image has {width}x{height} pixels; its longer side must be at most {LONGEST} "
            "times the shorter, as only its middle is certified. Crop it."
        )
    try:
        with _DECODING:
            return load_image(content)
    except ImageError as error:
        if error.__cause__ is None:  # it was decoded, and has an unexpected format
            raise
        raise ImageError(f"The image cannot be decoded; {expected}") from error


def fit(
    image: Float[np.ndarray, "c h w"], shape: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "d i j"], list[str]]:
    """Convert an image to the shape [C, H, W] of the classifier, and describe the changes.

    Raises:
        ImageError: the classifier's images are not square and this one has another size.
    """
    changes = []
    if image.shape[0] == 3 and shape[0] == 1:
        image = np.tensordot(_LUMA, image, axes=1)[None].clip(0, 1).astype(np.float32)
        changes.append("converted to grey")
    elif image.shape[0] == 1 and shape[0] == 3:
        image = np.repeat(image, 3, axis=0)
        changes.append("converted from grey to red, green and blue")
    if image.shape != shape:
        size = f"{image.shape[2]}x{image.shape[1]}"
        if shape[1] != shape[2]:
            raise ImageError(
                f"The image has {size} pixels; the classifier needs "
                f"{shape[2]}x{shape[1]}. Resize or crop it to that size."
            )
        changes.append(f"resized and cropped from {size} to {shape[2]}x{shape[1]}")
        image = resize(to_grid(image), shape[1])
    return to_grid(image), changes
