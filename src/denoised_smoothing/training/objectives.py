"""What a denoiser is trained to do, as pure functions of tensors."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from denoised_smoothing.training.config import Target


def mse(denoised: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean squared error over all pixel values (Salman et al. 2020, equation 4)."""
    return functional.mse_loss(denoised, clean)


def stability(
    logits: Float[Tensor, "b k"], clean_logits: Float[Tensor, "b k"], target: Target
) -> Float[Tensor, ""]:
    """Cross-entropy between the answers on the denoised and on the clean images, in nats.

    Salman et al. 2020, equation 5, with the label or all probabilities as the clean answer.
    """
    answer = clean_logits.argmax(dim=1) if target is Target.LABEL else clean_logits.softmax(dim=1)
    return functional.cross_entropy(logits, answer)


def psnr(mean_squared_error: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of images in [0, 1]."""
    return -10.0 * mean_squared_error.log10()
