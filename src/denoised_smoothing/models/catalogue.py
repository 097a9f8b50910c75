"""Names and spec strings to objects; the sources of specs register by entry points."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from denoised_smoothing.errors import (
    DenoisedSmoothingError,
    SettingError,
    SpecError,
    WeightsError,
)
from denoised_smoothing.models.shipped import (
    check_checksum,
    load_shipped_denoiser,
    shipped_classifiers,
    shipped_denoisers,
)
from denoised_smoothing.models.specs import (
    Role,
    Source,
    Spec,
    has_source,
    list_sources,
    open_spec,
    remember_spec,
    resolve,
    unknown,
)

_SIGMA_OF = dict.fromkeys(
    ("dncnn", "dncnn-wide", "memnet", "unet", "multiscale-unet"), "in the file"
) | {
    "diffusers": "of the model",
    "mean": "common to all",
}
"""Where denoisers of a scheme state the range of sigma; others may not state it at all."""

if TYPE_CHECKING:  # so that models are listed without torch
    from denoised_smoothing.models.denoisers.base import DenoiserNetwork
    from denoised_smoothing.models.denoisers.ensemble import MeanDenoiser
    from denoised_smoothing.models.protocols import Classifier, Denoiser


def load_classifier(spec: str) -> Classifier:
    """Return the classifier that a spec names.

    Args:
        spec: a shipped name (``digits``), or ``SCHEME:REST?NAME=VALUE`` with a scheme of
            :func:`list_classifiers`, such as ``torchvision:resnet50``, ``timm:FOLDER``,
            ``hf:NAME``, ``onnx:FILE?mean=0.5,0.5,0.5``, ``cifar-resnet56:FILE.safetensors``,
            ``python:MODULE:FACTORY`` for whatever FACTORY() returns, or a remote one, such as
            ``aws?size=96`` or ``http:URL?label=JMESPATH``.

    Raises:
        SpecError: nothing known has that name; suggests the nearest.
        WeightsError: the weights are missing or do not fit.
        MissingExtraError: an optional package is needed.
    """
    from denoised_smoothing.models.classifiers.cifar_resnet import load_cifar_resnet

    shipped = shipped_classifiers()
    if spec in shipped:
        check_checksum(shipped[spec])
        return remember_spec(load_cifar_resnet(shipped[spec], depth=None), spec)
    classifier: Classifier = _opened(Role.CLASSIFIER, spec, list(shipped))
    return classifier


def load_denoiser(spec: str) -> Denoiser | None:
    """Return the denoiser that a spec names; None for ``none``.

    Args:
        spec: ``none``, a shipped name, or ``SCHEME:REST?NAME=VALUE`` with a scheme of
            :func:`list_denoisers`, such as ``unet:FILE.safetensors``, ``diffusers:FOLDER`` or
            ``python:MODULE:FACTORY``.

    Raises:
        SpecError: nothing known has that name; suggests the nearest.
        WeightsError: the weights are missing, of another architecture, or shipped and altered.
        MissingExtraError: an optional package is needed.
    """
    if spec == "none":
        return None
    shipped = shipped_denoisers()
    if spec in shipped:
        return remember_spec(load_shipped_denoiser(spec), spec)
    denoiser: Denoiser = _opened(Role.DENOISER, spec, ["none", *shipped])
    return denoiser


def names_only_data(role: Role, spec: str, *, is_part: bool = False) -> bool:
    """Return whether loading a spec runs no code and asks no server that the spec chooses.

    Only such a spec is loaded because a bundle names it. Each part of ``mean:`` must be one. A spec
    that :func:`~denoised_smoothing.models.specs.resolve` refuses is harmless, as it loads nothing.

    Args:
        is_part: whether it is a part of ``mean:``, which no other mean may be.
    """
    if spec in (shipped_classifiers() if role is Role.CLASSIFIER else shipped_denoisers()):
        return True
    try:
        if not has_source(role, spec):
            return True
        source, parsed = resolve(role, spec)
    except SpecError:
        return True
    if source is MEAN:
        parts = parsed.rest.split("+")
        return not is_part and all(names_only_data(role, part, is_part=True) for part in parts)
    return source.in_bundles


def _opened(role: Role, spec: str, names: Sequence[str]) -> Any:
    """Return what the source of a spec loads; ``names`` are those that need no source."""
    if not has_source(role, spec):
        raise unknown(role, spec, names)
    made = open_spec(role, spec)
    if not callable(made):
        raise SpecError(
            f"{spec!r}: its source or factory must return a callable on images, "
            f"got {type(made).__name__}"
        )
    return remember_spec(made, spec)


def list_classifiers() -> list[dict[str, str]]:
    """Return the rows of ``list``: shipped classifiers, and the sources of specs."""
    shipped = [{"spec": name, "what": "shipped", "missing": ""} for name in shipped_classifiers()]
    return [*shipped, *list_sources(Role.CLASSIFIER)]


def list_denoisers() -> list[dict[str, str]]:
    """Return the rows of ``list``: shipped denoisers with their cards, and the sources of specs.

    ``sigma`` is the range for which a denoiser was trained, or where it is stated.
    """
    rows = []
    for name, path in shipped_denoisers().items():
        with safe_open(path, "numpy") as file:
            card = file.metadata()
        what = f"shipped: {card['architecture']}, {card['objective']}, trained on {card['data']}"
        levels = f"{card['sigma_min']} to {card['sigma_max']}"
        rows.append({"spec": name, "what": what, "sigma": levels, "missing": ""})
    rows.append({"spec": "none", "what": "no denoiser", "sigma": "any", "missing": ""})
    for row in list_sources(Role.DENOISER):
        known = _SIGMA_OF.get(row["spec"].partition(":")[0], "unknown")
        rows.append({**row, "sigma": known, "missing": row["missing"]})
    return rows


def list_datasets() -> list[dict[str, str]]:
    """Return the rows of ``list``: the sources of data specs, and image files."""
    image = {"spec": "IMAGE", "what": "an image file", "missing": ""}
    return [*list_sources(Role.DATASET), image]


def _made_by(spec: Spec) -> Any:
    """Return what the factory of ``MODULE:FACTORY`` returns; the working folder is searched."""
    module, _, name = spec.rest.partition(":")
    if not module or not name:
        raise SpecError(f"{spec.text!r} is not complete. Write python:MODULE:FACTORY")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        factory = getattr(importlib.import_module(module), name, None)
    except (ImportError, TypeError) as error:  # TypeError: a name that begins with a dot
        raise SpecError(
            f"{spec.text!r}: module {module!r} cannot be imported ({error}). Install it, or run "
            "in the folder that holds it."
        ) from error
    else:
        if not callable(factory):
            raise SpecError(
                f"{spec.text!r}: module {module!r} has no function {name!r}. Name one without "
                "arguments that returns the classifier or denoiser."
            )
        try:
            return factory()
        except DenoisedSmoothingError:
            raise
        except Exception as error:
            raise SpecError(
                f"{spec.text!r}: the factory failed with {type(error).__name__}: {error}. It is "
                "called without arguments, and must return the classifier or denoiser."
            ) from error
    finally:
        sys.path.remove(folder)


def _mean_of(spec: Spec) -> MeanDenoiser:
    """Return the mean over ``DENOISER+DENOISER``, each a spec without options."""
    from denoised_smoothing.models.denoisers.base import DenoiserNetwork
    from denoised_smoothing.models.denoisers.ensemble import MeanDenoiser

    mirror, parts = spec.options.get("mirror", "no"), spec.rest.split("+")
    if mirror not in ("yes", "no"):
        raise SpecError(f"{spec.text!r}: mirror must be yes or no, got {mirror!r}")
    if not all(parts) or len(set(parts)) < len(parts):
        raise SpecError(
            f"{spec.text!r} must name different denoisers between plus signs, whose paths contain "
            "no plus sign. Write mean:DENOISER+DENOISER"
        )
    denoisers: list[DenoiserNetwork] = []
    for part in parts:
        try:
            denoiser = load_denoiser(part)
        except (SpecError, WeightsError) as error:
            raise SpecError(f"{spec.text!r}, part {part!r}: {error}") from error
        if not isinstance(denoiser, DenoiserNetwork):
            raise SpecError(
                f"{spec.text!r}: {part!r} is not a denoiser of this package. Name shipped ones, "
                "or files of unet, multiscale-unet, dncnn or memnet."
            )
        denoisers.append(denoiser)
    try:
        return MeanDenoiser(denoisers, mirror=mirror == "yes").eval()
    except SettingError as error:
        raise SpecError(f"{spec.text!r}: {error}") from error


MEAN = Source(
    _mean_of,
    "mean:DENOISER+DENOISER[?mirror=yes]",
    "the mean logits of several denoisers and mirrored images",
    options=("mirror",),
)
PYTHON = Source(_made_by, "python:MODULE:FACTORY", "the return value of FACTORY()")
