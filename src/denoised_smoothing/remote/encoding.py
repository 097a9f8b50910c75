"""From a denoised copy to the bytes that are sent: a part of the base classifier."""

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
    """Clip images to [0, 1], and round them to 0 to 255."""
    levels: np.ndarray = np.rint(images.clip(0.0, 1.0) * np.float32(255)).astype(np.uint8)
    return levels


class Format(StrEnum):
    """Formats of the files that are sent."""

    PNG = "png"
    JPEG = "jpeg"


@dataclass(frozen=True)
class Encoding:
    """Enlarges and encodes 8-bit images.

    Args:
        size: the shorter side in pixels to which images are enlarged (bilinear); None for the
            vendor's minimum. Larger images keep their size.
        quality: of a JPEG, 1 to 100.

    Raises:
        SettingError: size or quality is out of its range.
    """

    size: int | None = None
    format: Format = Format.PNG
    quality: int = 95

    def __post_init__(self) -> None:
        if self.size is not None and not 2 <= self.size <= 10_000:
            raise SettingError(f"size must be 2 to 10000 pixels, got {self.size}")
        if not 1 <= self.quality <= 100:
            raise SettingError(f"quality must be 1 to 100, got {self.quality}")

    def encode(self, levels: UInt8[np.ndarray, "c h w"], limits: Limits) -> bytes:
        """Return the encoded image.

        Args:
            levels: of the image, from :func:`to_levels`; grey images are sent as RGB.
            limits: of the vendor; the image is enlarged to its minimum side.

        Raises:
            SettingError: the image exceeds them; nothing was sent.
        """
        pixels = np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0)
        picture = self._enlarged(PIL.Image.fromarray(np.ascontiguousarray(pixels)), limits)
        if limits.max_side is not None and max(picture.size) > limits.max_side:
            raise SettingError(
                f"The image has {picture.width}x{picture.height} pixels, and the vendor accepts "
                f"{limits.max_side} a side at most. Certify at a smaller --resolution."
            )
        file = io.BytesIO()
        if self.format is Format.PNG:
            # Noise has no repetitions: not to search for them is faster, and the file smaller.
            picture.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        else:
            picture.save(file, "JPEG", quality=self.quality)
        data = file.getvalue()
        if limits.max_bytes is not None and len(data) > limits.max_bytes:
            raise SettingError(
                f"The image has {len(data):,} bytes, and the vendor accepts {limits.max_bytes:,} "
                "at most. Certify at a smaller --resolution, or send JPEG (?format=jpeg)."
            )
        return data

    def _enlarged(self, picture: PIL.Image.Image, limits: Limits) -> PIL.Image.Image:
        shorter = min(picture.size)
        wanted = max(self.size or 0, limits.min_side)
        if shorter >= wanted:
            return picture
        width, height = (-(-side * wanted // shorter) for side in picture.size)
        return picture.resize((width, height), PIL.Image.Resampling.BILINEAR)
