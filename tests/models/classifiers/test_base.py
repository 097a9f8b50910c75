from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.protocols import Classifier

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Flat(nn.Module):
    """Hands on what it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_normalises_each_channel() -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    seen = ImageClassifier(Flat(), MEAN, STD)(images).reshape(images.shape)
    for channel in range(3):
        expected = (images[:, channel] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(seen[:, channel], expected)


def test_without_normalisation_images_pass_as_they_are() -> None:
    images = torch.rand(2, 3, 4, 4)
    classifier = ImageClassifier(Flat())
    assert isinstance(classifier, Classifier)
    assert torch.equal(classifier(images), images.flatten(1))


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (8, 4)])
def test_enlarges_before_it_normalises(size: tuple[int, int]) -> None:
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    seen = ImageClassifier(Flat(), (0.5,), (0.25,), input_size=8)(images)
    larger = functional.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen, ((larger - 0.5) / 0.25).flatten(1))


def test_an_image_of_the_right_size_is_not_touched() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(ImageClassifier(Flat(), input_size=8)(images), images.flatten(1))


def test_carries_what_a_data_set_needs_to_know() -> None:
    classifier = ImageClassifier(Flat(), [0.5], [0.5], label_names=["zero", "one"], resolution=8)
    assert classifier.channels == 1
    assert classifier.resolution == 8
    assert classifier.label_names == ("zero", "one")
    assert ImageClassifier(Flat()).channels == 3
    assert ImageClassifier(Flat()).label_names is None


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((0.5,), (float("nan"),))],
)
def test_an_impossible_normalisation_is_refused(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(SettingError, match=r"std must be above 0, got mean=.*std="):
        ImageClassifier(Flat(), mean, std)
