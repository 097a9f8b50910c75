"""From a denoised copy to the bytes that are sent: a part of the classifier."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import PIL.Image
from jaxtyping import Float32, UInt8

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.vendors.base import Limits


def to_levels(images: Float32[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Images around [0, 1], clipped to it and rounded to 0 to 255."""
    levels: np.ndarray = np.rint(images.clip(0.0, 1.0) * np.float32(255)).astype(np.uint8)
    return levels


class Format(StrEnum):
    """File formats that are sent."""

    PNG = "png"
    JPEG = "jpeg"


@dataclass(frozen=True)
class Encoding:
    """Enlarges and encodes 8-bit images.

    Args:
        size: the shorter side in pixels to which images are enlarged (bilinear); None for the
            least that the vendor takes. Larger images stay as they are.
        format: of the file.
        quality: of a JPEG.

    Raises:
        SettingError: size or quality is out of its range.
    """

    size: int | None = None
    format: Format = Format.PNG
    quality: int = 95

    def __post_init__(self) -> None:
        if self.size is not None and not 2 <= self.size <= 10_000:
            raise SettingError(
                f"size is the shorter side of the image that is sent, 2 to 10000 pixels, "
                f"got {self.size}"
            )
        if not 1 <= self.quality <= 100:
            raise SettingError(f"quality of a JPEG is 1 to 100, got {self.quality}")

    def encode(self, levels: UInt8[np.ndarray, "c h w"], limits: Limits) -> bytes:
        """The encoded image.

        Args:
            levels: of the image, from :func:`to_levels`; grey images are sent as RGB.
            limits: the vendor's; the image is enlarged to its least side.

        Raises:
            SettingError: the image is beyond them; nothing was sent.
        """
        pixels = np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0)
        picture = self._enlarged(PIL.Image.fromarray(np.ascontiguousarray(pixels)), limits)
        if limits.max_side is not None and max(picture.size) > limits.max_side:
            raise SettingError(
                f"the image would be sent with {picture.width}x{picture.height} pixels, and "
                f"the vendor takes {limits.max_side} a side at most; certify at a smaller "
                "--resolution"
            )
        file = io.BytesIO()
        if self.format is Format.PNG:
            # Noise has no repetitions to look for: this is both quicker and smaller than searching.
            picture.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        else:
            picture.save(file, "JPEG", quality=self.quality)
        data = file.getvalue()
        if limits.max_bytes is not None and len(data) > limits.max_bytes:
            raise SettingError(
                f"the image would be sent as {len(data):,} bytes, and the vendor takes "
                f"{limits.max_bytes:,} at most; certify at a smaller --resolution, or send "
                "JPEG (?format=jpeg)"
            )
        return data

    def _enlarged(self, picture: PIL.Image.Image, limits: Limits) -> PIL.Image.Image:
        shorter = min(picture.size)
        wanted = max(self.size or 0, limits.min_side)
        if shorter >= wanted:
            return picture
        width, height = (-(-side * wanted // shorter) for side in picture.size)
        return picture.resize((width, height), PIL.Image.Resampling.BILINEAR)
