"""Spec strings to objects: the one place where ``scheme:rest`` is taken apart."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from denoised_smoothing.bundles import missing_roles, read_bundle, restore_form
from denoised_smoothing.classifiers import CIFAR_RESNET, load_cifar_resnet
from denoised_smoothing.classifiers.remote.specs import REMOTE_FORMS, is_remote, load_remote
from denoised_smoothing.denoisers import (
    ARCHITECTURES,
    bundled_denoisers,
    bundled_folder,
    check_shipped,
    load_bundled_denoiser,
    load_denoiser_file,
)
from denoised_smoothing.errors import DenoisedSmoothingError, SpecError
from denoised_smoothing.interfaces import Classifier, Denoiser
from denoised_smoothing.smoothing import SmoothedClassifier
from denoised_smoothing.weights import load_weights

CLASSIFIER_FORMS = (
    "torchvision:NAME[:WEIGHTS]",
    "cifar-resnetDEPTH:FILE.safetensors",
    "python:MODULE:FACTORY",
    *REMOTE_FORMS,
)
DENOISER_FORMS = (*(f"{name}:FILE.safetensors" for name in ARCHITECTURES), "python:MODULE:FACTORY")
DATA_FORMS = (
    "digits[:train|test|all]",
    "cifar10[:train|test][:FOLDER]",
    "folder:PATH",
    "parquet:FILE",
    "IMAGE",
)


def load_classifier(spec: str) -> Classifier:
    """The classifier that a spec names.

    Args:
        spec: a bundled name (``digits``), ``cifar-resnet56:FILE.safetensors`` (any depth
            6n + 2), ``torchvision:NAME`` with its default weights, ``torchvision:NAME:WEIGHTS``
            with those of the enumeration, of a safetensors file, or ``none`` for random ones,
            ``python:MODULE:FACTORY`` for whatever FACTORY() returns, or a remote one
            (:func:`~denoised_smoothing.classifiers.remote.specs.load_remote`).

    Raises:
        SpecError: nothing known by that name; suggests the nearest.
        WeightsError: the weights file is missing or does not fit.
        MissingExtraError: an optional package is needed.
    """
    scheme, _, rest = spec.partition(":")
    if spec in bundled_classifiers():
        path = bundled_classifiers()[spec]
        check_shipped(path)
        return load_cifar_resnet(path, depth=None)
    if match := CIFAR_RESNET.fullmatch(scheme):
        return load_cifar_resnet(_needed(rest, spec, CLASSIFIER_FORMS), int(match["depth"]))
    if scheme == "torchvision":
        from denoised_smoothing.classifiers.torchvision import load_torchvision

        name, _, weights = _needed(rest, spec, CLASSIFIER_FORMS).partition(":")
        return load_torchvision(name, weights=weights or "DEFAULT")
    if scheme == "python":
        made: Classifier = _made_by(rest, spec)
        return made
    if is_remote(spec):
        return load_remote(spec)
    raise _unknown("classifier", spec, bundled_classifiers(), CLASSIFIER_FORMS)


def load_denoiser(spec: str) -> Denoiser | None:
    """The denoiser that a spec names; None for ``none``.

    Args:
        spec: ``none``, a bundled name, ``ARCHITECTURE:FILE.safetensors`` with dncnn,
            dncnn-wide, memnet or unet, or ``python:MODULE:FACTORY``.

    Raises:
        SpecError: nothing known by that name; suggests the nearest.
        WeightsError: the weights file is missing, of another architecture, or bundled and not
            as it was shipped.
    """
    scheme, _, rest = spec.partition(":")
    if spec == "none":
        return None
    if spec in bundled_denoisers():
        return load_bundled_denoiser(spec)
    if scheme in ARCHITECTURES:
        return load_denoiser_file(_needed(rest, spec, DENOISER_FORMS), scheme)
    if scheme == "python":
        made: Denoiser = _made_by(rest, spec)
        return made
    raise _unknown("denoiser", spec, ["none", *bundled_denoisers()], DENOISER_FORMS)


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
    from denoised_smoothing.classifiers.torchvision import load_torchvision

    name, _, weights = rest.partition(":")
    classifier = load_torchvision(name, weights="none")
    if weights != "none" and hasattr(classifier.network, "transform_input"):
        vars(classifier.network)["transform_input"] = True  # as with all published weights
    return classifier


def bundled_classifiers() -> dict[str, Path]:
    """Names and files of the classifiers that ship with the package, for the demo."""
    return {path.stem: path for path in sorted(bundled_folder("classifiers").glob("*.safetensors"))}


def list_classifiers() -> list[dict[str, str]]:
    """What ``--classifier`` takes: bundled ones, and the forms of a spec."""
    return [
        *({"spec": name, "what": "bundled"} for name in bundled_classifiers()),
        *({"spec": form, "what": "form"} for form in CLASSIFIER_FORMS),
    ]


def list_denoisers() -> list[dict[str, str]]:
    """What ``--denoiser`` takes: bundled ones with their cards, and the forms of a spec."""
    bundled = []
    for name, path in bundled_denoisers().items():
        _, card = load_weights(path)
        levels = "-".join(sorted({card["sigma_min"], card["sigma_max"]}))
        what = f"bundled: {card['architecture']}, sigma {levels}, {card['objective']}"
        bundled.append({"spec": name, "what": f"{what}, trained on {card['data']}"})
    forms = ({"spec": form, "what": "form"} for form in ("none", *DENOISER_FORMS))
    return [*bundled, *forms]


def list_datasets() -> list[dict[str, str]]:
    """What DATA takes."""
    return [{"spec": form, "what": "form"} for form in DATA_FORMS]


def _needed(rest: str, spec: str, forms: Iterable[str]) -> str:
    if not rest:
        form = next(f for f in forms if re.split(r"[:A-Z\[]", f)[0] == re.split(r"[:\d]", spec)[0])
        raise SpecError(f"{spec!r} is not complete; write {form}")
    return rest


def _made_by(rest: str, spec: str) -> Any:
    """What the factory of ``MODULE:FACTORY`` returns; modules of the working folder are found."""
    module_name, _, factory_name = rest.partition(":")
    if not module_name or not factory_name:
        raise SpecError(f"{spec!r} is not complete; write python:MODULE:FACTORY")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        factory = getattr(importlib.import_module(module_name), factory_name, None)
    except (ImportError, TypeError) as error:  # TypeError: a name that begins with a dot
        raise SpecError(
            f"{spec!r}: module {module_name!r} cannot be imported ({error}); install it, or run "
            "in the folder that holds it"
        ) from error
    else:
        made = _call(factory, spec) if callable(factory) else None
    finally:
        sys.path.remove(folder)
    if not callable(factory):
        raise SpecError(
            f"{spec!r}: module {module_name!r} has no function {factory_name!r}; name one without "
            "arguments that returns the classifier or denoiser"
        )
    if not callable(made):
        raise SpecError(
            f"{spec!r}: {factory_name}() returned {type(made).__name__}, which cannot be called "
            "on images"
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


def _unknown(role: str, spec: str, names: Iterable[str], forms: Iterable[str]) -> SpecError:
    schemes = {form.split(":")[0].removesuffix("DEPTH"): form for form in forms}
    known = {**{name: name for name in names}, **schemes}
    nearest = difflib.get_close_matches(spec.split(":")[0], known, n=1, cutoff=0.5)
    hint = f"did you mean {known[nearest[0]]}? " if nearest else ""
    return SpecError(f"unknown {role} {spec!r}; {hint}Known: {', '.join(known.values())}")
