"""Objectives of stability that the study compares and the package does not offer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from denoised_smoothing.training.lightning import DenoiserTraining


class VotesTraining(DenoiserTraining):
    """Stability with lost votes in place of nats."""

    @staticmethod
    def distance(logits: Tensor, answers: Tensor) -> Tensor:
        return lost_votes(logits, answers)


class AdversarialTraining(DenoiserTraining):
    """Stability of noisy copies that an attacker shifted first."""

    length = 0.25
    """L2 length of the shift, in pixel values in [0, 1]."""
    steps = 1

    def stability_of_copies(
        self,
        surrogate: Callable[[Tensor], Tensor],
        clean: Tensor,
        noisy: Tensor,
        sigmas: Tensor,
        answers: Tensor,
    ) -> Tensor:
        copies = len(noisy) // len(clean)

        def loss(shift: Tensor) -> Tensor:
            shifted = noisy + shift.repeat(copies, 1, 1, 1)
            return self.distance(surrogate(self.denoiser(shifted, sigmas)), answers)

        shift = adversarial_shift(loss, clean, self.length, self.steps).repeat(copies, 1, 1, 1)
        return super().stability_of_copies(surrogate, clean, noisy + shift, sigmas, answers)


def lost_votes(
    logits: Float[Tensor, "b k"], answer: Float[Tensor, "b k"] | Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Mean probability of another class than the answer, in [0, 1].

    A certificate measures the share of noisy copies that vote for one class (Cohen et al. 2019,
    section 3.1). This is its complement, with probabilities in place of votes, as in MACER (Zhai
    et al. 2020, section 4.2).
    """
    votes = logits.softmax(dim=1)
    if answer.ndim == 1:
        return 1 - votes.gather(1, answer.long()[:, None]).mean()
    return 1 - (votes * answer).sum(dim=1).mean()


def adversarial_shift(
    loss: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]],
    images: Float[Tensor, "b c h w"],
    length: float,
    steps: int,
) -> Float[Tensor, "b c h w"]:
    """Return a shift of each image, at most ``length`` in L2, by gradient ascent on ``loss``.

    SmoothAdv (Salman et al. 2019, section 2.2): the noise of the copies stays fixed while the
    shift changes.

    Args:
        loss: the loss of a batch whose images are shifted by its argument.
        images: a batch; only its shape is used.
        length: maximum L2 norm of the shift, in pixel values in [0, 1].
        steps: number of gradient steps. One step has the whole length, each of several has
            2 * length / steps.
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
