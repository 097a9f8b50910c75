"""The protocols of classifiers and denoisers, which any callable can follow."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float, Num
from torch import Tensor

Images: TypeAlias = Float[Tensor, "b c h w"]
"""A batch of images in [0, 1]; noisy ones beyond."""
Sigma: TypeAlias = float | Float[Tensor, " b"]
"""Standard deviation of the noise on images in [0, 1]: one number, or one for each image."""


@runtime_checkable
class Classifier(Protocol):
    """Images [B, C, H, W] in [0, 1], noisy ones beyond, to logits [B, K] or labels [B].

    A label of -1 is a vote for no class. Optional attributes are ``label_names`` (a tuple of K
    strings), ``resolution`` (height and width of the images) and ``channels`` (1 or 3).
    """

    def __call__(self, images: Images, /) -> Num[Tensor, "b ..."]: ...


@runtime_checkable
class Denoiser(Protocol):
    """Noisy images [B, C, H, W] and the noise's standard deviation to denoised images.

    Optional attributes are ``sigma_range`` (the smallest and the largest sigma for which it was
    trained; a sigma outside gives a warning) and ``size`` (height and width of the images).
    """

    def __call__(self, noisy: Images, sigma: Sigma, /) -> Images: ...
