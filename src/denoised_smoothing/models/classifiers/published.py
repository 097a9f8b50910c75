"""The classifiers published with the code of Cohen et al. 2019 and Salman et al. 2020."""

from __future__ import annotations

import re

from torch import Tensor

from denoised_smoothing.errors import SpecError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ProjectedResNet,
)
from denoised_smoothing.models.specs import Spec
from denoised_smoothing.models.weights import fill, load_checkpoint

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
_SMALL = re.compile(r"(?P<data>cifar|imagenet32)_resnet(?P<depth>\d+)")
_LARGE = ("resnet18", "resnet34", "resnet50")
KNOWN = "cifar_resnet20, cifar_resnet110, imagenet32_resnet110, resnet18, resnet34, resnet50"


def load_published_classifier(path: str, arch: str | None = None) -> ImageClassifier:
    """Load a classifier from a ``checkpoint.pth.tar``, with the normalisation before it.

    Args:
        arch: its architecture, or None for the one that the file names.

    Raises:
        SpecError: the architecture is unknown.
        WeightsError: the file is missing, or has another layout or architecture.
        ImportError: torchvision is needed and not installed.
    """
    tensors, arch = load_checkpoint(path, arch, KNOWN)
    small = _SMALL.fullmatch(arch)
    if small is None and arch not in _LARGE:
        raise SpecError(
            f"the architecture of a classifier must be one of {KNOWN}, got {arch!r} in {path}. "
            "Load a denoiser with the option for denoisers, others with python:MODULE:FACTORY."
        )
    if small is None:
        return _imagenet(arch, path, tensors)
    cifar = small["data"] == "cifar"
    network = ProjectedResNet(int(small["depth"]), 10 if cifar else 1000)
    renamed = {name.replace("fc.", "linear."): tensor for name, tensor in tensors.items()}
    fill(network, renamed, f"{path} (as {arch})")
    mean, std = (CIFAR_MEAN, CIFAR_STD) if cifar else (IMAGENET_MEAN, IMAGENET_STD)
    names = CIFAR_NAMES if cifar else None
    return ImageClassifier(network, mean, std, names, resolution=32).eval()


def _imagenet(arch: str, path: str, tensors: dict[str, Tensor]) -> ImageClassifier:
    from torchvision import models

    network = models.get_model(arch, weights=None)
    fill(network, tensors, f"{path} (as {arch})")
    names = models.get_model_weights(arch).DEFAULT.meta["categories"]
    return ImageClassifier(network, IMAGENET_MEAN, IMAGENET_STD, names, resolution=224).eval()


def load_spec(spec: Spec) -> ImageClassifier:
    """Return the model of a spec."""
    return load_published_classifier(spec.rest, spec.options.get("arch"))
