"""The smoothed classifier as a differentiable module."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.certificates.bounds import check_copies
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.denoisers import logits_after_denoising
from denoised_smoothing.noise import derive_key, standard_normal
from denoised_smoothing.smoothing.classifier import SmoothedClassifier


class SoftVotes(nn.Module):
    """Images [B, C, H, W] to the log of the mean of their noisy copies' probabilities [B, K].

    G(x) of Salman, Li et al. 2019, section 2.1, estimated on a few copies: a smooth stand-in for
    the smoothed classifier, for attacks and tools that follow gradients. It proves nothing:
    certificates count labels. Its answers are log-probabilities, so they serve as logits.

    The noise is that of floating point, the same for every image of a batch, and new at each call
    unless it is told to stay.

    Args:
        smoothed: the smoothed classifier; denoiser and classifier are parts of the module.
        copies: noisy copies an image, at least 1.
        seed: of the noise; the module's own calls are counted from it.
        fresh: whether each call draws other noise.
        chunk: copies of the batch in one forward pass.

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
        """Log of the mean probability of each class.

        Raises:
            SettingError: the classifier answers with labels, which have no probabilities.
        """
        key = derive_key(self.seed, "soft votes", self.calls if self.fresh else 0)
        self.calls += 1
        shape = (self.copies, *images.shape[1:])
        noise = standard_normal(key, shape, images.device).to(images.dtype) * self.sigma
        parts = [self._sums(images, part) for part in torch.split(noise, self.chunk)]
        return torch.logsumexp(torch.stack(parts), dim=0) - torch.tensor(self.copies).log().item()

    def _sums(
        self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "b k"]:
        """Log of the sum of probabilities over some copies."""
        noisy = (images[:, None] + noise[None]).flatten(0, 1)
        logits = logits_after_denoising(self.denoiser, self.classifier, self.sigma, noisy)
        if logits.ndim != 2:
            raise SettingError(
                "the classifier answers with labels, which have no soft votes; take a classifier "
                "that answers with logits [B, K]"
            )
        logs = torch.log_softmax(logits.float(), dim=1)
        return logs.reshape(len(images), len(noise), -1).logsumexp(dim=1)
