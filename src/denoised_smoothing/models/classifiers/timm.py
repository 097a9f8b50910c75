"""Classifiers of timm, by name from the hub or from a folder that timm saved."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from denoised_smoothing.errors import (
    MissingExtraError,
    SettingError,
    SpecError,
    WeightsError,
    raised_as,
)
from denoised_smoothing.files import expand_home
from denoised_smoothing.models.checkpoints import Checkpoint, open_checkpoint
from denoised_smoothing.models.classifiers.base import (
    ImageClassifier,
    check_channels,
    for_channels,
)
from denoised_smoothing.models.classifiers.fine_tuned import class_names, fitted
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize, Scaling
from denoised_smoothing.models.hub import model_folder
from denoised_smoothing.models.specs import Spec

_SCALINGS = {
    "center": Scaling.SHORTER,
    "squash": Scaling.BOTH,
    "border": Scaling.SQUARE,  # pads nothing in a square image
}


def load_timm(name: str, *, label_names: Sequence[str] | None = None) -> ImageClassifier:
    """Load a classifier of timm with its own preprocessing, resolution and label names.

    Args:
        name: a model, with or without its tag, downloaded from the hub once; ``NAME:FILE`` for
            fine-tuned weights in a file (see :func:`.open_checkpoint`), ``NAME:none`` for random
            weights; or a folder that ``timm.models.save_for_hf`` wrote.
        label_names: a name for each class, instead of those of the weights.

    Raises:
        SpecError: timm has no such model, or the label names are not as many as the classes.
        WeightsError: the weights are not available or do not fit.
        SettingError: the model needs other channels, or preprocessing that is not supported.
        ImportError: timm is not installed.
    """
    if expand_home(name).is_dir():
        return timm_classifier(_from_folder(name), f"timm:{name}", label_names)
    architecture, _, weights = name.partition(":")
    _check_name(architecture)
    if weights == "none":
        return timm_classifier(_built(architecture), f"timm:{name}", label_names)
    if weights:
        return timm_from(architecture, open_checkpoint(weights), label_names)
    return timm_classifier(_published(architecture), f"timm:{name}", label_names)


def timm_from(
    architecture: str, checkpoint: Checkpoint, label_names: Sequence[str] | None = None
) -> ImageClassifier:
    """Return a classifier of timm with the weights, classes and channels of a file.

    Raises:
        SpecError, WeightsError, SettingError, ImportError: as :func:`load_timm`.
    """
    import timm

    _check_name(architecture)
    with raised_as(SpecError, f"timm has no weights {architecture!r}", "Omit the tag."):
        usual = timm.models.get_pretrained_cfg_value(architecture, "num_classes") or 1000

    def build(classes: int, channels: int) -> Any:
        return _built(architecture, num_classes=classes, in_chans=channels)

    model = fitted(build, usual, checkpoint, f"timm:{architecture}").network
    return timm_classifier(model, f"timm:{architecture}", label_names, checkpoint.label_names)


def timm_classifier(
    model: Any,
    name: str,
    given: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
) -> ImageClassifier:
    """Return a model of timm after its preprocessing.

    Args:
        name: for messages.
        given: a name for each class, instead of those of the model.
        known: names of the weights, before those of the model.

    Raises:
        SpecError, WeightsError, SettingError: as :func:`load_timm`.
    """
    import timm.data

    classes = int(model.num_classes)
    if classes < 1:
        raise WeightsError(
            f"{name} has no classifying layer (num_classes={classes}). Use a model that was "
            "trained to classify."
        )
    with raised_as(WeightsError, f"cannot read the preprocessing of {name}", _REMEDY):
        config = timm.data.resolve_model_data_config(model)
        channels = check_channels(config["input_size"][0], name)
        resize = _resize(config, name)
        mean, std = (for_channels(config[key], channels) for key in ("mean", "std"))
        label_names = class_names(given, [known, _label_names(model)], max(classes, 2), name)
        _forget_place(model)
        side = resize.size[0] if resize.size[0] == resize.size[1] else None
        return ImageClassifier(model, mean, std, label_names, side, resize).eval()


_REMEDY = "Name a folder that timm.models.save_for_hf wrote."


def knows(name: str) -> bool:
    """Return whether timm has a model of that name, with or without a tag.

    Raises:
        MissingExtraError: timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "timm", f"timm:{name}") from error
    return name.partition(".")[0] in timm.list_models(include_tags=False)


def _check_name(name: str) -> None:
    if not knows(name):
        import timm

        nearest = difflib.get_close_matches(name.partition(".")[0], timm.list_models())
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "Use resnet18, for example."
        raise SpecError(f"timm has no model {name!r}, and there is no such folder. {hint}")


def _built(architecture: str, **options: int) -> Any:
    """Return a model of timm with random weights."""
    import timm

    with raised_as(WeightsError, f"cannot build {architecture} {options}", "Use another model."):
        model: Any = timm.create_model(architecture, pretrained=False, **options)
    if channels := options.get("in_chans"):
        sides = model.pretrained_cfg["input_size"][1:]
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (channels, *sides)}
    return model


def _published(architecture: str) -> Any:
    import timm

    try:
        configuration = timm.get_pretrained_cfg(architecture)
    except RuntimeError:  # an unknown tag
        configuration = None
    if configuration is None or not configuration.hf_hub_id:
        raise SpecError(
            f"timm has no weights for {architecture!r}. Name a folder with weights, a file as "
            f"timm:{architecture}:FILE, or another model (timm.list_pretrained())."
        )
    return _from_folder(configuration.hf_hub_id)


def _from_folder(named: str) -> Any:
    import timm

    folder = model_folder(named, holds="config.json")
    with raised_as(WeightsError, f"cannot load {named} as a model of timm", _REMEDY):
        return timm.create_model(f"local-dir:{folder}", pretrained=True)


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
    return load_timm(spec.rest, label_names=spec.names("labels"))
