"""Classifiers: images in [0, 1] to logits."""

from __future__ import annotations

from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import (
    CIFAR_RESNET,
    CifarResNet,
    folded,
    load_cifar_resnet,
    save_cifar_resnet,
)

__all__ = [
    "CIFAR_RESNET",
    "CifarResNet",
    "ImageClassifier",
    "folded",
    "load_cifar_resnet",
    "save_cifar_resnet",
]
