"""Image classifiers of torchvision, by name."""

from __future__ import annotations

import difflib
import logging
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import torch.hub
from torch import nn

from denoised_smoothing.errors import MissingExtraError, SpecError, WeightsError
from denoised_smoothing.files import sha256_of
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import IMAGENET_MEAN, IMAGENET_STD
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize, Scaling
from denoised_smoothing.models.specs import Spec
from denoised_smoothing.models.weights import fill, load_weights

_log = logging.getLogger(__name__)


def load_torchvision(name: str, *, weights: str = "DEFAULT") -> ImageClassifier:
    """Load a classifier of torchvision with the transforms and label names of its weights.

    Its resolution is the crop size of the transforms. Images of another size are resized and
    cropped as they do, after the noise.

    Args:
        name: such as ``resnet50``.
        weights: the name of published weights, which are downloaded once; a safetensors file,
            with normalisation, resolution and label names of the default weights; or ``none``
            for random weights, 224 pixels and no label names.

    Raises:
        SpecError: torchvision has no such classifier, or no such weights of it.
        WeightsError: the download failed, or the file does not fit.
        MissingExtraError: torchvision is not installed.
    """
    models = _models_with(name)
    published = models.get_model_weights(name).__members__
    if weights == "none":
        network = models.get_model(name, weights=None)
        return ImageClassifier(network, IMAGENET_MEAN, IMAGENET_STD, resolution=224).eval()
    chosen = published.get(weights, published["DEFAULT"])
    if weights in published:
        network = _download(models, name, chosen)
    elif Path(weights).suffix or Path(weights).exists():
        network = models.get_model(name, weights=None)
        fill(network, load_weights(weights)[0], f"{weights} (as torchvision:{name})")
        if hasattr(network, "transform_input"):
            network.transform_input = True  # as in all published weights of the Inceptions
    else:
        raise SpecError(
            f"torchvision has no weights {weights!r} for {name}. Use {', '.join(published)}, none "
            "or the path of a safetensors file."
        )
    preset = chosen.transforms()
    side = preset.crop_size[0]
    resize = Resize(
        (side, side),
        preset.resize_size[0],
        Scaling.SHORTER,
        Interpolation(preset.interpolation.value),
    )
    return ImageClassifier(
        network, preset.mean, preset.std, chosen.meta["categories"], side, resize
    ).eval()


def _models_with(name: str) -> Any:
    """Return ``torchvision.models`` if it has an image classifier of that name."""
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtraError("torchvision", "torchvision", f"torchvision:{name}") from error
    known = models.list_models(module=models)
    if name not in known:
        nearest = difflib.get_close_matches(name.lower(), known)
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "Use resnet50, for example."
        raise SpecError(f"torchvision has no image classifier {name!r}. {hint}")
    return models


def _download(models: Any, name: str, chosen: Any) -> nn.Module:
    try:
        _remove_altered(chosen.url)
        # Opened as tensors first, because torch.hub would run code in the file.
        chosen.get_state_dict(check_hash=True, weights_only=True)
        network: nn.Module = models.get_model(name, weights=chosen)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot download the weights of {name} from {chosen.url} ({error}). Download that "
            "file on a machine with internet access, convert it with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE), and use "
            f"torchvision:{name}:NEW_FILE."
        ) from error
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
    return load_torchvision(name, weights=weights or "DEFAULT")
