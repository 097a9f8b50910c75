from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import SmoothedClassifier, load_classifier
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.denoisers.ensemble import EnsembleClassifier, MultiSampleDenoiser
from denoised_smoothing.smoothing.votes import shown_copies


class Scripted(nn.Module):
    """Samples that show the labels to give, one row a sample."""

    def __init__(self, labels: list[list[int]]) -> None:
        super().__init__()
        self.labels = torch.tensor(labels)

    @property
    def samples(self) -> int:
        return len(self.labels)

    def denoise_samples(self, noisy: Tensor, sigma: float) -> Iterator[Tensor]:
        for row in self.labels:
            yield row[: len(noisy)].reshape(-1, 1, 1, 1).float().expand(noisy.shape)

    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        return next(self.denoise_samples(noisy, sigma))


def shown(images: Tensor) -> Tensor:
    """The label that an image shows."""
    return images[:, 0, 0, 0].long()


def logits(images: Tensor) -> Tensor:
    answers = nn.functional.one_hot(shown(images).clamp_min(0), 10).float()
    answers[shown(images) == 9] = float("nan")
    return answers


class Shown(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return logits(images)


def test_the_majority_wins_and_a_tie_goes_to_the_lowest() -> None:
    samples = Scripted([[3, 1, 2, -1, 5], [3, 2, 1, -1, 7], [4, 2, 0, 6, 7]])
    assert isinstance(samples, MultiSampleDenoiser)
    vote = EnsembleClassifier(shown, samples, 0.5)
    assert vote(torch.zeros(5, 1, 2, 2)).tolist() == [3, 2, 0, -1, 7]


def test_an_answer_that_is_none_is_not_outvoted() -> None:
    vote = EnsembleClassifier(logits, Scripted([[1, 1], [1, 9], [1, 1]]), 0.5)
    assert vote(torch.zeros(2, 1, 2, 2)).tolist() == [1, -2]


def test_what_is_not_made_of_modules_is_called_by_one_thread() -> None:
    samples = Scripted([[2] * 2000, [4] * 2000])
    one, image = torch.ones(1, 2, 2), torch.zeros(1, 2, 2).numpy()
    smoothed = SmoothedClassifier(logits, 0.25, samples, device="cpu", engine="auto")
    choice = smoothed.prepared.engine_for(image)
    assert choice.engine.workers == 1
    assert "is no torch module" in choice.notes[0]
    assert smoothed.certify(one, n0=10, n=100, seed=0).label == 2
    whole = SmoothedClassifier(Shown(), 0.25, samples, device="cpu")
    assert whole.prepared.pipeline.is_module
    assert whole.certify(one, n0=10, n=100, seed=0).label == 2


def test_a_classifier_elsewhere_is_asked_about_one_image_a_copy() -> None:
    samples = Scripted([[2], [4]])
    with pytest.raises(
        SettingError, match="a remote classifier needs a denoiser with one sample, got 2"
    ):
        SmoothedClassifier(load_classifier("simulated"), 0.25, samples)


def test_the_smoothed_classifier_votes() -> None:
    samples = Scripted([[2] * 2000, [4] * 2000, [4] * 2000])
    smoothed = SmoothedClassifier(logits, 0.25, samples)
    certificate = smoothed.certify(torch.zeros(1, 2, 2), n0=10, n=100, seed=0)
    assert certificate.label == 4
    noisy, denoised = shown_copies(smoothed, torch.zeros(1, 2, 2).numpy(), "0", 0, 2)
    assert (denoised == 2).all()
    assert noisy.shape == denoised.shape
