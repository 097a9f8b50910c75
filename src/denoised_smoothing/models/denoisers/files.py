"""Denoisers as files: safetensors with a card in the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from denoised_smoothing.errors import SettingError, SpecError, WeightsError
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.diffusers import load_diffusion
from denoised_smoothing.models.denoisers.diffusion import CARD, DiffusionDenoiser, DiffusionUNet
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.memnet import MemNet
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.models.specs import Source, Spec
from denoised_smoothing.models.weights import fill, load_weights, save_weights

ARCHITECTURES: dict[str, Callable[..., DenoiserNetwork]] = {
    "dncnn": DnCNN,
    "dncnn-wide": partial(DnCNN, width=128),
    "memnet": MemNet,
    "unet": UNet,
    "diffusion": DiffusionUNet,
}
"""Name of an architecture to its constructor (``image_channels`` and its own arguments)."""


def build_denoiser(architecture: str, *, image_channels: int = 3, **config: Any) -> DenoiserNetwork:
    """A fresh denoiser of the named architecture.

    Raises:
        SpecError: the architecture is not known.
        SettingError: it has no such option.
    """
    if architecture not in ARCHITECTURES:
        raise SpecError(
            f"unknown denoiser architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    try:
        return ARCHITECTURES[architecture](image_channels=image_channels, **config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise SettingError(f"{architecture} cannot be built with {config}: {error}") from error


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
    the weights are rounded to half precision; loaded, they are float32 again.

    Raises:
        SettingError: half precision is asked for a diffusion model.
    """
    if isinstance(denoiser, DiffusionDenoiser):
        if half:
            raise SettingError(
                "a diffusion model is saved by diffusers, in full precision; leave out half, on "
                "the command line --half"
            )
        denoiser.save(path, {**card, "architecture": architecture})
        return
    metadata = {**card, "architecture": architecture, "config": json.dumps(denoiser.config)}
    save_weights(path, denoiser, metadata, half=half)


def load_denoiser_file(path: str | Path, architecture: str | None = None) -> DenoiserNetwork:
    """A denoiser from a file that :func:`save_denoiser` wrote, in evaluation mode.

    Args:
        path: the safetensors file; of a diffusion model, the folder.
        architecture: what it must be; None takes what the file says.

    Raises:
        WeightsError: the file is missing, not safetensors, or of another architecture.
    """
    if architecture == "diffusion":
        return load_diffusion(str(path))
    tensors, card = load_weights(path)
    stated = card.get("architecture", architecture)
    if stated is None or (architecture or stated) != stated:
        holds = "names no architecture" if stated is None else f"holds {stated}, not {architecture}"
        known = stated if stated in ARCHITECTURES else "ARCHITECTURE"
        raise WeightsError(
            f"{path} {holds}; write the spec as {known}:{path}, of {', '.join(ARCHITECTURES)}"
        )
    try:
        denoiser = build_denoiser(stated, **json.loads(card.get("config", "{}")))
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} describes a denoiser that this version cannot build ({error}); "
            "update the package, or train it again"
        ) from error
    fill(denoiser, tensors, str(path))
    denoiser.card = card
    return denoiser.eval()


def load_card(path: str | Path) -> dict[str, str]:
    """What is known of the making of a denoiser, from its file or folder.

    Raises:
        WeightsError: there is none.
    """
    if not Path(path).is_dir():
        return load_weights(path)[1]
    card = Path(path) / CARD
    if not card.is_file():
        raise WeightsError(f"{path} holds no {CARD}: this package did not train it")
    loaded: dict[str, str] = json.loads(card.read_text(encoding="utf-8"))
    return loaded


def _load(spec: Spec) -> DenoiserNetwork:
    return load_denoiser_file(spec.rest, spec.scheme)


def _source(architecture: str, what: str) -> Source:
    return Source(_load, f"{architecture}:FILE.safetensors", what)


DNCNN = _source("dncnn", "DnCNN of 17 layers (Salman et al. 2020)")
DNCNN_WIDE = _source("dncnn-wide", "DnCNN of twice the width")
MEMNET = _source("memnet", "MemNet (Salman et al. 2020)")
UNET = _source("unet", "UNet that is told sigma, the fastest")
