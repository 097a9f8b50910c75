"""Exported bundles: a folder with the whole pipeline, to deploy exactly what was certified.

    bundle.json             its settings, with the SHA-256 of every file, and its own
    model/                  the converted pipeline (openvino, onnxruntime), or with engine torch
    classifier.safetensors  the classifier's weights
    denoiser.safetensors    the denoiser's

Nothing in it is a pickle, and nothing in it is code. A torch bundle makes classifier and denoiser
from their specs, unless their files define them. A spec that runs code, such as
``python:MODULE:FACTORY``, or that sends queries is refused there: the caller makes its object.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from denoised_smoothing.certificates.fields import quoted
from denoised_smoothing.engines.engine import Engine
from denoised_smoothing.engines.prepared import PreparedPipeline, check_shape, stated_channels
from denoised_smoothing.errors import SettingError, SpecError
from denoised_smoothing.models.catalogue import names_only_data
from denoised_smoothing.models.denoisers.trained_range import range_notes
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.models.specs import Role
from denoised_smoothing.smoothing.bundle_file import read_bundle, write_bundle
from denoised_smoothing.smoothing.bundle_parts import (
    ConvertedPipeline,
    load_engine,
    load_part,
    needs_spec,
    save_parts,
)
from denoised_smoothing.smoothing.bundle_record import CONVERTED, Bundle

UNNAMED = "unnamed"
"""The spec of a classifier or denoiser that has none."""


def save_bundle(
    folder: str | Path,
    prepared: PreparedPipeline,
    shape: tuple[int, int, int],
    classifier: tuple[Classifier, str | None],
    denoiser: tuple[Callable[..., Tensor] | None, str | None],
) -> None:
    """Write a bundle for images of a shape [C, H, W] to a new folder.

    The classifier and the denoiser come with the spec that makes each, or None.

    Raises:
        SettingError: the folder exists, or a spec is needed.
    """
    # Before the engine runs: a module may keep what it has computed.
    fingerprints = [fingerprint(part) for part, _ in (classifier, denoiser)]
    choice, (_, height, width) = prepared.engine_for(np.full(shape, 128 / 255, np.float32)), shape
    engine = choice.engine
    specs = {
        role: _spec_to_write(role, part, spec, engine)
        for role, (part, spec) in (("classifier", classifier), ("denoiser", denoiser))
    }
    bundle = Bundle(
        sigma=prepared.pipeline.sigma,
        noise=prepared.noise,
        shape=shape,
        resolution=height if height == width else None,
        engine=engine.name,
        engine_version=engine.version(),
        precision=engine.precision,
        forward=choice.forward,
        label_names=getattr(classifier[0], "label_names", None),
        classifier=specs["classifier"],
        classifier_fingerprint=fingerprints[0],
        denoiser=specs["denoiser"],
        denoiser_fingerprint=fingerprints[1],
        calibration=prepared.calibration,
        model_digest=engine.identity().get("model_digest"),
        stochastic=prepared.stochastic,
        notes=range_notes(denoiser[0], prepared.pipeline.sigma),
    )
    write_bundle(
        Path(folder), bundle, lambda part: save_parts(part, engine, classifier[0], denoiser[0])
    )


def _spec_to_write(role: str, part: object, spec: str | None, engine: Engine) -> str:
    """Return the spec of a classifier or denoiser for the record of a bundle.

    A converted model needs no spec, so any is recorded. With torch, one that runs code is left out
    if a file of the bundle defines the part.

    Raises:
        SettingError: no file of the bundle defines the part, and it has no spec.
    """
    if part is None:
        return "none"
    if engine.name in CONVERTED:
        return spec or UNNAMED
    if not needs_spec(part):
        return spec if spec and names_only_data(Role[role.upper()], spec) else UNNAMED
    if spec is None:
        raise SettingError(
            f"A bundle for {engine.name.value} holds the weights of the {role}, "
            f"{type(part).__name__}, but not its code. Name the spec that makes it, "
            f"{role}='python:MODULE:FACTORY', or use an engine that converts it, such as "
            "openvino."
        )
    return spec


def specs_of_code(bundle: Bundle) -> dict[str, str]:
    """Return the specs of ``classifier`` and ``denoiser`` that run code or send queries.

    They are not loaded because a bundle names them. That of a converted model loads no spec at all.
    """
    if bundle.converted:
        return {}
    specs = {"classifier": bundle.classifier, "denoiser": bundle.denoiser}
    return {
        role: spec for role, spec in specs.items() if not names_only_data(Role[role.upper()], spec)
    }


def shape_of(
    prepared: PreparedPipeline, channels: int | None, resolution: int | None
) -> tuple[int, int, int]:
    """Return the image shape [C, H, W] of the calibration images, or else of the classifier.

    Raises:
        SettingError: neither states it.
    """
    if prepared.calibration_shape is not None:
        return prepared.calibration_shape
    if channels is None or resolution is None:
        raise SettingError(
            "A bundle is for images of one shape, and the classifier does not state it: its "
            f"channels are {channels} and its resolution is {resolution}. Set shape=(C, H, W), on "
            "the command line --resolution or --calibration."
        )
    return channels, resolution, resolution


def open_bundle(
    folder: str | Path, classifier: Any = None, denoiser: Any = None
) -> tuple[Bundle, Classifier, Callable[..., Tensor] | None, Engine | None]:
    """Check a bundle, and load its classifier, its denoiser and the engine of a converted model.

    Arguments and errors are those of :meth:`SmoothedClassifier.load`.
    """
    folder, bundle = Path(folder), read_bundle(folder)
    parts = {"classifier": classifier, "denoiser": denoiser}
    for role, spec in specs_of_code(bundle).items():
        if parts[role] is None:
            raise SpecError(
                f"The bundle {folder} names the {role} {quoted(spec)}, which runs code or sends "
                "queries. A bundle brings no code, and none is run because a bundle names it. If "
                f"you know and trust this {role}, name it yourself: --{role} next to --bundle, or "
                f"SmoothedClassifier.load(..., {role}=...). Or export the bundle with an engine "
                "that converts the model, such as openvino."
            )
    engine = load_engine(folder, bundle)
    if engine is not None:
        return bundle, ConvertedPipeline(engine, bundle), None, engine
    classifier, denoiser = (load_part(folder, bundle, role, parts[role]) for role in parts)
    channels = stated_channels(classifier, denoiser)
    check_shape(bundle.shape, channels, denoiser, name=f"an image for the bundle {folder}")
    return bundle, classifier, denoiser, None
