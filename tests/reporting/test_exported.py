"""Exports that give back the certificates that they were made of."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from denoised_smoothing.errors import (
    AlteredCertificateError,
    CertificateError,
    MalformedCertificateError,
    SettingError,
)
from denoised_smoothing.reporting import exported as exported_module
from denoised_smoothing.reporting.export import ExportFormat, export, side_file
from denoised_smoothing.reporting.exported import LONGEST, read_export, stream_export
from denoised_smoothing.reporting.results import ImageResult, RunResults
from denoised_smoothing.reporting.rows import COLUMNS, ExportedImage
from denoised_smoothing.store import RefusedImage
from denoised_smoothing.text import shown

from ..certificates.samples import identity_of
from ..certificates.test_certificate import CERTIFICATES
from .samples import fake_run

REASON = 'It is "broken",\nand\ttwice.'


@pytest.fixture(scope="module")
def results() -> RunResults:
    """An image of every plan, with and without identity, and one that was refused."""
    certificates = []
    for number, held in enumerate(CERTIFICATES.values()):
        name = None if held.label is None else 'cat, "the" ünïcode'
        certificates.append(replace(held, identity=identity_of(name) if number % 3 else None))
    images = tuple(
        ImageResult(index, "7", None if index % 4 == 1 else index % 2, certificate, 0.25 + index)
        for index, certificate in enumerate(certificates)
    )
    parameters = replace(certificates[4].parameters, engine=None, precision=None, notes=("A.", "B"))
    images += (
        replace(
            images[4],
            index=20,
            certificate=replace(certificates[4], parameters=parameters),
            seconds=90_061.5,
        ),
    )
    refused = (RefusedImage(11, "broken", REASON),)
    return RunResults(replace(fake_run(), refused=refused), images)


@pytest.fixture(scope="module")
def expected(results: RunResults) -> list[ExportedImage]:
    images = [
        ExportedImage(image.index, image.true_label, image.certificate, None, image.seconds)
        for image in results.images
    ]
    images.append(ExportedImage(11, None, None, shown(REASON), 0.0))
    return sorted(images, key=lambda image: image.index)


def exported(results: RunResults, format: ExportFormat, folder: Path) -> Path:
    path = folder / f"run.{format}"
    export(results, format, path)
    return path


@pytest.mark.parametrize("format", ExportFormat)
def test_rows_give_back_their_certificates(
    format: ExportFormat, results: RunResults, expected: list[ExportedImage], tmp_path: Path
) -> None:
    if format is ExportFormat.PARQUET:
        pytest.importorskip("pyarrow")
    path = exported(results, format, tmp_path)
    assert list(read_export(path)) == expected
    assert [row.number for row in stream_export(path)] == list(range(1, len(expected) + 1))


def test_a_tsv_has_the_json_lines_next_to_it(results: RunResults, tmp_path: Path) -> None:
    path = exported(results, ExportFormat.TSV, tmp_path)
    lines = exported(results, ExportFormat.JSONL, tmp_path)
    assert side_file(path) == tmp_path / "run.tsv.jsonl"
    assert side_file(path).read_bytes() == lines.read_bytes()
    first = json.loads(lines.read_text().splitlines()[0])
    assert first == {
        "index": 0,
        "true_label": 0,
        "refused": None,
        "seconds": 0.25,
        "certificate": json.loads(results.images[0].certificate.to_json()),
    }
    side_file(path).unlink()
    with pytest.raises(SettingError, match=r"no file 'run\.tsv\.jsonl' next to it"):
        list(stream_export(path))


def test_an_altered_row_does_not_keep_others_from_being_read(
    results: RunResults, expected: list[ExportedImage], tmp_path: Path
) -> None:
    path = exported(results, ExportFormat.JSONL, tmp_path)
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace('"radius": 0.', '"radius": 1.')
    lines[3] = "{"
    path.write_text("\n".join(lines))
    found: list[Any] = []
    for row in stream_export(path):
        try:
            found.append(row.read())
        except CertificateError as error:
            found.append(type(error))
    assert found[1] is AlteredCertificateError
    assert found[3] is MalformedCertificateError
    assert found[4:] == expected[4:]
    with pytest.raises(AlteredCertificateError, match=r"Row 2: The field 'radius' .* is 1\."):
        list(read_export(path))


def change_cell(path: Path, delimiter: str, row: int, column: str, cell: str) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    rows[row][rows[0].index(column)] = cell
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)


@pytest.mark.parametrize(
    ("column", "cell", "error"),
    [
        ("predict", "2", AlteredCertificateError),
        ("radius", "0.4667", AlteredCertificateError),
        ("correct", "1", AlteredCertificateError),
        ("lower_bound", "0.97", AlteredCertificateError),
        ("upper_bound", "0.1", AlteredCertificateError),
        ("n0", "99", AlteredCertificateError),
        ("n", "1001", AlteredCertificateError),
        ("calls", "1", AlteredCertificateError),
        ("radius_l1", "0.5", AlteredCertificateError),
        ("radius_linf", "0.5", AlteredCertificateError),
        ("alpha", "0.01", AlteredCertificateError),
        ("alpha", "0,001", MalformedCertificateError),
        ("sigma", "nan", MalformedCertificateError),
        ("sigma", "", MalformedCertificateError),
        ("idx", "1.0", MalformedCertificateError),
        ("idx", "", MalformedCertificateError),
        ("label", "-2", MalformedCertificateError),
        ("time", "soon", MalformedCertificateError),
        ("plan", "{}", MalformedCertificateError),
        ("plan", '{"kind": "fixed", "n": 1000, "n": 1000, "n0": 100}', MalformedCertificateError),
        ("counts", "[]", MalformedCertificateError),
        ("counts", '{"estimation": {"1": 1000}}', MalformedCertificateError),
        ("counts", '{"sigma": {}}', MalformedCertificateError),
        ("format", "1", MalformedCertificateError),
        ("image_sha256", "ee", MalformedCertificateError),
        ("classifier", "", MalformedCertificateError),
    ],
)
def test_a_changed_cell_is_found(
    column: str, cell: str, error: type[CertificateError], results: RunResults, tmp_path: Path
) -> None:
    named = replace(results.images[0].certificate, identity=identity_of())
    image = replace(results.images[0], certificate=named)
    path = exported(RunResults(fake_run(), (image,)), ExportFormat.CSV, tmp_path)
    change_cell(path, ",", 1, column, cell)
    with pytest.raises(error):
        list(read_export(path))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        *(("idx", "1"), ("label", "1"), ("predict", "0"), ("radius", "0.4667")),
        *(("time", "0:00:01"), ("refused", "It is broken.")),
    ],
)
def test_a_tsv_must_agree_with_its_side_file(
    column: str, cell: str, results: RunResults, tmp_path: Path
) -> None:
    path = exported(results, ExportFormat.TSV, tmp_path)
    change_cell(path, "\t", 1, column, cell)
    with pytest.raises(AlteredCertificateError, match=f"Row 1: The field '{column}'"):
        list(read_export(path))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        *(("idx", "1"), ("label", "1"), ("predict", "0"), ("radius", "0.4667"), ("correct", "1")),
        *(("time", "0:00:01"), ("refused", ""), ("refused", "It is.")),
    ],
)
def test_a_refused_row_of_a_tsv_must_agree_with_its_side_file(
    column: str, cell: str, results: RunResults, tmp_path: Path
) -> None:
    path = exported(RunResults(results.run, ()), ExportFormat.TSV, tmp_path)
    assert len(list(read_export(path))) == 1
    change_cell(path, "\t", 1, column, cell)
    with pytest.raises(AlteredCertificateError, match=f"Row 1: The field '{column}'"):
        list(read_export(path))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def without_a_column(path: Path) -> None:
    path.write_text(path.read_text().replace(",plan,", ",plans,", 1))


def without_a_row(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("format", "damage", "message"),
    [
        (ExportFormat.CSV, cut, "cells|unexpected end"),
        (ExportFormat.CSV, without_a_column, "lacks the columns plan"),
        (ExportFormat.CSV, lambda path: path.write_bytes(b"\xff\xfe"), "is not an export"),
        (ExportFormat.CSV, lambda path: path.write_bytes(b""), "lacks the columns idx"),
        (ExportFormat.PARQUET, cut, "is not an export"),
        (ExportFormat.JSONL, cut, "cannot be read"),
        (ExportFormat.TSV, without_a_row, "different numbers of rows"),
    ],
)
def test_damaged_exports_are_malformed(
    format: ExportFormat,
    damage: Callable[[Path], None],
    message: str,
    results: RunResults,
    tmp_path: Path,
) -> None:
    if format is ExportFormat.PARQUET:
        pytest.importorskip("pyarrow")
    path = exported(results, format, tmp_path)
    damage(path)
    with pytest.raises(MalformedCertificateError, match=message):
        [row.read() for row in stream_export(path, format)]


def test_other_files_are_refused(results: RunResults, tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    with pytest.raises(SettingError, match=r"cannot be read: No such file"):
        list(read_export(path))
    with pytest.raises(SettingError, match=r"cannot read the export .*No such file"):
        list(stream_export(path, ExportFormat.CSV))
    path.write_bytes(b"SQLite format 3\0")
    with pytest.raises(SettingError, match=r"is a store\. Name a file that 'export' wrote"):
        list(read_export(path))
    export(results, ExportFormat.JSONL, path)  # whatever its name says
    assert len(list(read_export(path))) == len(results.images) + 1


REFUSED = {
    **dict.fromkeys(("label", "predict"), ("0", "-1")),
    **dict.fromkeys(("correct", "n0", "n", "calls"), ("1", "0")),
    **dict.fromkeys(("radius", "lower_bound", "radius_l1", "radius_linf"), ("0.5", "0.0")),
    "time": ("0:00:01", "0:00:00"),
    "upper_bound": ("0.1", ""),
    "counts": ('{"selection": {"1": 100}, "estimation": {"1": 1000}}', "{}"),
    "plan": ('{"kind": "fixed", "n0": 100, "n": 1000}', ""),
    "notes": ("[]", ""),
    "image_shape": ("[3, 32, 32]", ""),
    **dict.fromkeys(("dimension", "resolution", "format"), ("7", "")),
    **dict.fromkeys(("engine", "precision", "contract", "seed", "run", "version"), ("7", "")),
    **dict.fromkeys(("classifier", "denoiser", "label_name", "image_sha256"), ("7", "")),
    **dict.fromkeys(("noise_stream", "machine"), ("7", "")),
    **dict.fromkeys(("classifier_fingerprint", "denoiser_fingerprint"), ("7", "")),
}
"""What the row of a refused image must not say, and what it says."""


@pytest.mark.parametrize("column", REFUSED)
def test_the_row_of_a_refused_image_claims_nothing(
    column: str, results: RunResults, tmp_path: Path
) -> None:
    path = exported(RunResults(results.run, ()), ExportFormat.CSV, tmp_path)
    assert [image.refused for image in read_export(path)] == [shown(REASON)]
    change_cell(path, ",", 1, column, REFUSED[column][0])
    with pytest.raises(AlteredCertificateError, match=f"Row 1: The field '{column}'"):
        list(read_export(path))


@pytest.mark.parametrize("column", ["idx", "image_id", "sigma", "alpha", "noise"])
@pytest.mark.parametrize("cell", ["", "-7"])
def test_the_row_of_a_refused_image_has_a_place_and_settings(
    column: str, cell: str, results: RunResults, tmp_path: Path
) -> None:
    path = exported(RunResults(results.run, ()), ExportFormat.CSV, tmp_path)
    change_cell(path, ",", 1, column, cell)
    if (column, cell) == ("image_id", "-7"):  # the name of another image
        assert len(list(read_export(path))) == 1
        return
    with pytest.raises(MalformedCertificateError):
        list(read_export(path))


def test_every_column_of_a_refused_image_is_checked() -> None:
    assert {*REFUSED, "idx", "image_id", "sigma", "alpha", "noise", "refused"} == {*COLUMNS}


@pytest.mark.parametrize("name", ["true_label", "seconds"])
def test_the_line_of_a_refused_image_claims_nothing(
    name: str, results: RunResults, tmp_path: Path
) -> None:
    path = exported(RunResults(results.run, ()), ExportFormat.JSONL, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: 1}))
    with pytest.raises(AlteredCertificateError, match=name):
        list(read_export(path))


def test_a_long_line_keeps_no_other_from_being_read(
    results: RunResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(RunResults(fake_run(), results.images[:2]), ExportFormat.JSONL, tmp_path)
    first, second = path.read_text().splitlines()
    limit = 2 * max(len(first), len(second))
    monkeypatch.setattr(exported_module, "LONGEST", limit)
    path.write_text("\n".join([first, "x" * 5 * limit, second]))
    rows = list(stream_export(path, ExportFormat.JSONL))
    assert [row.number for row in rows] == [1, 2, 3]
    assert (rows[0].read().index, rows[2].read().index) == (0, 1)
    with pytest.raises(MalformedCertificateError, match="The line has more than"):
        rows[1].read()


def test_a_csv_with_a_long_line_is_malformed(
    results: RunResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(results, ExportFormat.CSV, tmp_path)
    monkeypatch.setattr(exported_module, "LONGEST", 100)
    with pytest.raises(MalformedCertificateError, match="a line has more than 100 characters"):
        list(stream_export(path, ExportFormat.CSV))


@pytest.mark.parametrize("as_lists", [False, True])
def test_a_small_parquet_file_of_large_values_is_malformed(as_lists: bool, tmp_path: Path) -> None:
    """As Python objects, the texts would take 17 GB."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = 1_000
    columns = {name: pyarrow.nulls(rows, pyarrow.string()) for name in COLUMNS}
    places = pyarrow.array([0] * rows, pyarrow.int32())
    text = pyarrow.array(["x" * (LONGEST + 1)])
    columns["refused"] = (
        pyarrow.array([[0] * 9] * rows)
        if as_lists
        else pyarrow.DictionaryArray.from_arrays(places, text)
    )
    path = tmp_path / "run.parquet"
    parquet.write_table(
        pyarrow.table(columns), path, compression="zstd", dictionary_pagesize_limit=2**30
    )
    assert path.stat().st_size < 100_000
    message = r"values of the type list" if as_lists else "a text has 16,777,217 bytes"
    with pytest.raises(MalformedCertificateError, match=message):
        next(stream_export(path))


def test_columns_are_those_of_a_row(results: RunResults, tmp_path: Path) -> None:
    path = exported(results, ExportFormat.CSV, tmp_path)
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
