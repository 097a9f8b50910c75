"""Small pipelines for engines to run, and images for them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

SEED = 0
SIGMA = 0.5


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips a test where a package is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


OPENVINO, ONNXRUNTIME = needs("openvino"), needs("onnxruntime", "onnxscript")
INT8 = needs("openvino", "nncf")
KINDS = [
    pytest.param(EngineName.TORCH, Precision.FLOAT32, id="torch"),
    pytest.param(EngineName.OPENVINO, Precision.FLOAT32, id="openvino", marks=OPENVINO),
    pytest.param(EngineName.OPENVINO, Precision.INT8, id="openvino-int8", marks=INT8),
    pytest.param(EngineName.ONNXRUNTIME, Precision.FLOAT32, id="onnxruntime", marks=ONNXRUNTIME),
]
"""Engines and precisions, each skipped where its packages are missing."""


def images(count: int = 2, channels: int = 3, side: int = 16) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (count, channels, side, side))
    return image_forms.to_grid((values / 255).astype(np.float32))


def noisy(count: int, channels: int = 3, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, side, side)
    clean = torch.from_numpy(np.resize(images(2, channels, side), shape))
    return clean + SIGMA * torch.randn(shape, generator=generator)


def mixed(
    classifier: nn.Module, last: nn.Linear, channels: int, denoiser: nn.Module | None = None
) -> Any:
    """The classifier with a last layer that makes the labels of noisy copies well mixed."""
    classifier.eval()
    with torch.no_grad():
        copies = noisy(64, channels)[::2]  # of the first image
        logits = classifier(copies if denoiser is None else denoiser(copies, SIGMA))
        last.bias.copy_((last.bias - logits.mean(0)) / logits.std(0))
        last.weight /= logits.std(0)[:, None]
    return classifier


def convolutional(channels: int = 3) -> nn.Sequential:
    """A convolution with batch normalisation whose statistics are not the trivial ones."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        last := nn.Linear(32, 5),
    )
    with torch.no_grad():
        network(noisy(64, channels))
    classifier: nn.Sequential = mixed(network, last, channels)
    return classifier


def residual(channels: int = 3, denoiser: nn.Module | None = None) -> ImageClassifier:
    """A CIFAR ResNet of 8 layers for 16x16 pixels, as it is loaded from a file."""
    torch.manual_seed(0)
    network = CifarResNet(8, classes=5, channels=channels)
    mean, std = (0.5,) * channels, (0.25,) * channels
    names = tuple("abcde")
    classifier = ImageClassifier(network, mean, std, label_names=names, resolution=16)
    made: ImageClassifier = mixed(classifier, network.linear, channels, denoiser)
    return made


def unet(channels: int = 3) -> UNet:
    torch.manual_seed(0)
    return UNet(channels, width=8, outer=1, inner=1).eval()


class Blind(nn.Module):
    """A denoiser that is not told sigma."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy * self.share + 0.25


class Labels(nn.Module):
    """Answers labels instead of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = convolutional()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).argmax(dim=1)


class Winding(nn.Module):
    """Takes a turn that depends on what it sees, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.network = convolutional()

    def forward(self, images: Tensor) -> Tensor:
        if float(images.mean()) > 0.4:
            return self.network(images)
        return self.network(-images)


def smoothed(
    classifier: Any = None,
    denoiser: Any = None,
    engine: EngineName | str = EngineName.TORCH,
    precision: Precision | str = Precision.FLOAT32,
    **options: Any,
) -> SmoothedClassifier:
    """A smoothed classifier of 3x16x16 images; int8 is calibrated on such."""
    if precision == Precision.INT8:
        options = {"calibration": images(4), **options}
    return SmoothedClassifier(
        residual() if classifier is None else classifier, SIGMA, denoiser,
        device="cpu", engine=engine, precision=precision, **options,
    )  # fmt: skip
