"""A small UNet that is told sigma and works on 2x2-unshuffled pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from denoised_smoothing.denoisers.base import DenoiserNetwork, per_image

_DATA_STD = 0.25
"""Standard deviation of the pixel values of natural images in [0, 1], about their middle."""


class UNet(DenoiserNetwork):
    """Two-scale residual UNet for any sigma and any image size.

    It computes on pixels unshuffled 2x2 (a quarter of the positions, four times the channels)
    and never on full-size features, which makes it several times cheaper than DnCNN. Input and
    output are scaled with sigma so that the network sees and predicts unit variance at every
    noise level (Karras et al. 2022, section 5, Table 1).

    Args:
        image_channels: channels C of the images.
        width: channels at half resolution; twice as many at a quarter.
        outer: residual blocks at half resolution, before and after.
        inner: residual blocks at a quarter of the resolution.
    """

    def __init__(
        self, image_channels: int = 3, width: int = 64, outer: int = 2, inner: int = 3
    ) -> None:
        super().__init__(image_channels=image_channels, width=width, outer=outer, inner=inner)
        pixels = 4 * image_channels
        self.head = nn.Conv2d(pixels + 1, width, 3, padding=1)
        self.encode = nn.Sequential(*(_Residual(width) for _ in range(outer)))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.middle = nn.Sequential(*(_Residual(2 * width) for _ in range(inner)))
        self.up = nn.Conv2d(2 * width, 4 * width, 1)
        self.decode = nn.Sequential(*(_Residual(width) for _ in range(outer)))
        self.tail = nn.Conv2d(width, pixels, 3, padding=1)

    def forward(
        self, noisy: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """The estimate of the clean images."""
        height, width = noisy.shape[-2:]
        sigmas = per_image(sigma, noisy)
        total = torch.sqrt(sigmas**2 + _DATA_STD**2)
        centred = noisy - 0.5
        padded = functional.pad(centred / total, (0, -width % 4, 0, -height % 4), mode="replicate")
        pixels = functional.pixel_unshuffle(padded, 2)
        level = (torch.log(sigmas) / 4).expand(-1, 1, *pixels.shape[-2:])
        features = self.encode(self.head(torch.cat([pixels, level], dim=1)))
        deep = self.up(self.middle(self.down(features)))
        features = self.decode(features + functional.pixel_shuffle(deep, 2))
        predicted = functional.pixel_shuffle(self.tail(features), 2)[..., :height, :width]
        return 0.5 + centred * (_DATA_STD / total) ** 2 + predicted * (sigmas * _DATA_STD / total)


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), the identity at the start of training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, features: Tensor) -> Tensor:
        inner: Tensor = self.second(torch.relu(self.first(torch.relu(features))))
        return features + inner
