from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import SmoothedClassifier, load_classifier, load_denoiser
from denoised_smoothing.denoisers import DnCNN, MeanAnswer, MeanDenoiser, UNet
from denoised_smoothing.denoisers.base import DenoiserNetwork
from denoised_smoothing.errors import ClassifierError, SettingError, SpecError


class Adding(DenoiserNetwork):
    """Adds a number to every pixel."""

    def __init__(self, number: float) -> None:
        super().__init__(image_channels=1)
        self.number = number

    def forward(self, noisy: Tensor, sigma: float | Tensor) -> Tensor:
        return noisy + self.number


class Corners(nn.Module):
    """Logits: the upper left pixel, and the upper right one."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, [0, -1]]


def test_scores_are_averaged_over_denoisers_and_mirror_images() -> None:
    image = torch.tensor([[[[1.0, 5.0]]]])
    plain = MeanAnswer(Corners(), MeanDenoiser([Adding(0), Adding(2)]), 0.5)
    assert plain(image).tolist() == [[2, 6]]
    mirrored = MeanDenoiser([Adding(0), Adding(2)], mirror=True)
    assert mirrored.votes == 4
    assert MeanAnswer(Corners(), mirrored, 0.5)(image).tolist() == [[4, 4]]
    torch.testing.assert_close(mirrored(image, 0.5), image)


def test_labels_have_no_mean() -> None:
    mean = MeanAnswer(lambda images: torch.zeros(len(images)), MeanDenoiser([Adding(0)] * 2), 0.5)
    with pytest.raises(ClassifierError, match="answers with labels, which have no mean"):
        mean(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("denoisers", "said"),
    [
        ([UNet()], "a mean needs a second view: name another denoiser, or mirror"),
        ([UNet(), UNet(image_channels=1)], "for images of 1 and 3 channels have no mean"),
    ],
)
def test_what_has_no_mean_is_refused(denoisers: list[DenoiserNetwork], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        MeanDenoiser(denoisers)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mean:digits-mse+none", "'none' is no denoiser of this package"),
        ("mean:digits-mse?mirror=1", "mirror is yes or no, got '1'"),
        ("mean:digits-mse+digits-msee", "digits-msee"),
    ],
)
def test_specs_that_say_no_mean(spec: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_denoiser(spec)


def test_the_smoothed_classifier_takes_the_mean_in_every_engine() -> None:
    """One vote a copy, and the same ones whatever executes it."""
    denoiser = load_denoiser("mean:digits-mse+digits-stability?mirror=yes")
    image = torch.randint(256, (1, 16, 16)) / 255
    counts = []
    for engine in ("torch", "openvino", "onnxruntime"):
        if engine != "torch":
            pytest.importorskip(engine)
        smoothed = SmoothedClassifier(
            load_classifier("digits"), 0.5, denoiser, device="cpu", engine=engine
        )
        stages = smoothed.certify(image, n0=10, n=200, seed=0).stages
        assert [stage.n for stage in stages] == [10, 200]
        counts.append([list(stage.counts) for stage in stages])
    assert counts[0] == counts[1] == counts[2]


def test_a_remote_classifier_is_asked_about_one_image_a_copy() -> None:
    denoiser = MeanDenoiser([DnCNN(), UNet()])
    with pytest.raises(SettingError, match="has 2 answers to a noisy copy, and a remote class"):
        SmoothedClassifier(load_classifier("simulated"), 0.25, denoiser)
