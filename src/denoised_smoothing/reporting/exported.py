"""The images of an export, read from its file one by one."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from denoised_smoothing.certificates.fields import parse_json, refused_as_malformed
from denoised_smoothing.certificates.reading import LONGEST
from denoised_smoothing.errors import (
    CertificateError,
    MalformedCertificateError,
    MissingExtraError,
    SettingError,
)
from denoised_smoothing.reporting.export import ExportFormat, side_file
from denoised_smoothing.reporting.kinds import kind_of
from denoised_smoothing.reporting.rows import (
    COLUMNS,
    TSV_COLUMNS,
    ExportedImage,
    check_tsv,
    image_of_line,
    image_of_row,
)

LONGEST_CELL = LONGEST
"""Maximum number of characters of a cell; csv of the standard library accepts 2^17 by default."""
_ROWS_AT_ONCE = 1_000
_EXPORT_AGAIN = "Export the run again with this version."


@dataclass(frozen=True, slots=True)
class ExportedRow:
    """A row of an export, not yet checked: its ``number`` from 1, and how to read it."""

    number: int
    read: Callable[[], ExportedImage]
    """Returns the image; raises CertificateError if the row cannot be relied on."""


def stream_export(path: str | Path, format: ExportFormat | None = None) -> Iterator[ExportedRow]:
    """Yield the rows of an export as tsv, csv, parquet or jsonl.

    Rows are read from the file when they are needed, and checked by :attr:`ExportedRow.read`: a row
    that was altered does not keep others from being read. That of a tsv is its row in the file
    ``PATH.jsonl`` next to it, with which it must agree.

    Args:
        format: of the file; None for that of its content.

    Raises:
        SettingError: the file cannot be read, or holds something else.
        MalformedCertificateError: the file as a whole is not an export, or lacks a column.
        MissingExtraError: pyarrow is not installed (parquet only).
    """
    path = Path(path)
    kind = format or kind_of(path)
    if not isinstance(kind, ExportFormat):
        raise SettingError(f"{str(path)!r} is a {kind}. Name a file that 'export' wrote.")
    try:
        yield from _READERS[kind](path)
    except OSError as error:
        raise SettingError(
            f"cannot read the export {str(path)!r}: {error.strerror or error}. Name a file that "
            "'export' wrote."
        ) from error


def read_export(path: str | Path) -> Iterator[ExportedImage]:
    """Yield the images of an export; errors as of :func:`stream_export` and of each row.

    Raises:
        CertificateError: a row cannot be relied on; the message begins with its number.
    """
    for row in stream_export(path):
        try:
            yield row.read()
        except CertificateError as error:
            raise type(error)(f"Row {row.number}: {error}") from error


def _stream_csv(path: Path) -> Iterator[ExportedRow]:
    for number, (columns, cells) in enumerate(_cells(path, ",", COLUMNS), 1):
        yield ExportedRow(number, partial(_image_of_cells, columns, cells))


def _stream_tsv(path: Path) -> Iterator[ExportedRow]:
    side = side_file(path)
    if not side.is_file():
        raise SettingError(
            f"The tsv {str(path)!r} does not hold what its certificates rest on, and there is no "
            f"file {side.name!r} next to it. Export the run with this version, or as csv."
        )
    rows = zip_longest(_cells(path, "\t", TSV_COLUMNS), _stream_lines(side))
    for number, (found, row) in enumerate(rows, 1):
        if found is None or row is None:
            raise MalformedCertificateError(
                f"{str(path)!r} and {side.name!r} have different numbers of rows: {number - 1} in "
                f"one of them, more in the other. {_EXPORT_AGAIN}"
            )
        yield ExportedRow(number, partial(_image_of_pair, found, row))


def _stream_lines(path: Path) -> Iterator[ExportedRow]:
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(LONGEST + 1), b"")
        for number, line in enumerate(lines, 1):
            yield ExportedRow(number, partial(_image_of_text, line))
            rest = line  # of a line that is too long, pass over the rest
            while len(rest) > LONGEST and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST + 1)


def _stream_parquet(path: Path) -> Iterator[ExportedRow]:
    try:
        from pyarrow import parquet, types
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "reading parquet") from error
    with path.open("rb") as file, refused_as_malformed(f"{str(path)!r} is not an export"):
        schema = parquet.read_schema(file)
        _check_columns(path, schema.names, COLUMNS)
        for column in schema:
            if types.is_nested(column.type):
                raise ValueError(f"the column {column.name!r} has values of the type {column.type}")
        # As dictionaries, texts that many rows share are in memory once.
        table = parquet.ParquetFile(file, read_dictionary=schema.names)
        number = 0
        for batch in table.iter_batches(_ROWS_AT_ONCE):
            for column in batch.columns:
                _check_lengths(column)
            for place in range(batch.num_rows):
                number += 1
                [values] = batch.slice(place, 1).to_pylist()
                yield ExportedRow(number, partial(image_of_row, values))


def _check_lengths(column: Any) -> None:
    """Refuse a column of Parquet with values that are too long, before any is a Python object.

    Raises:
        ValueError: a value is longer than a cell may be.
    """
    from pyarrow import compute, types

    values = column.dictionary if types.is_dictionary(column.type) else column
    if types.is_primitive(values.type) or types.is_null(values.type):
        return
    longest = compute.max(compute.binary_length(values)).as_py() or 0
    if longest > LONGEST_CELL:
        raise ValueError(f"a text has {longest:,} bytes, and {LONGEST_CELL:,} are allowed")


_READERS = {
    ExportFormat.TSV: _stream_tsv,
    ExportFormat.CSV: _stream_csv,
    ExportFormat.PARQUET: _stream_parquet,
    ExportFormat.JSONL: _stream_lines,
}


def _cells(
    path: Path, delimiter: str, expected: Collection[str]
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the columns of a text file with the cells of each row."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    with (
        path.open(encoding="utf-8", newline="") as file,
        refused_as_malformed(f"{str(path)!r} is not an export"),
    ):
        rows = csv.reader(_lines_of(file), delimiter=delimiter, strict=True)
        columns = next(rows, [])
        _check_columns(path, columns, expected)
        for cells in rows:
            yield columns, cells


def _lines_of(file: TextIO) -> Iterator[str]:
    """Yield the lines of a text file.

    Raises:
        ValueError: one is too long.
    """
    for line in iter(lambda: file.readline(LONGEST + 1), ""):
        if len(line) > LONGEST:
            raise ValueError(f"a line has more than {LONGEST:,} characters")
        yield line


def _check_columns(path: Path, columns: Collection[str], expected: Collection[str]) -> None:
    """Refuse an export without a column, as those of earlier versions, or with one twice."""
    missing = [name for name in expected if name not in columns]
    if missing or len(set(columns)) < len(columns):
        what = f"lacks the columns {', '.join(missing)}" if missing else "has a column twice"
        raise MalformedCertificateError(
            f"The export {str(path)!r} {what}, so its certificates cannot be computed again. "
            f"{_EXPORT_AGAIN}"
        )


def _image_of_text(line: bytes) -> ExportedImage:
    if len(line) > LONGEST:
        raise MalformedCertificateError(
            f"The line has more than {LONGEST:,} bytes. {_EXPORT_AGAIN}"
        )
    return image_of_line(parse_json(line))


def _image_of_pair(found: tuple[list[str], list[str]], row: ExportedRow) -> ExportedImage:
    image = row.read()
    check_tsv(_named(*found), image)
    return image


def _image_of_cells(columns: list[str], cells: list[str]) -> ExportedImage:
    values = _named(columns, cells)
    return image_of_row({name: _typed(name, cell) for name, cell in values.items()})


def _named(columns: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(columns):
        raise MalformedCertificateError(
            f"A row must have {len(columns)} cells, as there are columns, got {len(cells)}. "
            f"{_EXPORT_AGAIN}"
        )
    return dict(zip(columns, cells, strict=True))


def _typed(name: str, cell: str) -> Any:
    """Return the value of a cell; a text that is no number stays one, and is refused later."""
    if not cell:
        return None
    kind = COLUMNS.get(name, str)
    return kind(cell) if kind in _NUMBERS and _NUMBERS[kind].fullmatch(cell) else cell


_NUMBERS = {
    int: re.compile(r"-?(0|[1-9][0-9]{0,18})"),
    float: re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[-+]?[0-9]+)?"),
}
"""The numbers that this version writes."""
