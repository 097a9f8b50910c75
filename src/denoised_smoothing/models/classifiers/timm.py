"""The classifiers of timm: by name from the hub, or from a folder that timm saved."""

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
from denoised_smoothing.models.specs import Source, Spec
from denoised_smoothing.models.weights import fill, load_weights

_SCALINGS = {
    "center": Scaling.SHORTER,
    "squash": Scaling.BOTH,
    "border": Scaling.SQUARE,  # what it fills up is nothing where the image is square
}


def load_timm(name: str) -> ImageClassifier:
    """A classifier of timm with its own data configuration and label names.

    Its resolution is the size that the configuration names.

    Args:
        name: of a model, with its tag or without, fetched from the hub once; ``NAME:FILE`` for
            its weights in a safetensors file, ``NAME:none`` for random ones; or a folder that
            ``timm.models.save_for_hf`` wrote.

    Raises:
        SpecError: timm has no such model.
        WeightsError: the weights cannot be had or do not fit.
        SettingError: the model takes other channels, or its preprocessing is not reproduced.
        ImportError: timm is not installed.
    """
    model = _from_folder(name) if Path(name).expanduser().is_dir() else _by_name(name)
    if int(model.num_classes) < 2:  # type: ignore[arg-type]
        raise WeightsError(
            f"timm:{name} has no layer that classifies (num_classes={model.num_classes}); name a "
            "model that was trained to classify"
        )
    config = _data_config(model)
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
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "try resnet18"
        raise SpecError(f"timm has no model {architecture!r}, and there is no such folder; {hint}")
    if weights:
        model: nn.Module = timm.create_model(architecture, pretrained=False)
        if weights != "none":
            fill(model, load_weights(weights)[0], f"{weights} (as timm:{architecture})")
        return model
    try:
        configuration = timm.get_pretrained_cfg(architecture)
    except RuntimeError:  # a tag that it does not know
        configuration = None
    if configuration is None or not configuration.hf_hub_id:
        raise SpecError(
            f"timm has no weights for {architecture!r}; name a folder that holds some, a file as "
            f"timm:{architecture}:FILE.safetensors, or another model (timm.list_pretrained())"
        )
    return _from_folder(configuration.hf_hub_id)


def _from_folder(named: str) -> nn.Module:
    import timm

    folder = model_folder(named, holds="config.json")
    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise WeightsError(
            f"{named} cannot be loaded as a model of timm ({type(error).__name__}: {error}); it "
            "must be a folder that timm.models.save_for_hf wrote"
        ) from error
    return model


def _data_config(model: nn.Module) -> dict[str, Any]:
    import timm.data

    config: dict[str, Any] = timm.data.resolve_model_data_config(model)
    return config


def _resize(config: dict[str, Any], name: str) -> Resize:
    """What ``timm.data.create_transform`` does to an image before it normalises."""
    height, width = config["input_size"][1:]
    if config["crop_mode"] not in _SCALINGS or config["interpolation"] not in list(Interpolation):
        raise SettingError(
            f"{name} has crop_mode {config['crop_mode']!r} and interpolation "
            f"{config['interpolation']!r}; reproduced are {', '.join(_SCALINGS)} and "
            f"{', '.join(Interpolation)}. Wrap the model yourself: python:MODULE:FACTORY"
        )
    if height != width and config["crop_pct"] != 1:
        raise SettingError(
            f"{name} is for images of {height}x{width} pixels and crops them; wrap the model "
            "yourself: python:MODULE:FACTORY"
        )
    return Resize(
        (height, width),
        scaled=math.floor(height / config["crop_pct"]) if height == width else None,
        scaling=_SCALINGS[config["crop_mode"]],
        interpolation=Interpolation(config["interpolation"]),
    )


def _forget_place(model: Any) -> None:
    """Leave out where the file lay: the same model in another folder is the same classifier."""
    kept = {name: value for name, value in model.pretrained_cfg.items() if name != "file"}
    model.pretrained_cfg = model.default_cfg = kept


def _for_each(values: Sequence[float], channels: int) -> Sequence[float]:
    return tuple(values) * channels if len(values) == 1 else tuple(values)[:channels]


def _label_names(model: Any) -> Sequence[str] | None:
    """Those that were saved with the model; of ImageNet for the weights that timm publishes."""
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


def _load(spec: Spec) -> ImageClassifier:
    return load_timm(spec.rest)


SOURCE = Source(
    _load,
    "timm:NAME-OR-FOLDER[:WEIGHTS]",
    "models of timm, from its hub or a saved folder",
    package="timm",
    extra="timm",
)
