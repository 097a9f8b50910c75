"""Objectives of denoiser training, as pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from denoised_smoothing.models.denoisers.base import IMAGE_STD
from denoised_smoothing.training.config import Target


def mse(
    denoised: Float[Tensor, "b c h w"],
    clean: Float[Tensor, "b c h w"],
    weights: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error over all pixel values (Salman et al. 2020, equation 4).

    Args:
        denoised, clean: images in [0, 1].
        weights: one per image, or None for 1 each.
    """
    if weights is None:
        return functional.mse_loss(denoised, clean)
    errors = (denoised - clean).square().mean(dim=(1, 2, 3))
    return (weights * errors).mean()


def variance_weights(
    sigmas: Float[Tensor, " b"], data_std: float = IMAGE_STD
) -> Float[Tensor, " b"]:
    """1 / variance of the error that the best linear denoiser of white images would leave.

    Karras et al. 2022, Table 1 (loss weighting): (sigma^2 + s^2) / (sigma s)^2 for images of
    standard deviation s, scaled so that it is 1 at sigma = s.
    """
    return (sigmas**2 + data_std**2) / (2 * sigmas**2)


def stability(
    logits: Float[Tensor, "b k"], answer: Float[Tensor, "b k"] | Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Cross-entropy in nats between logits of denoised images and a :func:`stability_target`.

    Salman et al. 2020, equation 5.
    """
    return functional.cross_entropy(logits, answer)


def stability_target(
    clean_logits: Float[Tensor, "b k"], target: Target
) -> Float[Tensor, "b k"] | Int[Tensor, " b"]:
    """The answer that stability aims at: classes [B] of ``LABEL``, probabilities [B, K] of
    ``SOFT``. ``TRUTH`` needs no logits of clean images.
    """
    return clean_logits.argmax(dim=1) if target is Target.LABEL else clean_logits.softmax(dim=1)


def feature_distance(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Relative squared distance of features, summed over layers.

    Johnson et al. 2016, equation 2, here for each position: |f - t|^2 / (|t|^2 + m / 10), where m
    is the layer's mean |t|^2, so that every layer and position counts alike.

    Args:
        features, targets: of each layer [B, C, ...], for denoised and for clean images.
    """
    total = features[0].new_zeros(())
    for feature, target in zip(features, targets, strict=True):
        sizes = target.square().sum(dim=1)
        errors = (feature - target).square().sum(dim=1)
        scales = (sizes + 0.1 * sizes.mean()).clamp_min(1e-6)  # a layer may be 0 everywhere
        total = total + (errors / scales).mean()
    return total


def consistency(logits: Float[Tensor, "m b k"]) -> Float[Tensor, ""]:
    """Mean divergence KL(mean answer || answer) over m noisy copies of each image, in nats.

    Jeong & Shin 2020, equation 9, first term. It is 0 when the copies agree, so
    the vote that a certificate counts becomes unanimous.
    """
    return (
        functional.kl_div(
            logits.log_softmax(dim=2),
            _mean_log_answer(logits).expand_as(logits),
            log_target=True,
            reduction="none",
        )
        .sum(dim=2)
        .mean()
    )


def answer_entropy(logits: Float[Tensor, "m b k"]) -> Float[Tensor, ""]:
    """Entropy of the mean answer over m noisy copies, in nats.

    Jeong & Shin 2020, equation 9, second term. It keeps consistent answers from being flat.
    """
    mean = _mean_log_answer(logits)
    return -(mean.exp() * mean).sum(dim=1).mean()


def _mean_log_answer(logits: Float[Tensor, "m b k"]) -> Float[Tensor, "b k"]:
    return torch.logsumexp(logits.log_softmax(dim=2), dim=0) - math.log(len(logits))


def psnr(mean_squared_error: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB, for images in [0, 1]."""
    return -10.0 * mean_squared_error.log10()
