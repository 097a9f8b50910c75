"""The record of an exported bundle: its fields, and the check of each value.

Someone else may have written the record, so nothing in it is used before it has the expected type
and range.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from denoised_smoothing.certificates.fields import quoted
from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision

MODEL = "model"
"""The folder of a converted model."""
CONVERTED = (EngineName.OPENVINO, EngineName.ONNXRUNTIME)
"""Engines whose bundles hold a converted model."""
COPY_AGAIN = "Copy the bundle again from where it was written."

_LARGEST_BATCH = 2**31
"""Largest number of values in a forward pass, C * H * W for each of its copies."""
_SHORT, _LONG = 10_000, 1_000_000
_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Characters that no text of a record holds: control characters, and what UTF-8 cannot encode."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CALIBRATION = re.compile(r"calibration\w{0,50}", re.ASCII)
_FILES = {
    EngineName.OPENVINO: rf"{MODEL}/model\.(xml|bin)",
    EngineName.ONNXRUNTIME: rf"{MODEL}/model\.onnx(\.data)?",
}
"""Files of a bundle by its engine; those of torch are :data:`_WEIGHTS`."""
_WEIGHTS = r"(classifier|denoiser)\.safetensors"
_NEEDED = {
    EngineName.OPENVINO: (f"{MODEL}/model.xml", f"{MODEL}/model.bin"),
    EngineName.ONNXRUNTIME: (f"{MODEL}/model.onnx",),
}


@dataclass(frozen=True)
class Bundle:
    """The content of ``bundle.json``, except for the files.

    ``shape`` is that of an image [C, H, W], ``resolution`` the side to which images are resized,
    ``classifier`` and ``denoiser`` are specs, ``calibration`` is what a run records of it, and
    ``notes`` are those of the certificates.
    """

    sigma: float
    noise: Noise
    shape: tuple[int, int, int]
    resolution: int | None
    engine: EngineName
    engine_version: str
    precision: Precision
    forward: int
    label_names: tuple[str, ...] | None
    classifier: str
    classifier_fingerprint: str
    denoiser: str
    denoiser_fingerprint: str
    calibration: dict[str, str]
    model_digest: str | None = None
    stochastic: bool = False
    notes: tuple[str, ...] = ()

    @property
    def converted(self) -> bool:
        """Whether it holds a converted model, which needs neither classifier nor denoiser."""
        return self.engine in CONVERTED

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in ``bundle.json``."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def parse_bundle(fields: Mapping[str, Any]) -> Bundle:
    """Return the bundle that a record describes, without format, files and checksum.

    Args:
        fields: values of JSON by name.

    Raises:
        ValueError: a field is missing or unknown, or a value has another type or is out of its
            range; the message says which, what was expected, and the value.
    """
    if unknown := sorted(fields.keys() - _FIELDS.keys()):
        raise ValueError(f"the field {quoted(unknown[0])} is not known")
    found = {}
    for name, (expected, holds, convert) in _FIELDS.items():
        if name in fields:
            value = fields[name]
            if not holds(value):
                raise ValueError(f"{name} must be {expected}, got {quoted(value)}")
            found[name] = convert(value)
        elif name not in _OPTIONAL:
            raise ValueError(f"{name} is missing, which must be {expected}")
    bundle = Bundle(**found)
    _check_together(bundle)
    return bundle


def parse_files(files: Any, bundle: Bundle) -> dict[str, str]:
    """Return the SHA-256 of each file of a bundle by its name, as the record lists them.

    A bundle holds weights or a converted model, and no other file.

    Raises:
        ValueError: they are not names with checksums, a name is not one that a bundle of this
            engine has, or one is missing.
    """
    if not isinstance(files, dict):
        raise ValueError(f"files must be an object of names and SHA-256, got {quoted(files)}")
    allowed = re.compile(_FILES.get(bundle.engine, _WEIGHTS))
    for name, checksum in files.items():
        if not allowed.fullmatch(name):
            raise ValueError(
                f"files of a bundle for {bundle.engine.value} must be the files that 'bundle' "
                f"writes for it, got {quoted(name)}"
            )
        if not _is_sha256(checksum):
            raise ValueError(
                f"files must give the SHA-256 of {name} as 64 hexadecimal digits, got "
                f"{quoted(checksum)}"
            )
    if missing := [name for name in _NEEDED.get(bundle.engine, ()) if name not in files]:
        raise ValueError(f"files must list {missing[0]}, got {quoted(sorted(files))}")
    return files


def is_names(value: Any) -> bool:
    """Return whether a value of JSON is a list of label names."""
    return _is_list(value, _LONG) and all(_is_text(name, 0, _SHORT) for name in value)


def is_whole(value: Any, least: int, most: int) -> bool:
    """Return whether a value of JSON is a whole number in a range, both ends included."""
    return type(value) is int and least <= value <= most


def _check_together(bundle: Bundle) -> None:
    """Refuse values that fit their fields, but not each other.

    Raises:
        ValueError: says which.
    """
    channels, height, width = bundle.shape
    side = height if height == width else None
    if bundle.resolution != side:
        raise ValueError(
            f"resolution must be {side} for images of shape {list(bundle.shape)}, got "
            f"{bundle.resolution}"
        )
    most = _LARGEST_BATCH // (channels * height * width)
    if bundle.forward > most:
        raise ValueError(
            f"forward must be at most {most} copies for images of shape {list(bundle.shape)}, got "
            f"{bundle.forward}"
        )
    if bundle.converted != (bundle.model_digest is not None):
        expected = "64 hexadecimal digits" if bundle.converted else "null"
        raise ValueError(
            f"model_digest must be {expected} for the engine {bundle.engine.value}, got "
            f"{bundle.model_digest}"
        )
    if bundle.calibration and bundle.precision is not Precision.INT8:
        raise ValueError(
            f"calibration must be empty for the precision {bundle.precision.value}, got "
            f"{quoted(bundle.calibration)}"
        )


def _is_text(value: Any, least: int, most: int) -> bool:
    return (
        isinstance(value, str) and least <= len(value) <= most and _UNUSABLE.search(value) is None
    )


def _is_list(value: Any, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_sigma(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= _LONG  # false for NaN


def _is_shape(value: Any) -> bool:
    return (
        _is_list(value, 3)
        and len(value) == 3
        and all(is_whole(side, 1, _LARGEST_BATCH) for side in value)
        and value[0] in (1, 3)
        and math.prod(value) <= _LARGEST_BATCH
    )


def _is_calibration(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _CALIBRATION.fullmatch(name) and _is_text(text, 0, _SHORT) for name, text in value.items()
    )


def _same(value: Any) -> Any:
    return value


_Field = tuple[str, Callable[[Any], bool], Callable[[Any], Any]]
"""What a field must be, a function that says whether a value of JSON is that, and a conversion."""


def _name(kind: type[EngineName] | type[Noise] | type[Precision], *without: str) -> _Field:
    names = [member.value for member in kind if member not in without]
    return " or ".join(names), lambda value: isinstance(value, str) and value in names, kind


def _text(what: str, most: int) -> _Field:
    expected = f"{what} as text of 1 to {most} characters"
    return expected, lambda value: _is_text(value, 1, most), _same


def _optional(field: _Field) -> _Field:
    expected, holds, convert = field
    return (
        f"{expected}, or null",
        lambda value: value is None or holds(value),
        lambda value: None if value is None else convert(value),
    )


_FINGERPRINT: _Field = "64 hexadecimal digits", _is_sha256, _same
_FIELDS: dict[str, _Field] = {
    "sigma": (f"a number above 0 and at most {_LONG}", _is_sigma, float),
    "noise": _name(Noise),
    "shape": (
        f"[C, H, W] with 1 or 3 channels and at most {_LARGEST_BATCH} values", _is_shape, tuple,
    ),
    "resolution": _optional(
        (
            "a whole number of pixels above 0",
            lambda value: is_whole(value, 1, _LARGEST_BATCH),
            _same,
        )
    ),
    "engine": _name(EngineName, EngineName.AUTO),
    "engine_version": _text("a version", 100),
    "precision": _name(Precision),
    "forward": (
        "a whole number of copies from 1 to 65536", lambda value: is_whole(value, 1, 65536), _same,
    ),
    "label_names": _optional((f"a list of texts of at most {_SHORT} characters", is_names, tuple)),
    "classifier": _text("a spec", _LONG),
    "classifier_fingerprint": _FINGERPRINT,
    "denoiser": _text("a spec", _LONG),
    "denoiser_fingerprint": _FINGERPRINT,
    "calibration": ("texts by names that begin with calibration", _is_calibration, _same),
    "model_digest": _optional(_FINGERPRINT),
    "stochastic": ("true or false", lambda value: isinstance(value, bool), _same),
    "notes": (
        f"a list of at most 100 texts of at most {_SHORT} characters",
        lambda value: _is_list(value, 100) and all(_is_text(text, 0, _SHORT) for text in value),
        tuple,
    ),
}  # fmt: skip
_OPTIONAL = ("model_digest", "stochastic", "notes")
"""Fields that earlier versions did not write."""
