"""Uploaded bytes to an image: nothing is decoded before its size is known to be small enough."""

from __future__ import annotations

import io
import threading

import numpy as np
import PIL.Image
from jaxtyping import Float

from denoised_smoothing.errors import ImageError
from denoised_smoothing.images import FORMATS, load_image, resize, to_grid

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue in grey (ITU-R BT.601), as Pillow converts."""
LONGEST = 8
"""Sides of an image, the longer to the shorter: a longer one grows when it is brought to a size."""
_DECODING = threading.Semaphore(2)
"""Images that are decoded at a time, as one of many pixels takes much memory."""


def read_upload(content: bytes, *, pixels: int) -> Float[np.ndarray, "c h w"]:
    """Decode an uploaded image [C, H, W], verified by decoding all of it.

    Args:
        content: of the file.
        pixels: the most that it may have, width times height, by its own header.

    Raises:
        ImageError: empty, of another format, broken, too large or long, 16 bits or transparent.
    """
    expected = f"expected an intact file of the format {', '.join(FORMATS)}"
    if not content:
        raise ImageError(f"the image is empty (0 bytes); {expected}")
    try:
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except Exception as error:  # Pillow's errors for broken files are of many types
        raise ImageError(f"the image cannot be read; {expected}") from error
    if width * height > pixels:
        raise ImageError(
            f"the image has {width}x{height} pixels, and at most {pixels:,} are taken; make it "
            "smaller first"
        )
    if max(width, height) > LONGEST * min(width, height):
        raise ImageError(
            f"the image has {width}x{height} pixels; its longer side may be at most {LONGEST} "
            "times the shorter, as its middle is what is looked at; crop it first"
        )
    try:
        with _DECODING:
            return load_image(content)
    except ImageError as error:
        if error.__cause__ is None:  # what is said of an image that was decoded
            raise
        raise ImageError(f"the image cannot be decoded; {expected}") from error


def fit(
    image: Float[np.ndarray, "c h w"], shape: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "d i j"], list[str]]:
    """The image as it is certified, of the classifier's shape [C, H, W], and what was changed.

    Raises:
        ImageError: the classifier's images are not square and this one has another size.
    """
    changes = []
    if image.shape[0] == 3 and shape[0] == 1:
        image = np.tensordot(_LUMA, image, axes=1)[None].clip(0, 1).astype(np.float32)
        changes.append("turned to grey")
    elif image.shape[0] == 1 and shape[0] == 3:
        image = np.repeat(image, 3, axis=0)
        changes.append("its grey channel taken as red, green and blue")
    if image.shape != shape:
        if shape[1] != shape[2]:
            raise ImageError(
                f"the image has {image.shape[2]}x{image.shape[1]} pixels, the classifier takes "
                f"{shape[2]}x{shape[1]}; bring it to that size"
            )
        changes.append(f"brought from {image.shape[2]}x{image.shape[1]} to {shape[2]}x{shape[1]}")
        image = resize(to_grid(image), shape[1])
    return to_grid(image), changes
