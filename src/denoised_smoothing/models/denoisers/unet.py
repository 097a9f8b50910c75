"""A small UNet that receives sigma and computes on 2x2-unshuffled pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from denoised_smoothing.models.denoisers.base import IMAGE_STD, DenoiserNetwork, per_image
from denoised_smoothing.models.protocols import Images, Sigma


class UNet(DenoiserNetwork):
    """Two-scale residual UNet for any sigma and any image size.

    It computes on pixels unshuffled 2x2 (a quarter of the positions, four times the channels),
    which makes it several times cheaper than DnCNN. Input and output are scaled with sigma, so
    that the network sees and predicts unit variance at every noise level (Karras et al. 2022,
    section 5, Table 1).

    Args:
        image_channels: channels C of the images.
        width: channels of the outer scale. The inner scale has twice as many.
        outer: residual blocks of the outer scale, before and after the inner scale.
        inner: residual blocks of the inner scale, which has half the resolution.
        unshuffle: side of the squares of pixels that become channels; 1 for none.
        residual: the network's prediction: ``scaled``, as above, or ``noise``, which is
            multiplied by sigma and subtracted, as DnCNN does.
        levels: features of sigma from which every residual block gets a bias (Ho et al. 2020,
            appendix B); 0 for none, so that sigma is an input only.

    Raises:
        ValueError: ``residual`` is another word.
    """

    def __init__(
        self,
        image_channels: int = 3,
        width: int = 64,
        outer: int = 2,
        inner: int = 3,
        unshuffle: int = 2,
        residual: str = "scaled",
        levels: int = 0,
    ) -> None:
        super().__init__(
            image_channels=image_channels,
            width=width,
            outer=outer,
            inner=inner,
            unshuffle=unshuffle,
            residual=residual,
            **({"levels": levels} if levels else {}),
        )
        if residual not in ("scaled", "noise"):
            raise ValueError(f"residual must be scaled or noise, got {residual!r}")
        self.unshuffle, self.residual = unshuffle, residual
        pixels = unshuffle**2 * image_channels
        self.head = nn.Conv2d(pixels + 1, width, 3, padding=1)
        self.encode = nn.ModuleList(Residual(width, levels) for _ in range(outer))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.middle = nn.ModuleList(Residual(2 * width, levels) for _ in range(inner))
        self.up = nn.Conv2d(2 * width, 4 * width, 1)
        self.decode = nn.ModuleList(Residual(width, levels) for _ in range(outer))
        self.tail = nn.Conv2d(width, pixels, 3, padding=1)

    def forward(self, noisy: Images, sigma: Sigma) -> Images:
        """Return the estimate of the clean images."""
        height, width = noisy.shape[-2:]
        sigmas = per_image(sigma, noisy)
        total = torch.sqrt(sigmas**2 + IMAGE_STD**2)
        centred = noisy - 0.5
        multiple = 2 * self.unshuffle
        padded = functional.pad(
            centred / total, (0, -width % multiple, 0, -height % multiple), mode="replicate"
        )
        pixels = functional.pixel_unshuffle(padded, self.unshuffle)
        level = torch.log(sigmas)
        plane = (level / 4).expand(-1, 1, *pixels.shape[-2:])
        features = self.head(torch.cat([pixels, plane], dim=1))
        for block in self.encode:
            features = block(features, level)
        deep = self.down(features)
        for block in self.middle:
            deep = block(deep, level)
        features = features + functional.pixel_shuffle(self.up(deep), 2)
        for block in self.decode:
            features = block(features, level)
        predicted = functional.pixel_shuffle(self.tail(features), self.unshuffle)
        predicted = predicted[..., :height, :width]
        if self.residual == "noise":
            return noisy - sigmas * predicted
        return 0.5 + centred * (IMAGE_STD / total) ** 2 + predicted * (sigmas * IMAGE_STD / total)


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)) + bias)), which is x at the start of training."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = _zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.bias = (
            nn.Sequential(nn.Conv2d(1, levels, 1), nn.SiLU(), _zeroed(nn.Conv2d(levels, width, 1)))
            if levels
            else None
        )

    def forward(self, features: Tensor, level: Tensor) -> Tensor:
        inner: Tensor = self.first(torch.relu(features))
        if self.bias is not None:
            inner = inner + self.bias(level)
        change: Tensor = self.second(torch.relu(inner))
        return features + change


def _zeroed(layer: nn.Module) -> nn.Module:
    """Return the layer with an output of 0 until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
