"""Results to files for other programs: tsv as in the literature; csv, parquet and jsonl in full."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from denoised_smoothing.certificates.parameters import choose_by_name
from denoised_smoothing.certificates.radii import format_down
from denoised_smoothing.errors import MissingExtraError
from denoised_smoothing.files import named, write_atomically
from denoised_smoothing.reporting.results import RunResults
from denoised_smoothing.reporting.rows import (
    COLUMNS,
    TSV_COLUMNS,
    line_of,
    line_of_refused,
    row_of,
    row_of_refused,
)
from denoised_smoothing.text import shown_values

_ROWS_IN_GROUP = 10_000
"""Rows of a group of a Parquet file, so that it can be read piece by piece."""


class ExportFormat(StrEnum):
    """File formats of an export."""

    TSV = "tsv"
    """The columns ``idx label predict radius correct time`` that the analysis scripts of
    Cohen et al. 2019 and Salman et al. 2020 read, with the file of jsonl next to it."""
    CSV = "csv"
    """Those of tsv, and all that the certificates rest on."""
    PARQUET = "parquet"
    """The columns of csv."""
    JSONL = "jsonl"
    """One JSON object a line, with the certificate as :meth:`Certificate.to_dict` gives it."""


def export(results: RunResults, format: ExportFormat | str, path: str | Path) -> None:
    """Write one row per image, sorted by index; the same results give the same bytes.

    Radii and bounds are rounded down. An abstention and a missing true label are -1. An image that
    could not be certified has the reason in the column ``refused``, and counts as an abstention
    without copies. Unfinished images have no row. A tsv lacks what its certificates rest on, so the
    file ``PATH.jsonl`` is written next to it; see :func:`side_file`.

    Raises:
        MissingExtraError: pyarrow is not installed (parquet only).
        SettingError: a file cannot be written, or the format is unknown.
    """
    kind = choose_by_name(ExportFormat, format, "the format")
    if kind is ExportFormat.JSONL:
        write_atomically(path, _lines(results))
        return
    refused = [
        row_of_refused(results.run.settings, image.index, image.image_id, image.reason)
        for image in results.run.refused
    ]
    rows = sorted([*map(row_of, results.images), *refused], key=lambda row: row["idx"])
    rows = [_with_texts(row) for row in shown_values(rows)]
    if kind is ExportFormat.TSV:
        columns = (*TSV_COLUMNS, "refused") if refused else TSV_COLUMNS
        fixed = [row | {"radius": format_down(row["radius"])} for row in rows]
        content = _delimited(fixed, columns, "\t")
    elif kind is ExportFormat.CSV:
        content = _delimited(rows, tuple(COLUMNS), ",")
    else:
        content = _parquet(rows)
    write_atomically(path, content)
    if kind is ExportFormat.TSV:
        write_atomically(side_file(path), _lines(results))


def side_file(path: str | Path) -> Path:
    """Return the path of the JSON lines next to a tsv, which hold its certificates."""
    path = named(path)
    return path.with_name(f"{path.name}.jsonl")


def _lines(results: RunResults) -> bytes:
    lines = [*map(line_of, results.images), *map(line_of_refused, results.run.refused)]
    lines = shown_values(sorted(lines, key=lambda line: line["index"]))
    return "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines).encode()


def _with_texts(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with objects and lists as JSON texts."""
    return {
        name: json.dumps(value) if isinstance(value, dict | list) else value
        for name, value in row.items()
    }


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
    types = {int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema(
        [(name, types.get(kind, pyarrow.string())) for name, kind in COLUMNS.items()]
    )
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows, schema)
    parquet.write_table(table, buffer, row_group_size=_ROWS_IN_GROUP)
    return buffer.getvalue()
