"""Denoisers of several answers, and the classifier that takes the majority over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from denoised_smoothing.models.protocols import Classifier


@runtime_checkable
class MultiSampleDenoiser(Protocol):
    """A denoiser with several answers to one noisy image."""

    @property
    def votes(self) -> int:
        """How many."""

    def drafts(
        self, noisy: Float[Tensor, "b c h w"], sigma: float
    ) -> Iterator[Float[Tensor, "b c h w"]]:
        """Each of them, for a batch."""


class MajorityVote(nn.Module):
    """Labels [B] of noisy images: the class that most of a denoiser's drafts are given.

    DensePure (Xiao et al. 2023, section 3.2). The vote is part of the base classifier; a tie
    goes to the lowest label.

    Args:
        classifier: images [B, C, H, W] to logits [B, K] or labels [B].
        denoiser: of several drafts.
        sigma: the noise's standard deviation on images in [0, 1].
    """

    def __init__(self, classifier: Classifier, denoiser: MultiSampleDenoiser, sigma: float) -> None:
        super().__init__()
        self.classifier, self.denoiser, self.sigma = classifier, denoiser, sigma

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Height and width of what the classifier's network sees, where it says so."""
        return getattr(self.classifier, "network_size", None)

    def forward(self, noisy: Float[Tensor, "b c h w"]) -> Int[Tensor, " b"]:
        """One label an image; -2, which is refused, where an answer was NaN."""
        labels = torch.stack(
            [self._labels(draft) for draft in self.denoiser.drafts(noisy, self.sigma)]
        )
        votes = (labels[:, None] == labels[None]).sum(dim=0)
        most = votes == votes.max(dim=0).values
        winner = labels.masked_fill(~most, torch.iinfo(labels.dtype).max).min(dim=0).values
        return torch.where((labels < -1).any(dim=0), -2, winner)

    def _labels(self, images: Tensor) -> Tensor:
        answer = self.classifier(images)
        if answer.ndim == 1:
            return answer.long()
        return torch.where(answer.isnan().any(dim=1), -2, answer.argmax(dim=1))
