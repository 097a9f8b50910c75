"""Checkpoints of classifiers: of training scripts, and those published with the papers.

The papers are Cohen et al. 2019 and Salman et al. 2020.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from torch import nn

from denoised_smoothing.errors import MissingExtraError, SpecError, WeightsError
from denoised_smoothing.models.checkpoints import Checkpoint, named_architecture, open_checkpoint
from denoised_smoothing.models.classifiers import timm, torchvision
from denoised_smoothing.models.classifiers.base import ImageClassifier, for_channels
from denoised_smoothing.models.classifiers.cifar_resnet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ProjectedResNet,
)
from denoised_smoothing.models.classifiers.fine_tuned import class_names, fitted
from denoised_smoothing.models.specs import Spec

_Load: TypeAlias = Callable[[str, Checkpoint, Sequence[str] | None], ImageClassifier]
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
_SMALL = re.compile(r"(?P<data>cifar|imagenet32)_resnet(?P<depth>\d+)")
KNOWN = (
    "cifar_resnet20, cifar_resnet110, imagenet32_resnet110, or a model of torchvision or timm, "
    "such as resnet18"
)


def load_published_classifier(
    path: str, arch: str | None = None, label_names: Sequence[str] | None = None
) -> ImageClassifier:
    """Load a classifier from a checkpoint, with the normalisation before it.

    Args:
        path: a file that :func:`.open_checkpoint` opens.
        arch: its architecture, or None for the one that the file names.
        label_names: a name for each class, instead of those of the file.

    Raises:
        SpecError: the architecture is unknown, or the label names are not as many as the classes.
        WeightsError: the file is missing, or has another layout or architecture.
        MissingExtraError: torchvision or timm is not installed, and the other has no such model.
    """
    checkpoint = open_checkpoint(path)
    arch = named_architecture(checkpoint, arch, KNOWN)
    if small := _SMALL.fullmatch(arch):
        return _small_resnet(small, checkpoint, label_names)
    refused: list[WeightsError] = []
    missing: list[MissingExtraError] = []
    for knows, load in _libraries(checkpoint):
        try:
            if knows(arch):
                return load(arch, checkpoint, label_names)
        except WeightsError as error:  # both libraries have an efficientnet_b0, by other names
            refused.append(error)
        except MissingExtraError as error:  # the other library may know it
            missing.append(error)
    if refused:
        raise refused[0]
    if missing:
        purpose = f"The architecture {arch!r} of {path} (known: {KNOWN})"
        raise MissingExtraError(missing[0].package, missing[0].extra, purpose)
    raise SpecError(
        f"the architecture of a classifier must be one of {KNOWN}, got {arch!r} in {path}. "
        "Load a denoiser with the option for denoisers, others with python:MODULE:FACTORY."
    )


def _libraries(checkpoint: Checkpoint) -> list[tuple[Callable[[str], bool], _Load]]:
    """Return the libraries that may know the architecture, the one that wrote the file first."""
    both: list[tuple[Callable[[str], bool], _Load]] = [
        (torchvision.knows, torchvision.torchvision_from),
        (timm.knows, timm.timm_from),
    ]
    return both[::-1] if checkpoint.of_timm else both


def _small_resnet(
    arch: re.Match[str], checkpoint: Checkpoint, label_names: Sequence[str] | None
) -> ImageClassifier:
    def build(classes: int, channels: int) -> nn.Module:
        return ProjectedResNet(int(arch["depth"]), classes, channels)

    cifar = arch["data"] == "cifar"
    tensors = {name.replace("fc.", "linear."): t for name, t in checkpoint.tensors.items()}
    renamed = replace(checkpoint, tensors=tensors)
    ready = fitted(build, 10 if cifar else 1000, renamed, arch[0])
    usual = (CIFAR_MEAN, CIFAR_STD) if cifar else (IMAGENET_MEAN, IMAGENET_STD)
    known = [checkpoint.label_names, CIFAR_NAMES if cifar else None]
    names = class_names(label_names, known, ready.classes, arch[0])
    mean, std = (for_channels(values, ready.channels) for values in usual)
    return ImageClassifier(ready.network, mean, std, names, resolution=32).eval()


def load_spec(spec: Spec) -> ImageClassifier:
    """Return the model of a spec."""
    return load_published_classifier(spec.rest, spec.options.get("arch"), spec.names("labels"))
