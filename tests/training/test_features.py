"""training/features.py: the layers whose outputs are the target of a training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet
from denoised_smoothing.training.features import Features, last_layers


def chosen(network: nn.Module, side: int = 64) -> list[str]:
    return last_layers(network.eval(), lambda: network(torch.zeros(1, 3, side, side)))


def torchvision_resnet() -> nn.Module:
    network: nn.Module = pytest.importorskip("torchvision").models.resnet18()
    return network


def efficientnet() -> nn.Module:
    network: nn.Module = pytest.importorskip("timm").create_model("tf_efficientnet_lite0")
    return network


def vgg() -> nn.Module:
    network: nn.Module = pytest.importorskip("torchvision").models.vgg11()
    return network


class Stages(nn.Module):
    """Stages in a list, whose block returns a sum that none of its modules computed."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 3, 3, 2, 1), Block(), nn.Conv2d(3, 3, 3, 2, 1)])
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.stages:
            images = stage(images)
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


class Block(nn.Module):
    """16 pixels a side on the way to 8."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 3, 3, 2, 1)
        self.down_again = nn.Conv2d(3, 3, 3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        a = self.down_again(self.down(images))
        return a + a


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (torchvision_resnet, ["layer2", "layer3", "layer4"]),
        (
            lambda: nn.Sequential(nn.Identity(), torchvision_resnet()),
            ["1.layer2", "1.layer3", "1.layer4"],
        ),
        (efficientnet, ["blocks.2", "blocks.4", "bn2"]),
        (vgg, ["features.14", "features.19", "avgpool"]),
        (Stages, ["stages.1.down", "stages.1", "stages.2"]),
    ],
    ids=["ResNet", "in a sequence", "EfficientNet", "VGG", "list of stages"],
)
def test_the_last_layer_of_each_size_is_chosen(
    made: Callable[[], nn.Module], expected: list[str]
) -> None:
    assert chosen(made(), 224 if made is vgg else 64) == expected


def test_layers_of_small_images_and_of_an_image_classifier() -> None:
    network = CifarResNet(20, 10)
    features = Features(ImageClassifier(network.eval(), [0.5] * 3, [0.5] * 3))
    maps = features(torch.rand(2, 3, 32, 32))
    assert [tuple(part.shape) for part in maps] == [
        (2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8),
    ]  # fmt: skip
    assert not features.outputs
    assert len(features(torch.rand(1, 3, 32, 32))) == len(features.names) == 3


def test_layers_must_be_named_where_no_size_changes() -> None:
    flat = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(SettingError, match=r"no feature maps of several sizes .*--layers"):
        chosen(flat)
