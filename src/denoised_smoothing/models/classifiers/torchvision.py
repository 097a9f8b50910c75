"""Image classifiers of torchvision, by name."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch.hub
from torch import nn

from denoised_smoothing.errors import MissingExtraError, SpecError, WeightsError, raised_as
from denoised_smoothing.files import sha256_of
from denoised_smoothing.models.checkpoints import Checkpoint, open_checkpoint
from denoised_smoothing.models.classifiers.base import (
    ImageClassifier,
    check_channels,
    for_channels,
)
from denoised_smoothing.models.classifiers.cifar_resnet import IMAGENET_MEAN, IMAGENET_STD
from denoised_smoothing.models.classifiers.fine_tuned import RGB, Fitted, class_names, fitted
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize, Scaling
from denoised_smoothing.models.specs import Spec

_log = logging.getLogger(__name__)

_INCEPTIONS = ("googlenet", "inception_v3")
"""They have classifiers for training only, which files of fine-tuned weights may lack."""
CLASSES = 1000
"""The number of classes of a network that is built without weights."""


def load_torchvision(
    name: str, *, weights: str = "DEFAULT", label_names: Sequence[str] | None = None
) -> ImageClassifier:
    """Load a classifier of torchvision with the transforms and label names of its weights.

    Its resolution is the crop size of the transforms. Images of another size are resized and
    cropped as they do, after the noise.

    Args:
        name: such as ``resnet50``.
        weights: the name of published weights, which are downloaded once; a file of fine-tuned
            weights (see :func:`.open_checkpoint`); or ``none`` for random weights, 224 pixels and
            no label names.
        label_names: a name for each class, instead of those of the weights.

    Raises:
        SpecError: torchvision has no such classifier, or no such weights of it, or the label
            names are not as many as the classes.
        WeightsError: the download failed, or the file does not fit.
        MissingExtraError: torchvision is not installed.
    """
    models = _models_with(name)
    published = models.get_model_weights(name).__members__
    if weights == "none":
        network = models.get_model(name, weights=None)
        names = class_names(label_names, [], CLASSES, f"torchvision:{name}")
        return ImageClassifier(network, IMAGENET_MEAN, IMAGENET_STD, names, resolution=224).eval()
    if weights in published:
        chosen = published[weights]
        ready = Fitted(_download(models, name, chosen), len(chosen.meta["categories"]), RGB)
        return _with_transforms(ready, chosen, label_names, [], name)
    if Path(weights).suffix or Path(weights).exists():
        return torchvision_from(name, open_checkpoint(weights), label_names)
    raise SpecError(
        f"torchvision has no weights {weights!r} for {name}. Use {', '.join(published)}, none "
        "or the path of a file of weights."
    )


def torchvision_from(
    name: str, checkpoint: Checkpoint, label_names: Sequence[str] | None = None
) -> ImageClassifier:
    """Return a classifier of torchvision with the weights, classes and channels of a file.

    The transforms are those of the default weights. So are the label names, if the number of
    classes is the same and the file has no names.

    Raises:
        SpecError, WeightsError, MissingExtraError: as :func:`load_torchvision`.
    """
    models = _models_with(name)
    auxiliary = any("aux" in key.lower() for key in checkpoint.tensors)
    options = {"aux_logits": auxiliary, "init_weights": False} if name in _INCEPTIONS else {}

    def build(classes: int, channels: int) -> Any:
        network: Any = models.get_model(name, weights=None, num_classes=classes, **options)
        if channels != RGB:
            _take_channels(network, channels, f"torchvision:{name}")
        elif name in _INCEPTIONS:
            network.transform_input = True  # as in all published weights of the Inceptions
        return network

    ready = fitted(build, CLASSES, checkpoint, f"torchvision:{name}")
    weights = models.get_model_weights(name).DEFAULT
    return _with_transforms(ready, weights, label_names, [checkpoint.label_names], name)


def _take_channels(network: nn.Module, channels: int, name: str) -> None:
    """Replace the weights of the first convolution by such for another number of channels."""
    check_channels(channels, name)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.in_channels = channels
    first.weight = nn.Parameter(first.weight[:, :channels].detach().clone())


def _with_transforms(
    ready: Fitted,
    weights: Any,
    given: Sequence[str] | None,
    known: Sequence[Sequence[str] | None],
    name: str,
) -> ImageClassifier:
    preset = weights.transforms()
    side = preset.crop_size[0]
    resize = Resize(
        (side, side),
        preset.resize_size[0],
        Scaling.SHORTER,
        Interpolation(preset.interpolation.value),
    )
    return ImageClassifier(
        ready.network,
        for_channels(preset.mean, ready.channels),
        for_channels(preset.std, ready.channels),
        class_names(
            given, [*known, weights.meta["categories"]], ready.classes, f"torchvision:{name}"
        ),
        side,
        resize,
    ).eval()


def knows(name: str) -> bool:
    """Return whether torchvision has an image classifier of that name.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    models = _models(name)
    return name in models.list_models(module=models)


def _models(name: str) -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtraError("torchvision", "torchvision", f"torchvision:{name}") from error
    return models


def _models_with(name: str) -> Any:
    """Return ``torchvision.models`` if it has an image classifier of that name."""
    models = _models(name)
    known = models.list_models(module=models)
    if name not in known:
        nearest = difflib.get_close_matches(name.lower(), known)
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "Use resnet50, for example."
        raise SpecError(f"torchvision has no image classifier {name!r}. {hint}")
    return models


def _download(models: Any, name: str, chosen: Any) -> nn.Module:
    remedy = (
        f"Download that file on a machine with internet access and use torchvision:{name}:FILE."
    )
    with raised_as(
        WeightsError, f"cannot download the weights of {name} from {chosen.url}", remedy
    ):
        _remove_altered(chosen.url)
        # Opened as tensors first, because torch.hub would run code in the file.
        chosen.get_state_dict(check_hash=True, weights_only=True)
        network: nn.Module = models.get_model(name, weights=chosen)
    return network


def _remove_altered(url: str) -> None:
    """Remove an earlier download that differs from the SHA-256 whose beginning is in its name.

    torch.hub compares new downloads only.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(url).name)
    stated = torch.hub.HASH_REGEX.search(path.name)
    if stated and path.is_file() and not sha256_of(path).startswith(stated[1]):
        _log.warning("%s is not the published file. It is downloaded again.", path)
        path.unlink()


def load_spec(spec: Spec) -> ImageClassifier:
    """Return the model of a spec."""
    name, _, weights = spec.rest.partition(":")
    return load_torchvision(name, weights=weights or "DEFAULT", label_names=spec.names("labels"))
