"""CIFAR ResNets of depth 6n + 2."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from denoised_smoothing.errors import SettingError, WeightsError, raised_as
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.specs import Spec
from denoised_smoothing.models.weights import fill, load_weights, save_weights

CIFAR_RESNET = re.compile(r"cifar-resnet(?P<depth>\d{1,9})")
"""The name of an architecture of this family."""
LARGEST_SIDE = 8192
"""Largest resolution that a file may state, in pixels."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CifarResNet(nn.Module):
    """Residual network for small images (He et al. 2016, section 4.2, option A shortcuts).

    Args:
        depth: 6n + 2 layers: 8, 14, 20, 32, 44, 56, 110, ...
        classes: number of labels K.
        channels: channels C of the images.

    Raises:
        SettingError: the depth is not 6n + 2, or below 8.
    """

    def __init__(self, depth: int, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise SettingError(
                f"the depth of a CIFAR ResNet must be 6n + 2, got {depth}. Use 8, 14, 20, 32, 44, "
                "56 or 110, for example."
            )
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = depth // 6
        self.layer1 = _layer(16, 16, blocks)
        self.layer2 = _layer(16, 32, blocks)
        self.layer3 = _layer(32, 64, blocks)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the logits of normalised images of at least 4x4 pixels."""
        features = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def _layer(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        *(_Block(inputs if index == 0 else outputs, outputs) for index in range(blocks))
    )


class _Block(nn.Module):
    """Two convolutions and a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.padding = (outputs - inputs) // 2

    def forward(self, features: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(features)))))
        return functional.relu(inner + self.shortcut(features))

    def shortcut(self, features: Tensor) -> Tensor:
        if self.stride == 1:
            return features
        return functional.pad(features[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class _ProjectedBlock(_Block):
    """A block of half the resolution whose shortcut is a convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.downsample = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=self.stride, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def shortcut(self, features: Tensor) -> Tensor:
        projected: Tensor = self.downsample(features)
        return projected


class ProjectedResNet(CifarResNet):
    """A CIFAR ResNet with projections where the resolution changes (He et al. 2016, option B).

    The published checkpoints of Cohen et al. 2019 and Salman et al. 2020 are such networks.
    """

    def __init__(self, depth: int, classes: int = 10, channels: int = 3) -> None:
        super().__init__(depth, classes, channels)
        self.layer2[0] = _ProjectedBlock(16, 32)
        self.layer3[0] = _ProjectedBlock(32, 64)


def folded(classifier: nn.Module) -> nn.Module:
    """Return a copy for evaluation whose convolutions contain the batch normalisations.

    Its logits are equal up to rounding, and training through it is a fifth faster. Other networks
    than CIFAR ResNets are returned unchanged.
    """
    if not isinstance(getattr(classifier, "network", None), CifarResNet):
        return classifier
    classifier = copy.deepcopy(classifier).eval()
    for module in list(classifier.modules()):
        for number in ("1", "2"):
            norm = getattr(module, f"bn{number}", None)
            if isinstance(norm, nn.BatchNorm2d):
                convolution = getattr(module, f"conv{number}")
                setattr(module, f"conv{number}", fuse_conv_bn_eval(convolution, norm))
                setattr(module, f"bn{number}", nn.Identity())
    return classifier


def load_cifar_resnet(path: str | Path, depth: int | None = None) -> ImageClassifier:
    """Load a CIFAR ResNet from safetensors, with its normalisation and label names.

    Without ``depth`` the file must name its architecture, as :func:`save_cifar_resnet` does.
    Channels and classes come from the weights. Mean, std, resolution and label names come from
    the metadata. Without metadata they are those of the published CIFAR-10 checkpoints of this
    family: mean and std of ImageNet, 32x32 pixels.

    Raises:
        SettingError: the depth is not 6n + 2.
        WeightsError: the file is missing, not safetensors, or has another architecture.
    """
    tensors, metadata = load_weights(path)
    try:
        channels, classes = tensors["conv1.weight"].shape[1], tensors["linear.weight"].shape[0]
    except (KeyError, IndexError):
        raise WeightsError(
            f"a CIFAR ResNet must have conv1.weight and linear.weight, got "
            f"{', '.join(list(tensors)[:3]) or 'nothing'} in {path}. Name another file."
        ) from None
    stated = CIFAR_RESNET.fullmatch(metadata.get("architecture", ""))
    if depth is None:
        if stated is None:
            raise WeightsError(
                f"{path} does not name its architecture. Use cifar-resnetDEPTH:{path}."
            )
        depth = int(stated["depth"])
    possible = depth % 6 == 2
    if possible and depth > len(tensors):  # each layer has weights; more would exhaust memory
        raise WeightsError(
            f"the depth of a CIFAR ResNet must be at most {len(tensors)}, the tensors in {path}, "
            f"got {depth}. Name the depth that was trained."
        )
    with raised_as(WeightsError, f"cannot build the network of {path}", "Name another file."):
        network = CifarResNet(depth, classes=classes, channels=channels)
    fill(network, tensors, f"{path} (as cifar-resnet{depth})")
    usual = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
    remedy = "Save it again with the command that wrote it."
    with raised_as(WeightsError, f"cannot read the metadata of {path}", remedy):
        return ImageClassifier(
            network,
            mean=json.loads(metadata.get("mean", json.dumps(usual[0]))),
            std=json.loads(metadata.get("std", json.dumps(usual[1]))),
            label_names=_names(json.loads(metadata.get("label_names", "null"))),
            resolution=_side(int(metadata.get("resolution", 32))),
        ).eval()


def _names(held: object) -> Sequence[str] | None:
    if held is None:
        return None
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise TypeError("label_names must be a list of texts or null")
    return held


def _side(pixels: int) -> int:
    if not 1 <= pixels <= LARGEST_SIDE:
        raise ValueError(f"resolution must be from 1 to {LARGEST_SIDE}, got {pixels}")
    return pixels


def save_cifar_resnet(
    path: str | Path, classifier: ImageClassifier, card: Mapping[str, str]
) -> None:
    """Write a network with its normalisation, resolution, label names and ``card``."""
    blocks = len(classifier.network.layer1)  # type: ignore[arg-type]
    metadata = {
        **card,
        "architecture": f"cifar-resnet{6 * blocks + 2}",
        "mean": json.dumps(classifier.mean.flatten().tolist()),
        "std": json.dumps(classifier.std.flatten().tolist()),
        "resolution": str(classifier.resolution or 32),
        "label_names": json.dumps(classifier.label_names),
    }
    save_weights(path, classifier.network, metadata)


def load_spec(spec: Spec) -> ImageClassifier:
    """Return the model of a spec."""
    named = CIFAR_RESNET.fullmatch(spec.scheme)
    return load_cifar_resnet(spec.rest, None if named is None else int(named["depth"]))
