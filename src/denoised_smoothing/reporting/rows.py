"""The rows of an export, and the image with its certificate that a row gives back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.fields import (
    AS_WRITTEN,
    LARGEST,
    Fields,
    parse_json,
    quoted,
    refused_as_malformed,
)
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.radii import format_down, round_down
from denoised_smoothing.certificates.reading import BOUNDS, check_derived, read_document
from denoised_smoothing.errors import MalformedCertificateError
from denoised_smoothing.reporting.results import ImageResult

if TYPE_CHECKING:
    from denoised_smoothing.store import RefusedImage

TSV_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
COLUMNS: dict[str, type] = {
    "idx": int, "label": int, "predict": int, "radius": float, "correct": int, "time": str,
    "image_id": str, "lower_bound": float, "sigma": float, "alpha": float,
    "n0": int, "n": int, "calls": int, "radius_l1": float, "radius_linf": float,
    "noise": str, "counts": dict, "refused": str,
    # what else a certificate rests on
    "upper_bound": float, "plan": dict, "dimension": int, "engine": str, "precision": str,
    "contract": str, "notes": list, "seed": str, "run": str, "format": int,
    # what it is about
    "classifier": str, "classifier_fingerprint": str,
    "denoiser": str, "denoiser_fingerprint": str,
    "noise_stream": str, "machine": str,
    "image_sha256": str, "label_name": str, "resolution": int, "image_shape": list, "version": str,
}  # fmt: skip
"""Columns of CSV and Parquet and the types of their values; objects and lists are JSON texts."""
_OF_IDENTITY = (
    *("classifier", "classifier_fingerprint", "denoiser", "denoiser_fingerprint"),
    *("image_sha256", "label_name", "resolution", "image_shape", "version"),
    *("noise_stream", "machine"),
)
_COPIED = (
    *("format", "sigma", "alpha", "noise", "engine", "precision", "contract", "dimension"),
    *("seed", "run", "image_id", "plan", "notes"),
)
"""Fields of a certificate that a column of the same name holds."""
_OF_RUN = ("sigma", "alpha", "noise")
"""Columns in which the row of a refused image has the settings of its run."""
_DERIVED = ("predict", "correct", "n0", "n", "calls", "notes", *BOUNDS)
"""Columns that follow from others."""
_TIME = re.compile(r"(?:(\d{1,6}) days?, )?(\d{1,2}):(\d\d):(\d\d)(?:\.(\d{1,6}))?", re.ASCII)
_STAGES = (Stage.SELECTION, Stage.ESTIMATION, Stage.CONTINUATION)


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """An image of an export: either its certificate, or the reason why it was refused.

    ``index`` is its place in the data set, ``true_label`` None where the data have none,
    ``seconds`` the time spent on it.
    """

    index: int
    true_label: int | None
    certificate: Certificate | None
    refused: str | None
    seconds: float


def row_of(image: ImageResult) -> dict[str, Any]:
    """Return the row of an image for CSV and Parquet, without JSON texts."""
    certificate = image.certificate
    document = certificate.to_dict()
    return {
        "idx": image.index,
        "label": -1 if image.true_label is None else image.true_label,
        "predict": -1 if image.predicted is None else image.predicted,
        "radius": round_down(image.radius),
        "correct": int(image.correct),
        "time": str(timedelta(seconds=image.seconds)),
        "lower_bound": document["lower_bound"],
        "upper_bound": document.get("upper_bound"),
        "n0": certificate.selection.n,
        "n": certificate.counts.followed_by(certificate.continuation).n,
        "calls": certificate.calls,
        "radius_l1": round_down(certificate.radius_l1),
        "radius_linf": document["radius_linf"],
        "counts": {stage.stage.value: _votes(stage) for stage in certificate.stages},
        "refused": "",
        **{name: document[name] for name in _COPIED},
        **{name: (document["identity"] or {}).get(name) for name in _OF_IDENTITY},
    }


def row_of_refused(
    settings: Mapping[str, Any], index: int, image_id: str, reason: str
) -> dict[str, Any]:
    """Return the row of an image that could not be certified: an abstention without copies.

    Args:
        settings: of the run; its sigma, alpha and noise.
    """
    counted = dict.fromkeys(("correct", "n0", "n", "calls"), 0)
    bounds = dict.fromkeys(("radius", "lower_bound", "radius_l1", "radius_linf"), 0.0)
    return {
        **dict.fromkeys(COLUMNS),
        **counted,
        **bounds,
        **{name: settings[name] for name in _OF_RUN},
        "idx": index,
        "label": -1,
        "predict": -1,
        "time": str(timedelta()),
        "image_id": image_id,
        "counts": {},
        "refused": reason,
    }


def line_of(image: ImageResult) -> dict[str, Any]:
    """Return the object of an image for JSON lines."""
    return {
        "index": image.index,
        "true_label": image.true_label,
        "refused": None,
        "seconds": image.seconds,
        "certificate": image.certificate.to_dict(),
    }


def line_of_refused(image: RefusedImage) -> dict[str, Any]:
    """Return the object of an image that could not be certified, for JSON lines."""
    return {
        "index": image.index,
        "true_label": None,
        "refused": image.reason,
        "seconds": 0.0,
        "certificate": None,
    }


def _votes(counts: LabelCounts) -> dict[int, int]:
    """Return votes by label; -1 is a vote for no class."""
    return dict(counts.votes) | ({-1: counts.failed} if counts.failed else {})


def image_of_line(values: Any) -> ExportedImage:
    """Return the image of an object of JSON lines, the inverse of :func:`line_of`.

    Raises:
        CertificateError: a field is missing or unknown, or the certificate cannot be relied on.
    """
    fields = Fields(values)
    index, seconds = fields.whole("index"), fields.number("seconds")
    true_label = fields.optional("true_label", fields.whole)
    refused = fields.optional("refused", fields.text)
    held = fields.take("certificate", "an object or null", lambda value: True)
    fields.end()
    if (held is None) == (refused is None):
        raise MalformedCertificateError(
            "An image of an export has either a certificate or a reason why it was refused, got "
            f"{quoted(held)} and {quoted(refused)}. {AS_WRITTEN}"
        )
    if refused is not None:
        check_derived(
            {"true_label": true_label, "seconds": seconds}, {"true_label": None, "seconds": 0.0}
        )
    certificate = None if held is None else Certificate.from_dict(held)
    return ExportedImage(index, true_label, certificate, refused, seconds)


def image_of_row(values: Mapping[str, Any]) -> ExportedImage:
    """Return the image of a row of CSV or Parquet, the inverse of :func:`row_of`.

    The certificate is computed again from the columns that it rests on; all others must follow.

    Args:
        values: of all columns of :data:`COLUMNS`, as they are in a Parquet file: objects and lists
            as JSON texts, None where there is no value.

    Raises:
        MalformedCertificateError: a column is missing or unknown, or a value is impossible.
        AlteredCertificateError: a column does not follow from the counts.
    """
    fields = Fields(values)
    row = {name: _typed(fields, name, kind) for name, kind in COLUMNS.items()}
    fields.end()
    with refused_as_malformed("The row cannot be used"):
        seconds, label = parse_time(row["time"]), row["label"]
    true_label = None if label == -1 else label
    if row["refused"]:
        _check_refused(row)
        return ExportedImage(row["idx"], true_label, None, row["refused"], seconds)
    certificate = Certificate.from_document(read_document(_document(row), derived=False))
    image = ImageResult(row["idx"], row["image_id"], true_label, certificate, seconds)
    again = row_of(image)
    check_derived(row, {name: again[name] for name in _DERIVED}, certificate)
    return ExportedImage(image.index, true_label, certificate, None, seconds)


def _check_refused(row: Mapping[str, Any]) -> None:
    """Refuse the row of a refused image that claims or counts anything."""
    fields = Fields(row)
    noise, image_id = fields.one_of(Noise, "noise"), fields.text("image_id")
    sigma, alpha = fields.number("sigma"), fields.number("alpha")
    with refused_as_malformed("The row cannot be used"):
        SmoothingParameters(sigma, alpha, dimension=1, seed=0, noise=noise)
    check_derived(row, row_of_refused(row, row["idx"], image_id, row["refused"]))


def check_tsv(values: Mapping[str, str], image: ExportedImage) -> None:
    """Refuse a row of a tsv that differs from the image in its side file.

    Raises:
        AlteredCertificateError: it differs.
    """
    if image.certificate is None:
        expected = row_of_refused(dict.fromkeys(_OF_RUN), image.index, "", "")
    else:
        held = ImageResult(image.index, "", image.true_label, image.certificate, image.seconds)
        expected = row_of(held) | {"radius": held.radius}
    expected["radius"] = format_down(expected["radius"])
    check_derived(
        {"refused": "", **values},  # a tsv without refused images lacks the column
        {name: str(expected[name]) for name in TSV_COLUMNS} | {"refused": image.refused or ""},
    )


def _typed(fields: Fields, name: str, kind: type) -> Any:
    """Return the value of a column; that of a JSON text is its value."""
    if name == "idx":
        return fields.whole(name)
    if kind is int and name not in ("label", "predict"):
        return fields.optional(name, fields.whole)
    if kind is int:
        return fields.take(name, "a label, or -1", lambda v: type(v) is int and -1 <= v <= LARGEST)
    if kind is float:
        return fields.optional(name, fields.number)
    text = fields.optional(name, fields.text)
    return text if kind is str or text is None else parse_json(text)


def parse_time(text: str) -> float:
    """Return the seconds of a text such as ``1:02:03.400000``, as a ``timedelta`` is printed.

    Raises:
        ValueError: the text is none.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"time must be H:MM:SS.ffffff, got {quoted(text)}")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[:4])
    micro = int((found[5] or "").ljust(6, "0"))
    return timedelta(days, seconds, micro, 0, minutes, hours).total_seconds()


def _document(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a certificate that do not follow from others."""
    counts = Fields(row["counts"], "counts")
    stages = {
        stage.value: _stage(counts, stage.value) for stage in _STAGES if stage.value in counts
    }
    counts.end()
    identity = {name: row[name] for name in _OF_IDENTITY}
    is_known = any(value is not None for value in identity.values())
    copied = {name: row[name] for name in _COPIED}
    return {**copied, **stages, "identity": identity if is_known else None}


def _stage(counts: Fields, name: str) -> dict[str, Any]:
    votes = dict(counts.fields(name).items())
    return {"counts": votes, "failed": votes.pop("-1", 0)}
