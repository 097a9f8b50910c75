"""The smoothed classifier as a differentiable module."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.certificates.bounds import check_copies
from denoised_smoothing.engines.locks import single_caller, tracing
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.denoisers.ensemble import logits_after_denoising
from denoised_smoothing.noise import derive_key, standard_normal
from denoised_smoothing.smoothing.classifier import SmoothedClassifier


class SoftVotes(nn.Module):
    """A module from images [B, C, H, W] to log mean probabilities of noisy copies [B, K].

    G(x) of Salman, Li et al. 2019, section 2.1, estimated on a few copies: a smooth approximation
    of the smoothed classifier, for attacks and tools that follow gradients. It proves nothing:
    certificates count labels. Its answers are log-probabilities, so they serve as logits.

    The noise is drawn in floating point and is the same for every image of a batch.

    Args:
        smoothed: the smoothed classifier; denoiser and classifier are parts of the module.
        copies: noisy copies of each image, at least 1.
        fresh: whether each call of the module draws new noise.
        chunk: maximum number of copies in one forward pass.

    Raises:
        SettingError: copies or chunk is below 1.
    """

    def __init__(
        self,
        smoothed: SmoothedClassifier,
        *,
        copies: int = 16,
        seed: int = 0,
        fresh: bool = True,
        chunk: int = 16,
    ) -> None:
        super().__init__()
        check_copies("copies", copies)
        check_copies("chunk", chunk)
        self.classifier, self.denoiser = smoothed.classifier, smoothed.denoiser
        self.sigma, self.copies, self.seed = smoothed.sigma, copies, seed
        self.fresh, self.chunk, self.calls = fresh, chunk, 0
        self.label_names = getattr(smoothed.classifier, "label_names", None)
        self.eval()

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the log of the mean probability of each class.

        Raises:
            SettingError: the classifier answers with labels, which have no probabilities.
        """
        key = derive_key(self.seed, "soft votes", self.calls if self.fresh else 0)
        self.calls += 1
        shape = (self.copies, *images.shape[1:])
        noise = standard_normal(key, shape, images.device).to(images.dtype) * self.sigma
        parts = [self.log_sums(images, part) for part in torch.split(noise, self.chunk)]
        return torch.logsumexp(torch.stack(parts), dim=0) - torch.tensor(self.copies).log().item()

    def log_sums(
        self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "b k"]:
        """Return the log of the sum of each class's probabilities over copies with this noise."""
        noisy = (images[:, None] + noise[None]).flatten(0, 1)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with tracing(), single_caller:  # as one that counts may share parts that keep state
            logits = logits_after_denoising(self.denoiser, self.classifier, self.sigma, noisy)
        if logits.ndim != 2:
            raise SettingError(
                "The classifier answers with labels, which have no gradient and no soft votes. "
                "Name a surrogate: a differentiable classifier with the same labels."
            )
        logs = torch.log_softmax(logits.float(), dim=1)
        return logs.reshape(len(images), len(noise), -1).logsumexp(dim=1)
