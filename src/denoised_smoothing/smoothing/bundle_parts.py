"""The files of a bundle: a converted model, or the weights of classifier and denoiser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.engines.converted import CONVERTED, ConvertedEngine
from denoised_smoothing.engines.engine import Engine
from denoised_smoothing.engines.torch_engine import TorchEngine
from denoised_smoothing.errors import SettingError, SpecError, WeightsError, raised_as
from denoised_smoothing.models.cache import ModelFiles
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import (
    CIFAR_RESNET,
    LARGEST_SIDE,
    CifarResNet,
    load_cifar_resnet,
    save_cifar_resnet,
)
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize, Scaling
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.diffusion import DiffusionDenoiser
from denoised_smoothing.models.denoisers.files import (
    ARCHITECTURES,
    build_denoiser,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.weights import fill, load_weights, save_weights
from denoised_smoothing.smoothing.bundle_record import COPY_AGAIN, MODEL, Bundle, is_names, is_whole

_EXPORT_AGAIN = "Export the bundle again, with a spec that can be loaded here."


def save_parts(folder: Path, engine: Engine, classifier: object, denoiser: object) -> None:
    """Write the files of a bundle: the model of a converted engine, or the weights.

    Raises:
        WeightsError: the files of the converted model are no longer those that were loaded.
    """
    if isinstance(engine, ConvertedEngine):
        try:
            model = ModelFiles.read(engine.folder)
        except OSError:
            model = None
        if model is None or model.digest != engine.model_digest:
            raise WeightsError(
                f"The converted model in {engine.folder} was removed or altered after it was "
                "loaded. Export it from a new process, which converts it again."
            )
        (folder / MODEL).mkdir()
        for file, content in model.contents.items():
            (folder / MODEL / file).write_bytes(content)
        return
    for role, part in (("classifier", classifier), ("denoiser", denoiser)):
        path = folder / f"{role}.safetensors"
        name = _architecture(part)
        if name and isinstance(part, ImageClassifier):
            save_cifar_resnet(path, part, {})
        elif name and isinstance(part, DenoiserNetwork):
            save_denoiser(path, part, name, {**part.card})
        elif isinstance(part, nn.Module) and part.state_dict():
            save_weights(path, part, _input_format(part))


def needs_spec(part: object) -> bool:
    """Return whether a classifier or denoiser is made by a spec, as no file defines it."""
    return part is not None and _architecture(part) is None


def load_part(folder: Path, bundle: Bundle, role: str, given: object) -> Any:
    """Return the classifier or denoiser of a torch bundle, with the weights in it.

    Args:
        given: what its spec makes, or None to make it here; used if its file does not define it.

    """
    path, spec = folder / f"{role}.safetensors", getattr(bundle, role)
    if role == "denoiser" and spec == "none":
        return None
    weights, metadata = load_weights(path) if path.is_file() else ({}, {})
    architecture = metadata.get("architecture", "")
    if architecture in ARCHITECTURES or CIFAR_RESNET.fullmatch(architecture):
        part: Any = load_cifar_resnet(path) if role == "classifier" else load_denoiser_file(path)
    else:
        with raised_as(SpecError, f"cannot make the {role} of the bundle {folder}", _EXPORT_AGAIN):
            part = given if given is not None else _make(role, spec)
        if isinstance(part, ImageClassifier) and "form" in metadata:
            with raised_as(WeightsError, f"cannot read the metadata of {path}", COPY_AGAIN):
                _restore_format(part, json.loads(metadata["form"]))
        if isinstance(part, nn.Module) and path.is_file():
            fill(part, weights, str(path))
    if fingerprint(part) != getattr(bundle, f"{role}_fingerprint"):
        raise WeightsError(
            f"The {role} {spec!r} differs from the one that was exported to {folder}: its code, "
            "its settings or the version of denoised-smoothing changed. Install the version that "
            "wrote the bundle, or export it again."
        )
    return part


def load_engine(folder: Path, bundle: Bundle) -> ConvertedEngine | None:
    """Return the engine of a converted model; None if the engine is torch.

    Another version of either is refused, as its answers may differ from those certified.
    """
    version = CONVERTED.get(bundle.engine, TorchEngine).version()
    if version != bundle.engine_version:
        package = bundle.engine.value if bundle.converted else "torch"
        raise SettingError(
            f"The bundle {folder} was certified with {package} {bundle.engine_version}, and "
            f"{version} is installed, whose answers may differ. Run pip install "
            f"{package}=={bundle.engine_version.partition('+')[0]}, or export and certify again."
        )
    if not bundle.converted:
        return None
    shape = (bundle.forward, *bundle.shape)
    with raised_as(WeightsError, f"cannot load the model of the bundle {folder}", COPY_AGAIN):
        model = ModelFiles.read(folder / MODEL)
        if model.digest != bundle.model_digest:
            raise WeightsError(
                f"{folder / MODEL} holds other files than were exported. {COPY_AGAIN}"
            )
        return CONVERTED[bundle.engine](model, shape, bundle.precision)


class ConvertedPipeline:
    """Denoiser and classifier as one converted model: noisy images to logits or labels."""

    def __init__(self, engine: ConvertedEngine, bundle: Bundle) -> None:
        self._engine = engine
        self.label_names = bundle.label_names
        self.resolution = bundle.resolution
        self.channels = bundle.shape[0]

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """Return logits [B, K] or labels [B] of noisy images of the bundle's shape."""
        forward = self._engine.shape[0]
        padding = images.new_zeros(-len(images) % forward, *images.shape[1:])
        pieces = torch.split(torch.cat([images, padding]), forward)
        return torch.cat([self._engine.answer(piece) for piece in pieces])[: len(images)]


def _make(role: str, spec: str) -> Any:
    """Make what a spec names; weights that the bundle holds are not downloaded."""
    scheme, _, rest = spec.partition(":")
    if role == "denoiser" or scheme != "torchvision":
        return load_denoiser(spec) if role == "denoiser" else load_classifier(spec)
    from denoised_smoothing.models.classifiers.torchvision import load_torchvision

    name, _, weights = rest.partition(":")
    classifier = load_torchvision(name, weights="none")
    if weights != "none" and hasattr(classifier.network, "transform_input"):
        vars(classifier.network)["transform_input"] = True  # as with all published weights
    return classifier


def _architecture(part: object) -> str | None:
    """Return the name that builds a classifier or denoiser from its file; None if it cannot.

    As for a diffusion model, which is a folder, or a published DnCNN, whose batch normalisation
    has a different setting.
    """
    if type(part) is ImageClassifier and type(part.network) is CifarResNet:
        return "cifar-resnet" if part.resolution and part.resize is None else None
    kinds = {kind: name for name, kind in ARCHITECTURES.items() if isinstance(kind, type)}
    name = kinds.get(type(part))
    if name is None or not isinstance(part, DenoiserNetwork) or isinstance(part, DiffusionDenoiser):
        return None
    with torch.random.fork_rng(devices=[]):
        rebuilt = build_denoiser(name, **part.config)
    rebuilt.load_state_dict(part.state_dict())
    return name if fingerprint(rebuilt) == fingerprint(part) else None


def _input_format(part: nn.Module) -> Mapping[str, str]:
    """Return label names and sizes of a classifier, which are neither network nor weight."""
    if not isinstance(part, ImageClassifier):
        return {}
    resize = None if part.resize is None else asdict(part.resize)
    form = {"label_names": part.label_names, "resolution": part.resolution, "resize": resize}
    return {"form": json.dumps(form)}


def _restore_format(classifier: ImageClassifier, form: Mapping[str, Any]) -> None:
    """Give a classifier the label names and sizes that it had when it was exported.

    Raises:
        ValueError, TypeError, KeyError: a value is missing, or of another type or range.
    """
    names, resolution, resize = form["label_names"], form["resolution"], form["resize"]
    if names is not None and not is_names(names):
        raise ValueError("label_names must be a list of texts or null")
    sides = [] if resolution is None else [resolution]
    if resize is not None:
        sides += [*resize["size"], *([] if resize["scaled"] is None else [resize["scaled"]])]
        if len(resize["size"]) != 2 or type(resize["crop_rounds_down"]) is not bool:
            raise ValueError("size must be two numbers, and crop_rounds_down true or false")
    if not all(is_whole(side, 1, LARGEST_SIDE) for side in sides):
        raise ValueError(f"sizes must be whole numbers from 1 to {LARGEST_SIDE}")
    classifier.label_names = None if names is None else tuple(names)
    classifier.resolution, classifier.resize = resolution, None
    if resize is not None:
        kinds = {
            "size": tuple(resize["size"]),
            "scaling": Scaling(resize["scaling"]),
            "interpolation": Interpolation(resize["interpolation"]),
        }
        classifier.resize = Resize(**resize | kinds)
