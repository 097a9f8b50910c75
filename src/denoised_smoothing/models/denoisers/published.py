"""The denoisers published with the code of Salman et al. 2020."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from denoised_smoothing.errors import SpecError, WeightsError, raised_as
from denoised_smoothing.models.checkpoints import (
    named_architecture,
    open_checkpoint,
    plain_name,
)
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.memnet import MemNet
from denoised_smoothing.models.specs import Spec
from denoised_smoothing.models.weights import fill

_EPSILON = 1e-4
"""The epsilon of batch normalisation in the published DnCNN."""
KNOWN = "cifar_dncnn, cifar_dncnn_wide, memnet, imagenet_dncnn, imagenet_memnet"
_UNIT = re.compile(r"dense_memory\.(\d+)\.recursive_unit\.(\d+)\.relu_conv([12])\.(bn|conv)\.(\w+)")


def load_published_denoiser(path: str, arch: str | None = None) -> DenoiserNetwork:
    """Load a denoiser from a ``checkpoint.pth.tar``, in evaluation mode.

    Args:
        arch: its architecture, or None for the one that the file names.

    Raises:
        SpecError: the architecture is unknown.
        WeightsError: the file is missing, or has another layout or architecture.
    """
    checkpoint = open_checkpoint(path)
    arch = named_architecture(checkpoint, arch, KNOWN)
    if arch not in KNOWN.split(", "):
        raise SpecError(
            f"the architecture of a denoiser must be one of {KNOWN}, got {arch!r} in {path}. "
            "Load a classifier with the option for classifiers."
        )
    tensors = {plain_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    remedy = f"Name the architecture that was trained, one of {KNOWN}."
    with raised_as(WeightsError, f"{path} has no weights of {arch}: a name is missing", remedy):
        network, named = _memnet(tensors) if "memnet" in arch else _dncnn(tensors)
    fill(network, named, f"{path} (as {arch})")
    return network.eval()


def _dncnn(tensors: Mapping[str, Tensor]) -> tuple[DenoiserNetwork, dict[str, Tensor]]:
    first = tensors["dncnn.0.weight"]
    kernels = sum(tensor.ndim == 4 for tensor in tensors.values())
    network = DnCNN(image_channels=first.shape[1], depth=kernels, width=first.shape[0])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = _EPSILON
    return network, {name.replace("dncnn.", "noise."): t for name, t in tensors.items()}


def _memnet(tensors: Mapping[str, Tensor]) -> tuple[DenoiserNetwork, dict[str, Tensor]]:
    width, channels = tensors["feature_extractor.conv.weight"].shape[:2]
    units = [unit for name in tensors if (unit := _UNIT.fullmatch(name))]
    blocks, recursions = (1 + max(int(unit[group]) for unit in units) for group in (1, 2))
    network = MemNet(channels, blocks, recursions, width, shared=False)
    return network, {_memnet_name(name): tensor for name, tensor in tensors.items()}


def _memnet_name(name: str) -> str:
    """Return the name that a published weight has in :class:`MemNet`."""
    if unit := _UNIT.fullmatch(name):
        half = int(unit[3]) - 1
        norm, convolution = f"norms.{unit[2]}.{half}", f"convolutions.{2 * int(unit[2]) + half}"
        return f"blocks.{unit[1]}.{norm if unit[4] == 'bn' else convolution}.{unit[5]}"
    for old, new in (
        ("feature_extractor", "extract"),
        ("reconstructor", "reconstruct"),
        ("dense_memory", "blocks"),
        ("gate_unit", "gate"),
        (".bn.", ".0."),
        (".conv.", ".2."),
    ):
        name = name.replace(old, new)
    return name


def load_spec(spec: Spec) -> DenoiserNetwork:
    """Return the model of a spec."""
    return load_published_denoiser(spec.rest, spec.options.get("arch"))
