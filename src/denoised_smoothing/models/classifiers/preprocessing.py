"""Resizing and cropping to the input size of a network, on batches of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from denoised_smoothing.errors import ImageError, SettingError


class Interpolation(StrEnum):
    """The interpolation of pixels. All but nearest are antialiased."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class Scaling(StrEnum):
    """The sides that are resized to ``scaled`` before the crop."""

    SHORTER = "shorter"
    """The shorter side. The aspect ratio stays."""
    BOTH = "both"
    """Both sides."""
    SQUARE = "square"
    """Both sides of square images. Others are refused."""


@dataclass(frozen=True)
class Resize:
    """Resize, then crop the centre to ``size``. Images of that size are left unchanged.

    So images that had the network's size before the noise are not cropped again.

    Args:
        size: height and width of the network's input.
        scaled: length to which sides are resized before the crop, or None for ``size``.
        scaling: the sides that get that length.
        interpolation: interpolation of pixels, without rounding to 8 bits.
        crop_rounds_down: whether an odd border is rounded down, as in transformers, or to the
            nearest even number, as in torchvision and timm.

    Raises:
        SettingError: the crop is larger than the resized image.
    """

    size: tuple[int, int]
    scaled: int | None = None
    scaling: Scaling = Scaling.BOTH
    interpolation: Interpolation = Interpolation.BILINEAR
    crop_rounds_down: bool = False

    def __post_init__(self) -> None:
        if self.scaled is not None and self.scaled < max(self.size):
            raise SettingError(
                f"a crop must be at most {self.scaled} pixels, the resized image, got "
                f"{self.size[0]}x{self.size[1]}. Correct the preprocessing saved with the model."
            )

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """Resize and crop a batch to ``size``.

        Raises:
            ImageError: the images must be square and are not.
        """
        height, width = images.shape[-2:]
        if (height, width) == self.size:
            return images
        images = self._scale(images, self._scaled_size(height, width))
        top, left = (
            int(border / 2) if self.crop_rounds_down else round(border / 2)
            for border in (images.shape[-2] - self.size[0], images.shape[-1] - self.size[1])
        )
        return images[..., top : top + self.size[0], left : left + self.size[1]]

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        if self.scaled is None:
            return self.size
        if self.scaling is Scaling.SHORTER:
            shorter = min(height, width)
            return int(self.scaled * height / shorter), int(self.scaled * width / shorter)
        if self.scaling is Scaling.SQUARE and height != width:
            raise ImageError(
                "images must be square, because this classifier would pad others, got "
                f"{height}x{width}. Use resolution {self.size[0]}."
            )
        return self.scaled, self.scaled

    def _scale(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(images.shape[-2:]) == size:
            return images
        if self.interpolation is Interpolation.NEAREST:
            return functional.interpolate(images, size=size, mode="nearest")
        scaled = functional.interpolate(  # a CPU cannot do that in half precision
            images.float(), size=size, mode=self.interpolation.value, antialias=True
        )
        return scaled.to(images.dtype)
