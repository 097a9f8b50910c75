"""Names and spec strings to objects; the sources of specs register by entry points."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from denoised_smoothing.errors import (
    DenoisedSmoothingError,
    SettingError,
    SpecError,
    WeightsError,
)
from denoised_smoothing.models.classifiers import load_cifar_resnet
from denoised_smoothing.models.denoisers import DenoiserNetwork, MeanDenoiser
from denoised_smoothing.models.protocols import Classifier, Denoiser
from denoised_smoothing.models.shipped import (
    check_checksum,
    load_shipped_denoiser,
    shipped_denoisers,
    shipped_folder,
)
from denoised_smoothing.models.specs import (
    Role,
    Source,
    Spec,
    has_source,
    list_sources,
    open_spec,
    unknown,
)
from denoised_smoothing.models.weights import load_weights
from denoised_smoothing.remote.source import REMOTE_FORMS, is_remote, load_remote
from denoised_smoothing.smoothing.bundle import missing_roles, read_bundle, restore_form
from denoised_smoothing.smoothing.classifier import SmoothedClassifier


def load_classifier(spec: str) -> Classifier:
    """The classifier that a spec names.

    Args:
        spec: a bundled name (``digits``), ``SCHEME:REST`` with a scheme of
            :func:`list_classifiers`, such as ``torchvision:resnet50``, ``timm:FOLDER``,
            ``hf:NAME``, ``onnx:FILE?mean=0.5,0.5,0.5``, ``cifar-resnet56:FILE.safetensors`` or
            ``python:MODULE:FACTORY`` for whatever FACTORY() returns, or a remote one
            (:func:`~denoised_smoothing.remote.source.load_remote`).

    Raises:
        SpecError: nothing known by that name; suggests the nearest.
        WeightsError: the weights are missing or do not fit.
        MissingExtraError: an optional package is needed.
    """
    bundled = shipped_classifiers()
    if spec in bundled:
        check_checksum(bundled[spec])
        return load_cifar_resnet(bundled[spec], depth=None)
    if is_remote(spec):
        return load_remote(spec)
    if not has_source(Role.CLASSIFIER, spec):
        raise unknown(Role.CLASSIFIER, spec, [*bundled, *REMOTE_FORMS])
    classifier: Classifier = _callable(open_spec(Role.CLASSIFIER, spec), spec)
    return classifier


def load_denoiser(spec: str) -> Denoiser | None:
    """The denoiser that a spec names; None for ``none``.

    Args:
        spec: ``none``, a bundled name, or ``SCHEME:REST`` with a scheme of
            :func:`list_denoisers`, such as ``unet:FILE.safetensors``, ``diffusers:FOLDER`` or
            ``python:MODULE:FACTORY``.

    Raises:
        SpecError: nothing known by that name; suggests the nearest.
        WeightsError: the weights are missing, of another architecture, or bundled and not as
            they were shipped.
        MissingExtraError: an optional package is needed.
    """
    if spec == "none":
        return None
    bundled = shipped_denoisers()
    if spec in bundled:
        return load_shipped_denoiser(spec)
    if not has_source(Role.DENOISER, spec):
        raise unknown(Role.DENOISER, spec, ["none", *bundled])
    denoiser: Denoiser = _callable(open_spec(Role.DENOISER, spec), spec)
    return denoiser


def load_bundle(
    folder: str | Path, *, device: str = "auto", batch_size: int | None = None
) -> SmoothedClassifier:
    """What :meth:`SmoothedClassifier.save` or the command ``bundle`` wrote.

    A converted bundle runs no code of its own. One for torch may name a factory
    (``python:MODULE:FACTORY``), which is imported and called as if its spec had been typed.

    Args:
        folder: of the bundle.
        device, batch_size: as of :class:`SmoothedClassifier`.

    Raises:
        WeightsError: a file is altered or missing, of a newer format, or of other code.
        SettingError: another version of the engine is installed.
        SpecError: the spec of the classifier or the denoiser names nothing here.
    """
    bundle = read_bundle(folder)
    made: dict[str, Any] = {}
    for role in missing_roles(folder, bundle):
        spec = getattr(bundle, role)
        made[role] = _without_weights(spec) if role == "classifier" else load_denoiser(spec)
        if role == "classifier":
            restore_form(made[role], folder)
    return SmoothedClassifier.load(folder, **made, device=device, batch_size=batch_size)


def _without_weights(spec: str) -> Classifier:
    """The classifier of a spec, whose weights come from elsewhere: none are fetched."""
    scheme, _, rest = spec.partition(":")
    if scheme != "torchvision":
        return load_classifier(spec)
    from denoised_smoothing.models.classifiers.torchvision import load_torchvision

    name, _, weights = rest.partition(":")
    classifier = load_torchvision(name, weights="none")
    if weights != "none" and hasattr(classifier.network, "transform_input"):
        vars(classifier.network)["transform_input"] = True  # as with all published weights
    return classifier


def shipped_classifiers() -> dict[str, Path]:
    """Names and files of the classifiers that ship with the package, for the demo."""
    return {path.stem: path for path in sorted(shipped_folder("classifiers").glob("*.safetensors"))}


def list_classifiers() -> list[dict[str, str]]:
    """What ``--classifier`` takes: bundled ones, the sources of specs, and remote ones."""
    bundled = [{"spec": name, "what": "bundled", "missing": ""} for name in shipped_classifiers()]
    remote = [{"spec": form, "what": "remote", "missing": ""} for form in REMOTE_FORMS]
    return [*bundled, *list_sources(Role.CLASSIFIER), *remote]


def list_denoisers() -> list[dict[str, str]]:
    """What ``--denoiser`` takes: bundled ones with their cards, and the sources of specs."""
    bundled = []
    for name, path in shipped_denoisers().items():
        _, card = load_weights(path)
        levels = "-".join(sorted({card["sigma_min"], card["sigma_max"]}))
        what = f"bundled: {card['architecture']}, sigma {levels}, {card['objective']}"
        bundled.append({"spec": name, "what": f"{what}, trained on {card['data']}", "missing": ""})
    none = {"spec": "none", "what": "no denoiser", "missing": ""}
    return [*bundled, none, *list_sources(Role.DENOISER)]


def list_datasets() -> list[dict[str, str]]:
    """What DATA takes: the sources of specs, and image files."""
    image = {"spec": "IMAGE", "what": "an image file", "missing": ""}
    return [*list_sources(Role.DATASET), image]


def _callable(made: object, spec: str) -> Any:
    if not callable(made):
        raise SpecError(
            f"{spec!r}: its source returned {type(made).__name__}, which cannot be called on images"
        )
    return made


def _made_by(spec: Spec) -> Any:
    """What the factory of ``MODULE:FACTORY`` returns; modules of the working folder are found."""
    module_name, _, factory_name = spec.rest.partition(":")
    if not module_name or not factory_name:
        raise SpecError(f"{spec.text!r} is not complete; write python:MODULE:FACTORY")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        factory = getattr(importlib.import_module(module_name), factory_name, None)
    except (ImportError, TypeError) as error:  # TypeError: a name that begins with a dot
        raise SpecError(
            f"{spec.text!r}: module {module_name!r} cannot be imported ({error}); install it, or "
            "run in the folder that holds it"
        ) from error
    else:
        made = _call(factory, spec.text) if callable(factory) else None
    finally:
        sys.path.remove(folder)
    if not callable(factory):
        raise SpecError(
            f"{spec.text!r}: module {module_name!r} has no function {factory_name!r}; name one "
            "without arguments that returns the classifier or denoiser"
        )
    if not callable(made):
        raise SpecError(
            f"{spec.text!r}: {factory_name}() returned {type(made).__name__}, which cannot be "
            "called on images"
        )
    return made


def _call(factory: Callable[[], Any], spec: str) -> Any:
    try:
        return factory()
    except DenoisedSmoothingError:
        raise
    except Exception as error:
        raise SpecError(
            f"{spec!r}: the factory failed with {type(error).__name__}: {error}; it is called "
            "without arguments and returns the classifier or denoiser"
        ) from error


def _mean_of(spec: Spec) -> MeanDenoiser:
    """The mean over ``DENOISER+DENOISER``, each a spec without options."""
    mirror = spec.options.get("mirror", "no")
    if mirror not in ("yes", "no"):
        raise SpecError(f"{spec.text!r}: mirror is yes or no, got {mirror!r}")
    denoisers: list[DenoiserNetwork] = []
    parts = spec.rest.split("+")
    if not all(parts) or len(set(parts)) < len(parts):
        raise SpecError(
            f"{spec.text!r}: between its plus signs stand different denoisers, and their paths "
            "hold none; write mean:DENOISER+DENOISER"
        )
    for part in parts:
        try:
            denoiser = load_denoiser(part)
        except (SpecError, WeightsError) as error:
            raise SpecError(f"{spec.text!r}, of which {part!r} is a part: {error}") from error
        if not isinstance(denoiser, DenoiserNetwork):
            raise SpecError(
                f"{spec.text!r}: {part!r} is no denoiser of this package; name bundled ones, or "
                "files of unet, dncnn or memnet"
            )
        denoisers.append(denoiser)
    try:
        return MeanDenoiser(denoisers, mirror=mirror == "yes").eval()
    except SettingError as error:
        raise SpecError(f"{spec.text!r}: {error}") from error


MEAN = Source(
    _mean_of,
    "mean:DENOISER+DENOISER[?mirror=yes]",
    "the mean answer behind several, and to mirror images",
    options=("mirror",),
)
PYTHON = Source(_made_by, "python:MODULE:FACTORY", "what FACTORY() returns")
