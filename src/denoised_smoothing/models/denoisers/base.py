"""The base class of denoising networks, and callables as denoisers."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.models.protocols import Denoiser, Images, Sigma

IMAGE_STD = 0.25
"""Standard deviation of the pixel values of natural images in [0, 1]."""


class DenoiserNetwork(nn.Module, ABC):
    """A trainable denoiser: noisy images [B, C, H, W] and sigma to denoised images.

    ``config`` holds the constructor's arguments, from which a file rebuilds the network.
    ``card`` is the metadata of its weights file, empty for a new network.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = config
        self.card: dict[str, str] = {}

    @property
    def sigma_range(self) -> tuple[float, float] | None:
        """The smallest and the largest sigma of its training, as its card states; None if not."""
        try:
            return float(self.card["sigma_min"]), float(self.card["sigma_max"])
        except (KeyError, TypeError, ValueError):
            return None

    @abstractmethod
    def forward(self, noisy: Images, sigma: Sigma) -> Images:
        """Denoise images in [0, 1] with Gaussian noise of standard deviation sigma."""


def per_image(sigma: float | Tensor, images: Tensor) -> Float[Tensor, "b 1 1 1"]:
    """Return one sigma for each image, from one number or one for each image [B]."""
    sigmas = torch.as_tensor(sigma, dtype=images.dtype, device=images.device)
    return sigmas.reshape(-1, 1, 1, 1).expand(images.shape[0], 1, 1, 1)


def as_denoiser(function: Callable[..., Tensor]) -> Denoiser:
    """Return a denoiser that calls ``function`` with (noisy, sigma), or with (noisy) alone.

    The second argument of the function is sigma if it has that name or no default.
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
    """A denoiser that does not use sigma."""

    def __init__(self, denoise: nn.Module) -> None:
        super().__init__()
        self.denoise = denoise

    def forward(self, noisy: Tensor, sigma: float | Tensor) -> Tensor:
        return _blind(self.denoise, noisy, sigma)


def _blind(denoise: Callable[[Tensor], Tensor], noisy: Tensor, sigma: float | Tensor) -> Tensor:
    return denoise(noisy)
