"""The denoisers published with the code of Salman et al. 2020."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.errors import SpecError, WeightsError
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.specs import Source, Spec
from denoised_smoothing.models.weights import fill, load_checkpoint

_EPSILON = 1e-4
"""Of the batch normalisation in the published DnCNN."""
KNOWN = "cifar_dncnn, cifar_dncnn_wide, memnet, imagenet_dncnn, imagenet_memnet"


class PublishedMemNet(DenoiserNetwork):
    """MemNet as it was published with Salman et al. 2020: recursions with weights of their own.

    Args:
        image_channels: channels C of the images.
        blocks: memory blocks.
        recursions: residual units in each.
        width: channels of the features.
    """

    def __init__(
        self, image_channels: int = 3, blocks: int = 3, recursions: int = 6, width: int = 64
    ) -> None:
        super().__init__(
            image_channels=image_channels, blocks=blocks, recursions=recursions, width=width
        )
        self.feature_extractor = _Unit(image_channels, width)
        self.reconstructor = _Unit(width, image_channels)
        self.dense_memory = nn.ModuleList(
            _Block(width, recursions, memories=index + 1) for index in range(blocks)
        )

    def forward(
        self, noisy: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Add the predicted residual; sigma is not used."""
        memories = [self.feature_extractor(noisy)]
        for block in self.dense_memory:
            memories.append(block(memories))
        residual: Tensor = self.reconstructor(memories[-1])
        return noisy + residual


class _Unit(nn.Module):
    """Normalise, rectify, convolve."""

    def __init__(self, inputs: int, outputs: int, size: int = 3) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        convolved: Tensor = self.conv(torch.relu(self.bn(features)))
        return convolved


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.relu_conv1, self.relu_conv2 = _Unit(width, width), _Unit(width, width)

    def forward(self, features: Tensor) -> Tensor:
        inner: Tensor = self.relu_conv2(self.relu_conv1(features))
        return features + inner


class _Block(nn.Module):
    """Residual units (short-term memory) and a gate over them and all earlier blocks."""

    def __init__(self, width: int, recursions: int, memories: int) -> None:
        super().__init__()
        self.recursive_unit = nn.ModuleList(_Residual(width) for _ in range(recursions))
        self.gate_unit = _Unit((recursions + memories) * width, width, size=1)

    def forward(self, memories: list[Tensor]) -> Tensor:
        features, short_term = memories[-1], []
        for unit in self.recursive_unit:
            features = unit(features)
            short_term.append(features)
        gated: Tensor = self.gate_unit(torch.cat([*short_term, *memories], dim=1))
        return gated


def load_published_denoiser(path: str, arch: str | None = None) -> DenoiserNetwork:
    """A denoiser from a ``checkpoint.pth.tar``, in evaluation mode.

    Args:
        path: the file.
        arch: its architecture; None for what the file says.

    Raises:
        SpecError: the architecture is not known here.
        WeightsError: the file is missing, of another layout, or of another architecture.
    """
    tensors, stated = load_checkpoint(path)
    arch = arch or stated
    if arch is None:
        raise WeightsError(
            f"{path} names no architecture; write checkpoint:{path}?arch=NAME with one of {KNOWN}"
        )
    if arch not in KNOWN.split(", "):
        raise SpecError(
            f"{path} holds the architecture {arch!r}; known denoisers are {KNOWN} (classifiers go "
            "to the option for classifiers)"
        )
    try:
        network, named = _memnet(tensors) if "memnet" in arch else _dncnn(tensors)
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} holds no {arch} (it lacks {error}); name the architecture that it was "
            f"trained as, one of {KNOWN}"
        ) from error
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
    units = {tuple(name.split(".")[1:4:2]) for name in tensors if ".recursive_unit." in name}
    blocks = 1 + max(int(block) for block, _ in units)
    recursions = 1 + max(int(unit) for _, unit in units)
    network = PublishedMemNet(channels, blocks, recursions, width)
    return network, dict(tensors)


def _load(spec: Spec) -> DenoiserNetwork:
    return load_published_denoiser(spec.rest, spec.options.get("arch"))


SOURCE = Source(
    _load,
    "checkpoint:FILE[?arch=NAME]",
    "published with Salman et al.",
    options=("arch",),
)
