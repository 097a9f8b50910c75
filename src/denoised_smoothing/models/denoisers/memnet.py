"""MemNet: blocks of residual units whose outputs are all kept and gated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.protocols import Images, Sigma


class MemNet(DenoiserNetwork):
    """Persistent memory network (Tai et al. 2017, section 3). It does not use sigma.

    Args:
        image_channels: channels C of the images.
        blocks: memory blocks M (Salman et al. 2020 use 3).
        recursions: residual units R in each block.
        width: channels of the features.
        shared: whether the units of a block share their convolutions. Those that were published
            with Salman et al. 2020 do not.
    """

    def __init__(
        self,
        image_channels: int = 3,
        blocks: int = 3,
        recursions: int = 6,
        width: int = 64,
        shared: bool = True,
    ) -> None:
        super().__init__(
            image_channels=image_channels,
            blocks=blocks,
            recursions=recursions,
            width=width,
            **({} if shared else {"shared": False}),
        )
        self.extract = _activated_convolution(image_channels, width)
        self.blocks = nn.ModuleList(
            _MemoryBlock(width, recursions, index + 1, shared) for index in range(blocks)
        )
        self.reconstruct = _activated_convolution(width, image_channels)

    def forward(self, noisy: Images, sigma: Sigma) -> Images:
        """Add the predicted residual; sigma is not used."""
        memories = [self.extract(noisy)]
        for block in self.blocks:
            memories.append(block(memories))
        residual: Tensor = self.reconstruct(memories[-1])
        return noisy + residual


class _MemoryBlock(nn.Module):
    """Residual units (short-term memory) and a gate over them and all earlier blocks."""

    def __init__(self, width: int, recursions: int, memories: int, shared: bool) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, bias=False)
            for _ in range(2 if shared else 2 * recursions)
        )
        # Units may share convolutions, but not the statistics of their inputs.
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2)) for _ in range(recursions)
        )
        self.gate = _activated_convolution((recursions + memories) * width, width, size=1)

    def forward(self, memories: list[Tensor]) -> Tensor:
        features, short_term = memories[-1], []
        for unit, norms in enumerate(self.norms):
            inner = features
            for half, norm in enumerate(norms.children()):
                convolution = self.convolutions[(2 * unit + half) % len(self.convolutions)]
                inner = convolution(torch.relu(norm(inner)))
            features = features + inner
            short_term.append(features)
        gated: Tensor = self.gate(torch.cat([*short_term, *memories], dim=1))
        return gated


def _activated_convolution(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
    )
