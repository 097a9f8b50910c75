"""Notes before a run: answers that are nearly the same for all clean images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.runs.notes import FEWEST, notes_on_answers
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

IMAGES = [
    (np.random.default_rng(seed).integers(0, 256, (3, 8, 8)) / 255).astype(np.float32)
    for seed in range(FEWEST)
]
LABELS = list(range(FEWEST))


class Classes(nn.Module):
    """Logits of a random linear classifier for values in 0 to ``scale``."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(5, 192, generator=generator))
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) / self.scale @ self.weights.T


def notes(
    classifier: nn.Module, labels: list[int] = LABELS, count: int = FEWEST
) -> tuple[str, ...]:
    smoothed = SmoothedClassifier(classifier, 0.25, device="cpu")
    return notes_on_answers(smoothed, IMAGES[:count], labels[:count])


def test_a_classifier_of_another_scale_is_noted() -> None:
    [note] = notes(Classes(255))
    assert f"nearly the same answer to {FEWEST} clean images" in note
    assert notes(Classes(1)) == ()


def test_probabilities_are_no_logits() -> None:
    """A classifier that ends in softmax, as those of Keras do, with many classes."""

    class Probabilities(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            numbers = (images.flatten(1).sum(1) * 1000).long() % 1000
            return nn.functional.one_hot(numbers, 1000).float()

    assert notes(Probabilities()) == ()


class Sure(Classes):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 255 + torch.tensor([9.0, 0, 0, 0, 0])


@pytest.mark.parametrize(("labels", "expected"), [(LABELS, 1), ([3] * FEWEST, 0)])
def test_one_confident_answer_is_right_if_the_images_have_one_label(
    labels: list[int], expected: int
) -> None:
    assert len(notes(Sure(1), labels)) == expected


def test_labels_and_few_images_say_nothing() -> None:
    class Labels(Classes):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).argmax(1)

    assert notes(Labels(255)) == ()
    assert notes(Classes(255), count=FEWEST - 1) == ()
