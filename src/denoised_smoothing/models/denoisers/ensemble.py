"""Denoisers with several samples of an image, and the classifier that combines its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.errors import ClassifierError, SettingError
from denoised_smoothing.models.answers import UNUSABLE, check_answer, labels_of
from denoised_smoothing.models.denoisers.base import DenoiserNetwork, as_denoiser
from denoised_smoothing.models.protocols import Classifier, Denoiser, Images, Sigma


@runtime_checkable
class MultiSampleDenoiser(Protocol):
    """A denoiser with several denoised samples of one noisy image."""

    @property
    def samples(self) -> int:
        """The number of samples."""

    def denoise_samples(self, noisy: Images, sigma: float) -> Iterator[Images]:
        """Yield the samples, one batch each."""


class EnsembleClassifier(nn.Module):
    """A classifier of noisy images that combines its answers to a denoiser's samples.

    Of a :class:`MeanDenoiser`, it returns the mean logits [B, K]. Of other denoisers, it returns
    the majority label [B] (DensePure, Xiao et al. 2023, section 3.2). Either way the ensemble is
    part of the base classifier: a noisy copy has one vote.

    Args:
        classifier: images [B, C, H, W] to logits [B, K] or labels [B].
        sigma: standard deviation of the noise on images in [0, 1].
    """

    def __init__(self, classifier: Classifier, denoiser: MultiSampleDenoiser, sigma: float) -> None:
        super().__init__()
        self.classifier, self.denoiser, self.sigma = classifier, denoiser, sigma

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Height and width of the classifier's input, if it states them."""
        return getattr(self.classifier, "network_size", None)

    def forward(self, noisy: Images) -> Tensor:
        """Return mean logits [B, K] or majority labels [B].

        Raises:
            ClassifierError: as :func:`mean_logits` and :func:`check_answer`.
        """
        samples = self.denoiser.denoise_samples(noisy, self.sigma)
        combine = mean_logits if isinstance(self.denoiser, MeanDenoiser) else majority_label
        return combine([check_answer(self.classifier(sample), sample) for sample in samples])


def mean_logits(answers: Sequence[Tensor]) -> Float[Tensor, "b k"]:
    """Return the mean of logits.

    Raises:
        ClassifierError: the answers are labels.
    """
    if answers[0].ndim == 1:
        raise ClassifierError(
            "mean: needs logits, got labels. Use one of its denoisers alone, or a classifier that "
            "returns logits."
        )
    return torch.stack(list(answers)).float().mean(dim=0)


def majority_label(answers: Sequence[Tensor]) -> Tensor:
    """Return the most frequent label of each image; of equally frequent ones, the lowest.

    The label is -2, which is refused, if an answer has NaN logits.
    """
    labels = torch.stack([labels_of(answer) for answer in answers])
    votes = (labels[:, None] == labels[None]).sum(dim=0)
    most = votes == votes.max(dim=0).values
    winner = labels.masked_fill(~most, torch.iinfo(labels.dtype).max).min(dim=0).values
    return torch.where((labels == UNUSABLE).any(dim=0), UNUSABLE, winner)


class MeanDenoiser(DenoiserNetwork):
    """An ensemble of denoisers, over which the classifier's logits are averaged.

    The average varies less with the noise than each member, which raises the majority class's
    probability (Horváth et al. 2022, section 4, for networks trained separately). Mirror images
    are the oldest way to get two members from one network (Krizhevsky et al. 2012, section 4.1).

    It has no weights file. A run or bundle that names it builds it from its members again.

    Args:
        denoisers: one or more, with one sample each.
        mirror: each also denoises the mirrored copy, which the classifier sees mirrored.

    Raises:
        SettingError: there is only one member, a member has several samples of its own, or the
            members are for images of different channels.
    """

    def __init__(self, denoisers: Sequence[DenoiserNetwork], *, mirror: bool = False) -> None:
        if len(denoisers) * (1 + mirror) < 2:
            raise SettingError(
                f"a mean needs at least 2 members, got {len(denoisers)}. Add a denoiser, or the "
                "mirror image with ?mirror=yes."
            )
        channels = {denoiser.config["image_channels"] for denoiser in denoisers}
        if len(channels) > 1:
            raise SettingError(
                "the members of a mean must have equal channels, got "
                f"{' and '.join(map(str, sorted(channels)))}. Use denoisers for the same images."
            )
        if any(isinstance(denoiser, MultiSampleDenoiser) for denoiser in denoisers):
            raise SettingError(
                "the members of a mean must have one sample, got a diffusion model or a mean. "
                "Use unet, multiscale-unet, dncnn or memnet."
            )
        super().__init__(image_channels=channels.pop())
        self.denoisers, self.mirror = nn.ModuleList(denoisers), mirror

    @property
    def samples(self) -> int:
        """The number of ensemble members."""
        return len(self.denoisers) * (1 + self.mirror)

    model_calls = samples
    """Forward passes of denoisers for one noisy copy."""

    def denoise_samples(self, noisy: Images, sigma: Sigma) -> Iterator[Images]:
        """Yield the answer of each member."""
        for denoiser in self.denoisers:
            yield denoiser(noisy, sigma)
            if self.mirror:
                yield denoiser(noisy.flip(3), sigma)

    def forward(self, noisy: Images, sigma: Sigma) -> Images:
        """Return the answer of the first member, to show one denoised image."""
        return next(self.denoise_samples(noisy, sigma))


def logits_after_denoising(
    denoiser: Denoiser | None,
    classifier: Classifier,
    sigma: float,
    noisy: Images,
) -> Tensor:
    """Return logits [B, K] or labels [B] of noisy copies after denoising, with gradients.

    Args:
        denoiser: the denoiser or None. A majority has no gradient, so its first sample counts;
            of a mean, all members count.
        classifier: images [B, C, H, W] to logits or labels.
        sigma: standard deviation of the noise on images in [0, 1].

    Raises:
        ClassifierError: as :func:`mean_logits` and :func:`check_answer`.
    """
    if isinstance(denoiser, MeanDenoiser):
        return EnsembleClassifier(classifier, denoiser, sigma).forward(noisy)
    images = noisy if denoiser is None else as_denoiser(denoiser)(noisy, sigma)
    return check_answer(classifier(images), images)
