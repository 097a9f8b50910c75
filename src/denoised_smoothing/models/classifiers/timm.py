"""Classifiers of timm, by name from the hub or from a folder that timm saved."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from denoised_smoothing.errors import SettingError, SpecError, WeightsError
from denoised_smoothing.models.classifiers.base import ImageClassifier, check_channels
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize, Scaling
from denoised_smoothing.models.hub import model_folder
from denoised_smoothing.models.specs import Spec
from denoised_smoothing.models.weights import fill, load_weights

_SCALINGS = {
    "center": Scaling.SHORTER,
    "squash": Scaling.BOTH,
    "border": Scaling.SQUARE,  # pads nothing in a square image
}


def load_timm(name: str) -> ImageClassifier:
    """Load a classifier of timm with its own preprocessing, resolution and label names.

    Args:
        name: a model, with or without its tag, downloaded from the hub once; ``NAME:FILE`` for
            weights in a safetensors file, ``NAME:none`` for random weights; or a folder that
            ``timm.models.save_for_hf`` wrote.

    Raises:
        SpecError: timm has no such model.
        WeightsError: the weights are not available or do not fit.
        SettingError: the model needs other channels, or preprocessing that is not supported.
        ImportError: timm is not installed.
    """
    import timm.data

    model = _from_folder(name) if Path(name).expanduser().is_dir() else _by_name(name)
    if int(model.num_classes) < 2:  # type: ignore[arg-type]
        raise WeightsError(
            f"timm:{name} has no classifying layer (num_classes={model.num_classes}). Use a model "
            "that was trained to classify."
        )
    config = timm.data.resolve_model_data_config(model)
    channels = check_channels(config["input_size"][0], f"timm:{name}")
    resize = _resize(config, f"timm:{name}")
    label_names = _label_names(model)
    _forget_place(model)
    return ImageClassifier(
        model,
        _for_each(config["mean"], channels),
        _for_each(config["std"], channels),
        label_names,
        resolution=resize.size[0] if resize.size[0] == resize.size[1] else None,
        input_size=resize,
    ).eval()


def _by_name(name: str) -> nn.Module:
    import timm

    architecture, _, weights = name.partition(":")
    known = timm.list_models(include_tags=False)
    if architecture.partition(".")[0] not in known:
        nearest = difflib.get_close_matches(architecture.partition(".")[0], known)
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "Use resnet18, for example."
        raise SpecError(f"timm has no model {architecture!r}, and there is no such folder. {hint}")
    if weights:
        model: nn.Module = timm.create_model(architecture, pretrained=False)
        if weights != "none":
            fill(model, load_weights(weights)[0], f"{weights} (as timm:{architecture})")
        return model
    try:
        configuration = timm.get_pretrained_cfg(architecture)
    except RuntimeError:  # an unknown tag
        configuration = None
    if configuration is None or not configuration.hf_hub_id:
        raise SpecError(
            f"timm has no weights for {architecture!r}. Name a folder with weights, a file as "
            f"timm:{architecture}:FILE.safetensors, or another model (timm.list_pretrained())."
        )
    return _from_folder(configuration.hf_hub_id)


def _from_folder(named: str) -> nn.Module:
    import timm

    folder = model_folder(named, holds="config.json")
    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise WeightsError(
            f"cannot load {named} as a model of timm ({type(error).__name__}: {error}). Name a "
            "folder that timm.models.save_for_hf wrote."
        ) from error
    return model


def _resize(config: dict[str, Any], name: str) -> Resize:
    """Return the resizing of ``timm.data.create_transform``."""
    height, width = config["input_size"][1:]
    if config["crop_mode"] not in _SCALINGS or config["interpolation"] not in list(Interpolation):
        raise SettingError(
            f"the preprocessing of {name} is not supported: crop_mode must be one of "
            f"{', '.join(_SCALINGS)}, got {config['crop_mode']}; interpolation one of "
            f"{', '.join(Interpolation)}, got {config['interpolation']}. Wrap the model yourself: "
            "python:MODULE:FACTORY."
        )
    if height != width and config["crop_pct"] != 1:
        raise SettingError(
            f"the preprocessing of {name} is not supported: a crop must be square, got "
            f"{height}x{width}. Wrap the model yourself: python:MODULE:FACTORY."
        )
    return Resize(
        (height, width),
        scaled=math.floor(height / config["crop_pct"]) if height == width else None,
        scaling=_SCALINGS[config["crop_mode"]],
        interpolation=Interpolation(config["interpolation"]),
    )


def _forget_place(model: Any) -> None:
    """Remove the path of the file, so that fingerprints do not depend on the folder."""
    kept = {name: value for name, value in model.pretrained_cfg.items() if name != "file"}
    model.pretrained_cfg = model.default_cfg = kept


def _for_each(values: Sequence[float], channels: int) -> Sequence[float]:
    return tuple(values) * channels if len(values) == 1 else tuple(values)[:channels]


def _label_names(model: Any) -> Sequence[str] | None:
    """Return the names saved with the model, or those of ImageNet for weights of timm."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    saved, classes = model.pretrained_cfg.get("label_names"), model.num_classes
    if saved is not None and len(saved) == classes:
        described = model.pretrained_cfg.get("label_descriptions") or {}
        names = [saved[str(i)] if isinstance(saved, dict) else saved[i] for i in range(classes)]
        return [str(described.get(name, name)) for name in names]
    published = str(model.pretrained_cfg.get("file", "")).find("models--timm--") >= 0
    subset = infer_imagenet_subset(model) if published else None
    if subset is None:
        return None
    information = ImageNetInfo(subset)
    return [information.index_to_description(index) for index in range(classes)]


def load_spec(spec: Spec) -> ImageClassifier:
    """Return the model of a spec."""
    return load_timm(spec.rest)
