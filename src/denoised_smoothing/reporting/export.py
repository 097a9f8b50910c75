"""Results to files for other programs: tsv as in the literature, csv and parquet in full."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoised_smoothing.certificates.counts import LabelCounts
from denoised_smoothing.certificates.radii import format_down, round_down
from denoised_smoothing.errors import MissingExtraError
from denoised_smoothing.files import write_atomically
from denoised_smoothing.reporting.results import ImageResult, RunResults
from denoised_smoothing.text import shown_values

if TYPE_CHECKING:
    from denoised_smoothing.store import RefusedImage, StoredRun


class ExportFormat(StrEnum):
    """File formats of an export."""

    TSV = "tsv"
    """The columns ``idx label predict radius correct time`` that the analysis scripts of
    Cohen et al. 2019 and Salman et al. 2020 read."""
    CSV = "csv"
    """Those of tsv, and all that the certificates rest on."""
    PARQUET = "parquet"
    """The columns of csv."""


def export(results: RunResults, format: ExportFormat, path: str | Path) -> None:
    """Write one row per image, sorted by index; the same results give the same bytes.

    Radii and bounds are rounded down. An abstention and a missing true label are -1. An image that
    could not be certified has the reason in the column ``refused``, and counts as an abstention
    without copies. Unfinished images have no row.

    Raises:
        MissingExtraError: pyarrow is not installed (parquet only).
        SettingError: the file cannot be written.
    """
    refused = [_refused_row(results.run, image) for image in results.run.refused]
    rows = sorted([*map(_row, results.images), *refused], key=lambda row: row["idx"])
    rows = shown_values(rows)
    if format is ExportFormat.TSV:
        columns = (*TSV_COLUMNS, "refused") if refused else TSV_COLUMNS
        fixed = [row | {"radius": format_down(row["radius"])} for row in rows]
        content = _delimited(fixed, columns, "\t")
    elif format is ExportFormat.CSV:
        content = _delimited(rows, CSV_COLUMNS, ",")
    else:
        content = _parquet(rows)
    write_atomically(path, content)


TSV_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
CSV_COLUMNS = (
    *TSV_COLUMNS,
    *("image_id", "lower_bound", "sigma", "alpha", "n0", "n", "calls"),
    *("radius_l1", "radius_linf", "noise", "counts", "refused"),
)


def _row(image: ImageResult) -> dict[str, Any]:
    certificate = image.certificate
    later = certificate.continuation
    return {
        "idx": image.index,
        "label": -1 if image.true_label is None else image.true_label,
        "predict": -1 if image.predicted is None else image.predicted,
        "radius": round_down(image.radius),
        "correct": int(image.correct),
        "time": str(timedelta(seconds=image.seconds)),
        "image_id": image.image_id,
        "lower_bound": round_down(certificate.lower_bound, 6),
        "sigma": certificate.sigma,
        "alpha": certificate.alpha,
        "n0": certificate.selection.n,
        "n": certificate.counts.followed_by(later).n,
        "calls": certificate.calls,
        "radius_l1": round_down(certificate.radius_l1),
        "radius_linf": round_down(certificate.radius_linf, 6),
        "noise": certificate.noise.value,
        "counts": json.dumps({stage.stage.value: _votes(stage) for stage in certificate.stages}),
        "refused": "",
    }


def _refused_row(run: StoredRun, image: RefusedImage) -> dict[str, Any]:
    """Return the row of an image that could not be certified: an abstention without copies."""
    counted = dict.fromkeys(("correct", "n0", "n", "calls"), 0)
    bounds = dict.fromkeys(("radius", "lower_bound", "radius_l1", "radius_linf"), 0.0)
    settings = {name: run.settings[name] for name in ("sigma", "alpha", "noise")}
    return (
        counted
        | bounds
        | settings
        | {
            "idx": image.index,
            "label": -1,
            "predict": -1,
            "time": str(timedelta()),
            "image_id": image.image_id,
            "counts": "{}",
            "refused": image.reason,
        }
    )


def _votes(counts: LabelCounts) -> dict[int, int]:
    """Return votes by label; -1 is a vote for no class."""
    return dict(counts.votes) | ({-1: counts.failed} if counts.failed else {})


def _delimited(rows: Iterable[dict[str, Any]], columns: Sequence[str], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, delimiter=delimiter, lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "an export to parquet") from error
    columns = {name: [row[name] for row in rows] for name in CSV_COLUMNS}
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()
