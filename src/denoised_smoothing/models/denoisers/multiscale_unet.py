"""A UNet of several scales with a balanced cost, made for photographs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from denoised_smoothing.models.denoisers.base import IMAGE_STD, DenoiserNetwork, per_image
from denoised_smoothing.models.denoisers.unet import Residual
from denoised_smoothing.models.protocols import Images, Sigma

_SIDE = 2
"""Side of the squares of pixels that become channels."""


class MultiscaleUNet(DenoiserNetwork):
    """Residual UNet of two or more scales for any sigma and any image size.

    The first scale computes on pixels unshuffled 2x2, each further one at half the resolution.
    Few channels where there are many positions give every scale about the same cost, and the
    deep scales see far. Input and output are scaled with sigma as those of
    :class:`~denoised_smoothing.models.denoisers.unet.UNet`, and sigma biases every block.

    Args:
        image_channels: channels C of the images.
        widths: channels of each scale, the finest first.
        blocks: residual blocks of each scale. The coarsest scale has them once, the others
            have them before and after the coarser scales.
        levels: features of sigma from which every block gets a bias (Ho et al. 2020,
            appendix B).

    Raises:
        ValueError: ``widths`` and ``blocks`` have other lengths, or fewer than two entries.
    """

    def __init__(
        self,
        image_channels: int = 3,
        widths: Sequence[int] = (24, 64, 128),
        blocks: Sequence[int] = (1, 1, 2),
        levels: int = 16,
    ) -> None:
        super().__init__(
            image_channels=image_channels, widths=list(widths), blocks=list(blocks), levels=levels
        )
        if not 2 <= len(widths) == len(blocks):
            raise ValueError(
                f"widths and blocks must have one entry for each of at least two scales, got "
                f"{list(widths)} and {list(blocks)}"
            )
        pixels = _SIDE**2 * image_channels
        outer = list(zip(widths, blocks, strict=True))[:-1]
        pairs = list(pairwise(widths))

        self.head = nn.Conv2d(pixels + 1, widths[0], 3, padding=1)
        self.encode = nn.ModuleList(_Stage(width, count, levels) for width, count in outer)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.middle = _Stage(widths[-1], blocks[-1], levels)
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.decode = nn.ModuleList(_Stage(width, count, levels) for width, count in outer)
        self.tail = nn.Conv2d(widths[0], pixels, 3, padding=1)

    def forward(self, noisy: Images, sigma: Sigma) -> Images:
        """Return the estimate of the clean images."""
        height, width = noisy.shape[-2:]
        sigmas = per_image(sigma, noisy)
        total = torch.sqrt(sigmas**2 + IMAGE_STD**2)
        centred = noisy - 0.5
        multiple = _SIDE * 2 ** len(self.down)
        padded = functional.pad(
            centred / total, (0, -width % multiple, 0, -height % multiple), mode="replicate"
        )
        pixels = functional.pixel_unshuffle(padded, _SIDE)
        level = torch.log(sigmas)
        plane = (level / 4).expand(-1, 1, *pixels.shape[-2:])
        features = self.head(torch.cat([pixels, plane], dim=1))
        kept = []
        for stage, down in zip(self.encode, self.down, strict=True):
            kept.append(stage(features, level))
            features = down(kept[-1])
        features = self.middle(features, level)
        for stage, up in zip(reversed(self.decode), reversed(self.up), strict=True):
            features = stage(kept.pop() + functional.pixel_shuffle(up(features), 2), level)
        predicted = functional.pixel_shuffle(self.tail(features), _SIDE)[..., :height, :width]
        return 0.5 + centred * (IMAGE_STD / total) ** 2 + predicted * (sigmas * IMAGE_STD / total)


class _Stage(nn.Module):
    """The residual blocks of one scale."""

    def __init__(self, width: int, count: int, levels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(width, levels) for _ in range(count))

    def forward(self, features: Tensor, level: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features, level)
        return features
