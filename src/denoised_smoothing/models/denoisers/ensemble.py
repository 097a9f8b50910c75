"""Denoisers of several answers, and the classifier that takes the majority over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from denoised_smoothing.errors import ClassifierError, SettingError
from denoised_smoothing.models.denoisers.base import DenoiserNetwork, as_denoiser
from denoised_smoothing.models.protocols import Classifier, Denoiser


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


class MeanDenoiser(DenoiserNetwork):
    """The views of several denoisers, over which the classifier's scores are averaged.

    The average varies less with the noise than each of its parts, which raises the majority
    class's probability (Horváth et al. 2022, section 4, for networks trained apart). Mirror
    images are the oldest views of one network (Krizhevsky et al. 2012, section 4.1). All of it
    is part of the base classifier: a noisy copy still has one vote.

    It has no weights file: a run or bundle that names it makes it of its parts again.

    Args:
        denoisers: one or more, of one answer each.
        mirror: each of them denoises the copy's mirror image too, which the classifier sees as
            it is, mirrored.

    Raises:
        SettingError: there is no second view, one of them has several answers of its own, or
            they are for images of different channels.
    """

    def __init__(self, denoisers: Sequence[DenoiserNetwork], *, mirror: bool = False) -> None:
        if len(denoisers) * (1 + mirror) < 2:
            raise SettingError(
                "a mean needs a second view: name another denoiser, or mirror (?mirror=yes)"
            )
        channels = {denoiser.config["image_channels"] for denoiser in denoisers}
        if len(channels) > 1:
            raise SettingError(
                f"denoisers for images of {' and '.join(map(str, sorted(channels)))} channels "
                "have no mean; take denoisers for the same images"
            )
        if any(isinstance(denoiser, MultiSampleDenoiser) for denoiser in denoisers):
            raise SettingError("a mean is of unet, dncnn or memnet, not of diffusion or of means")
        super().__init__(image_channels=channels.pop())
        self.denoisers, self.mirror = nn.ModuleList(denoisers), mirror

    @property
    def model_calls(self) -> int:
        """Passes of denoisers for one noisy copy."""
        return self.votes

    @property
    def votes(self) -> int:
        """How many views there are."""
        return len(self.denoisers) * (1 + self.mirror)

    def drafts(
        self, noisy: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]
    ) -> Iterator[Float[Tensor, "b c h w"]]:
        """Each view of a batch."""
        for denoiser in self.denoisers:
            yield denoiser(noisy, sigma)
            if self.mirror:
                yield denoiser(noisy.flip(3), sigma)

    def forward(
        self, noisy: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """The first view, as a picture of what the classifier sees."""
        return next(self.drafts(noisy, sigma))


class MeanLogits(nn.Module):
    """Mean logits [B, K] of a classifier over the views of a :class:`MeanDenoiser`.

    Args:
        classifier: images [B, C, H, W] to logits or other scores [B, K].
        denoiser: of the views.
        sigma: the noise's standard deviation on images in [0, 1].
    """

    def __init__(self, classifier: Classifier, denoiser: MeanDenoiser, sigma: float) -> None:
        super().__init__()
        self.classifier, self.denoiser, self.sigma = classifier, denoiser, sigma

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Height and width of what the classifier's network sees, where it says so."""
        return getattr(self.classifier, "network_size", None)

    def forward(self, noisy: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """The mean of the scores.

        Raises:
            ClassifierError: the classifier answers with labels.
        """
        answers = [self.classifier(view) for view in self.denoiser.drafts(noisy, self.sigma)]
        if answers[0].ndim == 1:
            raise ClassifierError(
                "the classifier answers with labels, which have no mean; take one of the "
                "denoisers alone, or a classifier that answers with logits"
            )
        return torch.stack(answers).float().mean(dim=0)


def logits_after_denoising(
    denoiser: Denoiser | None,
    classifier: Classifier,
    sigma: float,
    noisy: Float[Tensor, "b c h w"],
) -> Tensor:
    """Logits [B, K] or labels [B] of noisy copies behind a denoiser, through which gradients pass.

    Args:
        denoiser: the denoiser or None. Of a majority over several answers, which has no gradient,
            the first answer counts; of a mean, all.
        classifier: images [B, C, H, W] to logits or labels.
        sigma: standard deviation of the noise on images in [0, 1].
        noisy: the copies.

    Raises:
        ClassifierError: a mean over answers that are labels.
    """
    if isinstance(denoiser, MeanDenoiser):
        return MeanLogits(classifier, denoiser, sigma).forward(noisy)
    return classifier(noisy if denoiser is None else as_denoiser(denoiser)(noisy, sigma))
