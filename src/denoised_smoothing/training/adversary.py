"""Adversarial noise: the shift of the noisy images that hurts the training's objective most."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def adversarial_shift(
    loss: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]],
    images: Float[Tensor, "b c h w"],
    length: float,
    steps: int,
) -> Float[Tensor, "b c h w"]:
    """A shift of each image, at most ``length`` in L2, found by gradient ascent on ``loss``.

    SmoothAdv (Salman et al. 2019, section 2.2): the loss of a batch is computed on noisy copies
    whose noise stays fixed while the shift is sought.

    Args:
        loss: of a shift [B, C, H, W].
        images: of which only the shape counts.
        length: of the shift, pixel values in [0, 1].
        steps: gradient steps of 2 * length / steps each, or of the whole length if one.
    """
    shift = torch.zeros_like(images)
    stride = length if steps == 1 else 2 * length / steps
    for _ in range(steps):
        shift.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(shift), shift)
        with torch.no_grad():
            moved = shift + stride * gradient / _norms(gradient)
            shift = moved * (length / _norms(moved)).clamp(max=1.0)
    return shift


def _norms(images: Tensor) -> Float[Tensor, "b 1 1 1"]:
    norms: Tensor = images.flatten(1).norm(dim=1)
    return norms.clamp(min=1e-12).reshape(-1, 1, 1, 1)
