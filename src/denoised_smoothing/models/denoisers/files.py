"""Denoisers as safetensors files with a card in the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from denoised_smoothing.errors import SettingError, SpecError, WeightsError, first_line
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.diffusers import load_diffusion, read_card
from denoised_smoothing.models.denoisers.diffusion import CARD, DiffusionDenoiser, DiffusionUNet
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.memnet import MemNet
from denoised_smoothing.models.denoisers.multiscale_unet import MultiscaleUNet
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.models.specs import Spec
from denoised_smoothing.models.weights import fill, load_weights, save_weights

ARCHITECTURES: dict[str, Callable[..., DenoiserNetwork]] = {
    "dncnn": DnCNN,
    "dncnn-wide": partial(DnCNN, width=128),
    "memnet": MemNet,
    "unet": UNet,
    "multiscale-unet": MultiscaleUNet,
    "diffusion": DiffusionUNet,
}
"""The constructor of each architecture; it accepts ``image_channels`` and its own arguments."""


def build_denoiser(architecture: str, *, image_channels: int = 3, **config: Any) -> DenoiserNetwork:
    """Build a new denoiser.

    Raises:
        SpecError: the architecture is unknown.
        SettingError: the architecture has no such option, or the option has a wrong value.
    """
    if architecture not in ARCHITECTURES:
        raise SpecError(
            f"the architecture of a denoiser must be one of {', '.join(ARCHITECTURES)}, got "
            f"{architecture!r}. Use one of them."
        )
    try:
        return ARCHITECTURES[architecture](image_channels=image_channels, **config)
    except ImportError:
        raise
    except Exception as error:  # of torch, for options of any type and size
        raise SettingError(
            f"cannot build {architecture} with {config}: {first_line(error)}. Change the options."
        ) from error


def save_denoiser(
    path: str | Path,
    denoiser: DenoiserNetwork,
    architecture: str,
    card: Mapping[str, str],
    *,
    half: bool = False,
) -> None:
    """Write weights, architecture and card (data, command, seed, measured quality, ...).

    A diffusion model becomes a folder in the layout of diffusers, in full precision. With ``half``
    the weights are rounded to half precision. Loaded weights are always float32.

    Raises:
        SettingError: half precision was requested for a diffusion model.
    """
    if isinstance(denoiser, DiffusionDenoiser):
        if half:
            raise SettingError(
                "diffusers saves diffusion models in full precision, got half. Omit half (--half)."
            )
        denoiser.save(path, {**card, "architecture": architecture})
        return
    metadata = {**card, "architecture": architecture, "config": json.dumps(denoiser.config)}
    save_weights(path, denoiser, metadata, half=half)


def load_denoiser_file(path: str | Path, architecture: str | None = None) -> DenoiserNetwork:
    """Load a denoiser that :func:`save_denoiser` wrote, in evaluation mode.

    Args:
        path: the safetensors file, or the folder of a diffusion model.
        architecture: the architecture that it must have, or None for the one that it names.

    Raises:
        WeightsError: the file is missing, not safetensors, or has another architecture.
    """
    if architecture == "diffusion":
        return load_diffusion(str(path))
    tensors, card = load_weights(path)
    stated = card.get("architecture", architecture)
    if stated is None or (architecture or stated) != stated:
        holds = "names no architecture" if stated is None else f"holds {stated}, not {architecture}"
        known = stated if stated in ARCHITECTURES else "ARCHITECTURE"
        raise WeightsError(
            f"{path} {holds}. Write the spec as {known}:{path}, with one of "
            f"{', '.join(ARCHITECTURES)}."
        )
    try:
        config = json.loads(card.get("config", "{}"))
        _check_extent(config, tensors)
        denoiser = build_denoiser(stated, **config)
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} describes a denoiser that this version cannot build "
            f"({first_line(error.__cause__ or error)}). Update the package, or train it again."
        ) from error
    fill(denoiser, tensors, str(path))
    denoiser.card = card
    return denoiser.eval()


def _check_extent(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check that no option is above both the sides and the number of the weights.

    Channels are sides, and each layer has weights. A larger number would exhaust time or memory.

    Raises:
        TypeError, ValueError: one is, or there are no options by name.
    """
    most = max([len(tensors), *(side for tensor in tensors.values() for side in tensor.shape)])
    for name, value in dict(config).items():
        if isinstance(value, int) and value > most:
            raise ValueError(f"{name} must be at most {most} for these weights, got {value}")


def load_card(path: str | Path) -> dict[str, str]:
    """Return the card of a denoiser, from its file or folder.

    Raises:
        WeightsError: it has no card, or a damaged one.
    """
    if not Path(path).is_dir():
        return load_weights(path)[1]
    if not (Path(path) / CARD).is_file():
        raise WeightsError(
            f"{path} has no {CARD}: this package did not train it. Name a folder that train wrote."
        )
    return read_card(Path(path))


def load_spec(spec: Spec) -> DenoiserNetwork:
    """Return the model of a spec."""
    return load_denoiser_file(spec.rest, spec.scheme)
