"""What all denoising networks share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.models.protocols import Denoiser

IMAGE_STD = 0.25
"""Standard deviation of the pixel values of natural images in [0, 1], about their middle."""


class DenoiserNetwork(nn.Module, ABC):
    """A trainable denoiser: noisy images [B, C, H, W] and sigma to denoised images.

    ``config`` are the constructor's arguments, with which a file rebuilds the network.
    ``card`` is the metadata of the weights file it came from (empty for a fresh network).
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = config
        self.card: dict[str, str] = {}

    @abstractmethod
    def forward(
        self, noisy: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Denoise images in [0, 1] that carry Gaussian noise of standard deviation sigma."""


def per_image(sigma: float | Tensor, images: Tensor) -> Float[Tensor, "b 1 1 1"]:
    """One sigma per image, whether one number or one for each image [B] was given."""
    sigmas = torch.as_tensor(sigma, dtype=images.dtype, device=images.device)
    return sigmas.reshape(-1, 1, 1, 1).expand(images.shape[0], 1, 1, 1)


def as_denoiser(function: Callable[..., Tensor]) -> Denoiser:
    """Make a denoiser of any callable: (noisy, sigma) as it is, (noisy) with sigma left out.

    The second argument is sigma if it is called that or has no default.
    """
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except ValueError:
        return function
    takes_sigma = any(p.kind is p.VAR_POSITIONAL for p in parameters) or any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        and (p.name == "sigma" or p.default is p.empty)
        for p in parameters[1:]
    )
    if takes_sigma:
        return function
    return _Blind(function) if isinstance(function, nn.Module) else partial(_blind, function)


class _Blind(nn.Module):
    """A denoiser that is not told sigma."""

    def __init__(self, denoise: nn.Module) -> None:
        super().__init__()
        self.denoise = denoise

    def forward(self, noisy: Tensor, sigma: float | Tensor) -> Tensor:
        return _blind(self.denoise, noisy, sigma)


def _blind(denoise: Callable[[Tensor], Tensor], noisy: Tensor, sigma: float | Tensor) -> Tensor:
    return denoise(noisy)
