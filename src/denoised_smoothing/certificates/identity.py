"""The identity of a certificate: which model it is about, and which image."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any

from denoised_smoothing.certificates.fields import Fields, is_whole
from denoised_smoothing.text import shown

_SHA256 = re.compile(r"[0-9a-f]{64}")


def package_version() -> str:
    """Return the version of this package."""
    return metadata.version("denoised-smoothing")


_OF_MACHINE = ("engine_version", "processor", "forward_shape", "model_digest", "calibration")


def machine_of(record: Mapping[str, Any]) -> str | None:
    """Return on what the last bits of answers depend, as text: versions, processor, batch.

    Args:
        record: the settings of a run, or what a prepared pipeline records of its engine.

    Returns:
        None for a record without an engine.
    """
    known = [f"{name} {record[name]}" for name in _OF_MACHINE if record.get(name) is not None]
    return shown("; ".join(known)) if "engine_version" in record else None


@dataclass(frozen=True)
class Identity:
    """What a certificate is about, so that someone else can check it.

    Nothing in it follows from the counts: reading checks its types only. A fingerprint is a hash of
    code, weights and settings (:mod:`denoised_smoothing.models.fingerprints`).

    Args:
        classifier, denoiser: the specs that load them; "none" for no denoiser, and the name of its
            type for an object that no spec loaded.
        classifier_fingerprint, denoiser_fingerprint: SHA-256, in hex.
        image_sha256: SHA-256, in hex, of the pixels that were certified: of the text of the shape,
            such as ``(3, 32, 32)``, followed by the values in the order [C, H, W]: one byte each
            where all are on the 8-bit grid, else little-endian float32, without -0.0.
        label_name: the name of the certified label; None without one, or for an abstention.
        resolution: the side in pixels to which the image was resized and cropped before the noise;
            None if it was not.
        image_shape: of the certified image [C, H, W]; None if it was not recorded.
        version: of the package that counted; "unknown" if it was not recorded.
        noise_stream: what drew the noise, "cpu" or "cuda", whose numbers differ for one seed; None
            if it was not recorded.
        machine: on what the last bits of the answers depend (:func:`machine_of`); None if it was
            not recorded.
    """

    classifier: str
    classifier_fingerprint: str
    denoiser: str
    denoiser_fingerprint: str
    image_sha256: str
    label_name: str | None = None
    resolution: int | None = None
    image_shape: tuple[int, ...] | None = None
    version: str = field(default_factory=package_version)
    noise_stream: str | None = None
    machine: str | None = None

    def named(self, label: int | None, names: Sequence[str] | Mapping[int, str] | None) -> Identity:
        """Return the identity with the name of a label; ``names`` are in order or by number."""
        if label is None or names is None:
            return self
        if isinstance(names, Mapping):
            name = names.get(label)
        else:
            name = names[label] if label < len(names) else None
        return replace(self, label_name=None if name is None else shown(str(name)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the inverse of :meth:`from_dict`."""
        shape = None if self.image_shape is None else list(self.image_shape)
        return asdict(self) | {"image_shape": shape}

    @classmethod
    def from_dict(cls, values: Any) -> Identity:
        """Return the identity that :meth:`to_dict` wrote.

        Raises:
            MalformedCertificateError: a field is missing or unknown, or a value has another type.
        """
        fields = Fields(values, "identity")
        found = cls(
            classifier=fields.text("classifier"),
            classifier_fingerprint=_sha256(fields, "classifier_fingerprint"),
            denoiser=fields.text("denoiser"),
            denoiser_fingerprint=_sha256(fields, "denoiser_fingerprint"),
            image_sha256=_sha256(fields, "image_sha256"),
            label_name=fields.optional("label_name", fields.text),
            resolution=fields.optional("resolution", lambda name: fields.whole(name, 1)),
            image_shape=fields.optional("image_shape", lambda name: _shape(fields, name)),
            version=fields.text("version"),
            noise_stream=fields.optional("noise_stream", fields.text),
            machine=fields.optional("machine", fields.text),
        )
        fields.end()
        return found

    def fits(self, dimension: int) -> bool:
        """Return whether shape, resolution and a number of pixel values agree."""
        shape = self.image_shape
        if shape is None:
            return self.resolution is None or dimension % self.resolution**2 == 0
        sides = (self.resolution or shape[1], self.resolution or shape[2])
        return math.prod(shape) == dimension and shape[1:] == sides


def _sha256(fields: Fields, name: str) -> str:
    expected = "a SHA-256 of 64 hexadecimal digits"
    return str(
        fields.take(name, expected, lambda v: isinstance(v, str) and bool(_SHA256.fullmatch(v)))
    )


def _shape(fields: Fields, name: str) -> tuple[int, ...]:
    def holds(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 3 and all(is_whole(v, 1) for v in value)

    return tuple(fields.take(name, "a shape [C, H, W]", holds))
