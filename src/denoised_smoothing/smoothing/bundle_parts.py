"""The files of a bundle: a converted model, or the weights of classifier and denoiser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.engines import Engine
from denoised_smoothing.engines.converted import (
    ConvertedEngine,
    OnnxRuntimeEngine,
    OpenVinoEngine,
)
from denoised_smoothing.engines.torch_engine import TorchEngine
from denoised_smoothing.errors import SettingError, WeightsError
from denoised_smoothing.models.classifiers import (
    CIFAR_RESNET,
    CifarResNet,
    ImageClassifier,
    load_cifar_resnet,
    save_cifar_resnet,
)
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize, Scaling
from denoised_smoothing.models.denoisers import (
    ARCHITECTURES,
    DenoiserNetwork,
    DiffusionDenoiser,
    build_denoiser,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.weights import fill, load_weights, save_weights
from denoised_smoothing.smoothing.bundle_file import Bundle

MODEL = "model"
"""The folder of a converted model."""
ENGINES: dict[EngineName, type[OpenVinoEngine | OnnxRuntimeEngine]] = {
    EngineName.OPENVINO: OpenVinoEngine,
    EngineName.ONNXRUNTIME: OnnxRuntimeEngine,
}


def save_parts(folder: Path, engine: Engine, classifier: object, denoiser: object) -> None:
    """Write the files of a bundle: the model of a converted engine, or the weights."""
    if isinstance(engine, ConvertedEngine):
        (folder / MODEL).mkdir()
        for path in engine.folder.iterdir():
            shutil.copyfile(path, folder / MODEL / path.name)
        return
    for role, part in (("classifier", classifier), ("denoiser", denoiser)):
        path = folder / f"{role}.safetensors"
        if isinstance(part, ImageClassifier) and _is_cifar_resnet(part):
            save_cifar_resnet(path, part, {})
        elif isinstance(part, DenoiserNetwork) and (name := _architecture(part)):
            save_denoiser(path, part, name, {**part.card})
        elif isinstance(part, nn.Module) and part.state_dict():
            save_weights(path, part, _form(part))


def needs_spec(part: object) -> bool:
    """Whether a classifier or denoiser is rebuilt from a spec, as no file says all that it is."""
    known = isinstance(part, DenoiserNetwork) and _architecture(part) is not None
    return not (part is None or known or _is_cifar_resnet(part))


def missing_roles(folder: str | Path, bundle: Bundle) -> list[str]:
    """``classifier`` and ``denoiser``, as far as they are to be rebuilt from their specs."""
    if bundle.converted:
        return []
    missing = [] if _architecture_of(Path(folder) / "classifier.safetensors") else ["classifier"]
    if bundle.denoiser != "none" and not _architecture_of(Path(folder) / "denoiser.safetensors"):
        missing.append("denoiser")
    return missing


def load_part(folder: Path, bundle: Bundle, role: str, given: object) -> Any:
    """The classifier or denoiser of a torch bundle, with the weights in it.

    Args:
        given: what its spec made, where :func:`missing_roles` names it.

    Raises:
        SettingError: it is needed and was not given.
        WeightsError: it is another one than was bundled.
    """
    path = folder / f"{role}.safetensors"
    spec = getattr(bundle, role)
    if role in missing_roles(folder, bundle):
        if given is None:
            raise SettingError(
                f"the {role} of the bundle {folder} is made by its spec {spec!r}: load the bundle "
                f"with catalogue.load_bundle(folder), or give {role}=..."
            )
        if path.is_file() and isinstance(given, nn.Module):
            fill(given, load_weights(path)[0], str(path))
    elif role == "denoiser" and spec == "none":
        return None
    else:
        given = load_cifar_resnet(path) if role == "classifier" else load_denoiser_file(path)
    if fingerprint(given) != getattr(bundle, f"{role}_fingerprint"):
        raise WeightsError(
            f"the {role} {spec!r} is not the one that was bundled in {folder}: its code or its "
            "settings are others; install the version that was bundled, or write a new bundle"
        )
    return given


def load_engine(folder: Path, bundle: Bundle) -> ConvertedEngine:
    """The engine of a bundle with a converted model.

    Raises:
        MissingExtraError: its package is not installed.
        WeightsError: files were added to the model.
    """
    kind = ENGINES[bundle.engine]
    check_version(folder, bundle)
    engine = kind(folder / MODEL, (bundle.forward, *bundle.shape), bundle.precision)
    if engine.model_digest != bundle.model_digest:
        raise WeightsError(
            f"{folder / MODEL} holds other files than were bundled; copy the bundle again from "
            "where it was written"
        )
    return engine


def check_version(folder: Path, bundle: Bundle) -> None:
    """Refuse another version of the engine: its answers may differ from those certified.

    Raises:
        SettingError: it is another one.
    """
    version = ENGINES.get(bundle.engine, TorchEngine).version()
    if version != bundle.engine_version:
        package = bundle.engine.value if bundle.converted else "torch"
        raise SettingError(
            f"the bundle {folder} was certified with {package} {bundle.engine_version}, and "
            f"{version} is installed, which may answer otherwise: "
            f"pip install {package}=={bundle.engine_version.partition('+')[0]}, or write a new "
            "bundle and certify it"
        )


class ConvertedPipeline:
    """Denoiser and classifier as one converted model: noisy images to logits or labels."""

    def __init__(self, engine: ConvertedEngine, bundle: Bundle) -> None:
        self._engine = engine
        self.label_names = bundle.label_names
        self.resolution = bundle.resolution
        self.channels = bundle.shape[0]

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """Logits [B, K] or labels [B] of noisy images of the bundle's shape."""
        forward = self._engine.shape[0]
        padding = images.new_zeros(-len(images) % forward, *images.shape[1:])
        pieces = torch.split(torch.cat([images, padding]), forward)
        return torch.cat([self._engine.answer(piece) for piece in pieces])[: len(images)]


def _is_cifar_resnet(part: object) -> bool:
    """Whether its file says all that it is."""
    return (
        type(part) is ImageClassifier
        and type(part.network) is CifarResNet
        and part.resolution is not None
        and part.resize is None
    )


def _architecture(denoiser: DenoiserNetwork) -> str | None:
    """The name that builds this denoiser from its file, or None where that says not all of it.

    Such as a class of somebody else's, a diffusion model, which is a folder, or a published DnCNN,
    whose batch normalisation has a setting of its own.
    """
    kinds = {kind: name for name, kind in ARCHITECTURES.items() if isinstance(kind, type)}
    name = kinds.get(type(denoiser))
    if name is None or isinstance(denoiser, DiffusionDenoiser):
        return None
    with torch.random.fork_rng(devices=[]):
        rebuilt = build_denoiser(name, **denoiser.config)
    rebuilt.load_state_dict(denoiser.state_dict())
    return name if fingerprint(rebuilt) == fingerprint(denoiser) else None


def _architecture_of(path: Path) -> str | None:
    """The architecture that a file names, if it is one of this package."""
    if not path.is_file():
        return None
    name = load_weights(path)[1].get("architecture", "")
    return name if name in ARCHITECTURES or CIFAR_RESNET.fullmatch(name) else None


def _form(part: nn.Module) -> Mapping[str, str]:
    """What of a classifier is neither its network nor a weight."""
    if not isinstance(part, ImageClassifier):
        return {}
    form = {
        "label_names": part.label_names,
        "resolution": part.resolution,
        "resize": None if part.resize is None else asdict(part.resize),
    }
    return {"form": json.dumps(form)}


def restore_form(classifier: object, folder: str | Path) -> None:
    """Give a classifier the label names and sizes that it had when it was bundled."""
    path = Path(folder) / "classifier.safetensors"
    if not isinstance(classifier, ImageClassifier) or not path.is_file():
        return
    metadata = load_weights(path)[1]
    if "form" not in metadata:
        return
    form = json.loads(metadata["form"])
    names, resize = form["label_names"], form["resize"]
    classifier.label_names = None if names is None else tuple(names)
    classifier.resolution = form["resolution"]
    classifier.resize = None if resize is None else _resize(**resize)


def _resize(size: list[int], scaling: str, interpolation: str, **rest: Any) -> Resize:
    height, width = size
    return Resize(
        (height, width),
        scaling=Scaling(scaling),
        interpolation=Interpolation(interpolation),
        **rest,
    )
