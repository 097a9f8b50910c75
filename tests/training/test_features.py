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
    image = torch.zeros(1, 3, side, side)
    return last_layers(dict(network.eval().named_modules()), lambda: network(image), image)


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
    assert not any(module._forward_hooks for module in network.modules())
    assert len(features(torch.rand(1, 3, 32, 32))) == len(features.names) == 3


class Tokens(nn.Module):
    """Like a vision transformer: the norm of heads [B, heads, tokens, width] is no map."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(4)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        heads = self.norm(tokens.reshape(len(tokens), -1, 2, 4).transpose(1, 2))
        logits: Tensor = self.head(heads.transpose(1, 2).flatten(2).mean(1))
        return logits


class Rows(nn.Module):
    """Feature maps [B, H, W, C], as of a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.first(images.permute(0, 2, 3, 1))
        logits: Tensor = self.second(rows[:, ::2, ::2]).mean((1, 2))
        return logits


def flat() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(), nn.LazyLinear(10))


@pytest.mark.parametrize("made", [flat, Tokens, Rows])
def test_layers_must_be_named_where_no_maps_of_several_sizes_are_found(
    made: Callable[[], nn.Module],
) -> None:
    with pytest.raises(SettingError, match=r"no feature maps of several sizes .*--layers"):
        chosen(made())


@pytest.mark.parametrize("name", ["stages", "head.1"])
def test_a_layer_that_computes_no_tensor_is_named(name: str) -> None:
    network = Stages()
    head = nn.Sequential(nn.Linear(3, 10), Pair(), First())
    network.head = head  # type: ignore[assignment]
    with pytest.raises(SettingError, match=f"layer '{name}' computed no tensor .*: stages, "):
        Features(network, [name])(torch.zeros(1, 3, 64, 64))


class Pair(nn.Module):
    def forward(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        return answer, answer


class First(nn.Module):
    def forward(self, answers: tuple[Tensor, Tensor]) -> Tensor:
        return answers[0]


def test_a_name_given_twice_counts_once() -> None:
    assert Features(Stages(), ["stages.1", "stages.1"]).names == ["stages.1"]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_layers_of_torchscript_cannot_be_read() -> None:
    image = torch.zeros(1, 3, 64, 64)
    for compiled in (torch.jit.trace(Stages().eval(), image), torch.jit.script(Stages())):
        for names in ([], ["stages.1"]):
            with pytest.raises(SettingError, match=r"cannot be read|no feature maps|no tensor"):
                Features(compiled, names)(image)
