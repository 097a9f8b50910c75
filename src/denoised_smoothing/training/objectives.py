"""What a denoiser is trained to do, as pure functions of tensors."""

from __future__ import annotations

import math

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
        weights: of the images, or None for 1 each.
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
    standard deviation s; scaled here so that it is 1 at sigma = s.
    """
    return (sigmas**2 + data_std**2) / (2 * sigmas**2)


def stability(
    logits: Float[Tensor, "b k"], answer: Float[Tensor, "b k"] | Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Cross-entropy between the answers on denoised images and those wanted, in nats.

    Salman et al. 2020, equation 5; see :func:`stability_target`.
    """
    return functional.cross_entropy(logits, answer)


def lost_votes(
    logits: Float[Tensor, "b k"], answer: Float[Tensor, "b k"] | Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Mean probability that the answer is another class than the one wanted, in [0, 1].

    What the certificate measures is the share of noisy copies that vote for one class (Cohen et
    al. 2019, section 3.1); this is its complement, with probabilities in place of votes, as MACER
    has them (Zhai et al. 2020, section 4.2).
    """
    votes = logits.softmax(dim=1)
    if answer.ndim == 1:
        return 1 - votes.gather(1, answer.long()[:, None]).mean()
    return 1 - (votes * answer).sum(dim=1).mean()


def stability_target(
    clean_logits: Float[Tensor, "b k"], target: Target
) -> Float[Tensor, "b k"] | Int[Tensor, " b"]:
    """What stability aims at of a classifier's answer: of ``LABEL`` classes [B], of ``SOFT``
    probabilities [B, K]; ``TRUTH`` needs no answer.
    """
    return clean_logits.argmax(dim=1) if target is Target.LABEL else clean_logits.softmax(dim=1)


def consistency(logits: Float[Tensor, "m b k"]) -> Float[Tensor, ""]:
    """Mean divergence KL(mean answer || answer) over m noisy copies of each image, in nats.

    Jeong & Shin 2020, equation 9, first term: what is left when the copies agree is 0, so
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

    Jeong & Shin 2020, equation 9, second term, which keeps consistent answers from being flat.
    """
    mean = _mean_log_answer(logits)
    return -(mean.exp() * mean).sum(dim=1).mean()


def _mean_log_answer(logits: Float[Tensor, "m b k"]) -> Float[Tensor, "b k"]:
    return torch.logsumexp(logits.log_softmax(dim=2), dim=0) - math.log(len(logits))


def psnr(mean_squared_error: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of images in [0, 1]."""
    return -10.0 * mean_squared_error.log10()
