"""How images of another size come to that of a network: on tensors, in batches, after the noise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from denoised_smoothing.errors import ImageError, SettingError


class Interpolation(StrEnum):
    """Of pixels; all but nearest are antialiased."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class Scaling(StrEnum):
    """What is brought to ``scaled`` before the crop."""

    SHORTER = "shorter"
    """The shorter side; the aspect ratio stays."""
    BOTH = "both"
    """Both sides."""
    SQUARE = "square"
    """Both sides of images that are square; others are refused."""


@dataclass(frozen=True)
class Resize:
    """Scale, then crop the centre to ``size``; an image of that size is left as it is.

    So an image that was brought to the network's size before the noise is not cropped again.

    Args:
        size: height and width that the network takes.
        scaled: side to which an image is scaled before the crop; None for ``size``.
        scaling: which sides.
        interpolation: of pixels, never rounded to 8 bits.
        crop_rounds_down: where the crop begins when the border is odd: below the middle, as in
            transformers, or at the rounded middle, as in torchvision and timm.

    Raises:
        SettingError: the crop is larger than what it is cut from.
    """

    size: tuple[int, int]
    scaled: int | None = None
    scaling: Scaling = Scaling.BOTH
    interpolation: Interpolation = Interpolation.BILINEAR
    crop_rounds_down: bool = False

    def __post_init__(self) -> None:
        if self.scaled is not None and self.scaled < max(self.size):
            raise SettingError(
                f"a crop of {self.size[0]}x{self.size[1]} does not fit into images that are "
                f"scaled to {self.scaled}; correct the preprocessing that the model was saved with"
            )

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """Bring a batch to ``size``.

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
                f"this classifier fills up images that are not square, which is not done here, "
                f"got {height}x{width}; name a resolution of {self.size[0]}"
            )
        return self.scaled, self.scaled

    def _scale(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(images.shape[-2:]) == size:
            return images
        if self.interpolation is Interpolation.NEAREST:
            return functional.interpolate(images, size=size, mode="nearest")
        scaled = functional.interpolate(  # which a CPU cannot do in half precision
            images.float(), size=size, mode=self.interpolation.value, antialias=True
        )
        return scaled.to(images.dtype)
