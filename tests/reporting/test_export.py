from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.results import RunResults, hold_together

from ..certificates.samples import identity_of
from .samples import image, results


def read(path: Path, delimiter: str) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


@pytest.fixture
def mixed() -> RunResults:
    return results(
        image(5, None, 1, 0.5, seconds=3661.5),
        image(3, 1, 1, 0.29999, seconds=0.25),
        image(4, 1, None, 0.0, seconds=0.012345),
    )


def test_tsv_is_what_the_literature_reads(mixed: RunResults, tmp_path: Path) -> None:
    export(mixed, ExportFormat.TSV, tmp_path / "run.tsv")
    assert (tmp_path / "run.tsv").read_bytes().decode().split("\n") == [
        "idx\tlabel\tpredict\tradius\tcorrect\ttime",
        "3\t1\t1\t0.2999\t1\t0:00:00.250000",
        "4\t1\t-1\t0.0000\t0\t0:00:00.012345",
        "5\t-1\t1\t0.5000\t0\t1:01:01.500000",
        "",
    ]


def test_tsv_gives_the_analysis_of_cohen_et_al(four: RunResults, tmp_path: Path) -> None:
    export(four, ExportFormat.TSV, tmp_path / "run.tsv")
    rows = read(tmp_path / "run.tsv", "\t")
    at = [float(row["radius"]) >= 0.25 and row["correct"] == "1" for row in rows]
    assert sum(at) / len(at) == 0.5


def test_certificates_that_hold_together_are_exported_at_their_alpha(
    four: RunResults, tmp_path: Path
) -> None:
    """1,000 of 1,000 votes at 0.0004 / 4: the bound is 0.0001 to the power of 1 / 1,000."""
    [held] = hold_together([four], 0.0004)
    export(held, ExportFormat.CSV, tmp_path / "run.csv")
    rows = read(tmp_path / "run.csv", ",")
    assert {float(row["alpha"]) for row in rows} == {0.0001}
    radius = 0.5 * stats.norm.ppf(0.0001 ** (1 / 1000))
    assert [float(row["radius"]) for row in rows] == pytest.approx([radius] * 4, abs=2e-4)
    assert all(float(row["radius"]) <= radius for row in rows)


def test_csv_has_what_the_certificates_rest_on(mixed: RunResults, tmp_path: Path) -> None:
    one = mixed.images[1]
    named = replace(one, certificate=replace(one.certificate, identity=identity_of()))
    mixed = RunResults(mixed.run, (named, mixed.images[2]))
    export(mixed, ExportFormat.CSV, tmp_path / "run.csv")
    first = read(tmp_path / "run.csv", ",")[0]
    assert json.loads(first.pop("counts")) == {
        "selection": {"1": 10},
        "estimation": {"1": 1000},
    }
    assert first == {
        "idx": "3",
        "label": "1",
        "predict": "1",
        "radius": "0.2999",
        "correct": "1",
        "time": "0:00:00.250000",
        "image_id": "image-3",
        "lower_bound": "0.912345",
        "sigma": "0.5",
        "alpha": "0.001",
        "n0": "10",
        "n": "1000",
        "calls": "1010",
        "radius_l1": "0.2999",
        "radius_linf": "0.037498",
        "noise": "grid",
        "refused": "",
        "upper_bound": "",
        "plan": '{"kind": "fixed", "n0": 10, "n": 1000}',
        "dimension": "64",
        "engine": "torch",
        "precision": "float32",
        "contract": "unknown",
        "notes": "[]",
        "seed": "7",
        "run": "a",
        "format": "2",
        "classifier": "cifar-resnet20:FILE",
        "classifier_fingerprint": "c1" * 32,
        "denoiser": "none",
        "denoiser_fingerprint": "d2" * 32,
        "image_sha256": "e3" * 32,
        "label_name": "cat",
        "resolution": "32",
        "image_shape": "[3, 32, 32]",
        "version": "0.1.0",
        "noise_stream": "cpu",
        "machine": "engine_version 2.5.1; processor x86_64 AVX2",
    }


def test_failed_copies_are_votes_for_minus_one(four: RunResults, tmp_path: Path) -> None:
    one = four.images[0]
    counts = replace(one.certificate.counts, votes=(0, 990), failed=10)
    failed = replace(one, certificate=replace(one.certificate, counts=counts))
    export(RunResults(four.run, (failed,)), ExportFormat.CSV, tmp_path / "run.csv")
    votes = json.loads(read(tmp_path / "run.csv", ",")[0]["counts"])
    assert votes["estimation"] == {"1": 990, "-1": 10}


def test_labels_may_be_large(four: RunResults, tmp_path: Path) -> None:
    one = four.images[0].certificate
    certificate = replace(one, label=2**62, counts=replace(one.counts, votes={2**62: 5, 7: 2}))
    large = RunResults(four.run, (replace(four.images[0], certificate=certificate),))
    export(large, ExportFormat.CSV, tmp_path / "run.csv")
    row = read(tmp_path / "run.csv", ",")[0]
    assert row["predict"] == "4611686018427387904"
    assert json.loads(row["counts"])["estimation"] == {"7": 2, "4611686018427387904": 5}
    parquet = pytest.importorskip("pyarrow.parquet")
    export(large, ExportFormat.PARQUET, tmp_path / "run.parquet")
    assert parquet.read_table(tmp_path / "run.parquet")["predict"].to_pylist() == [2**62]


def test_parquet_has_the_columns_of_csv_with_types(mixed: RunResults, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export(mixed, ExportFormat.PARQUET, tmp_path / "run.parquet")
    export(mixed, ExportFormat.CSV, tmp_path / "run.csv")
    rows = parquet.read_table(tmp_path / "run.parquet").to_pylist()
    texts = [{name: "" if v is None else str(v) for name, v in row.items()} for row in rows]
    assert texts == read(tmp_path / "run.csv", ",")
    assert isinstance(rows[0]["radius"], float)


@pytest.mark.parametrize("format", ExportFormat)
def test_same_results_give_the_same_bytes(
    format: ExportFormat, mixed: RunResults, tmp_path: Path
) -> None:
    backwards = RunResults(mixed.run, mixed.images[::-1])
    export(mixed, format, tmp_path / "one")
    export(backwards, format, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_finished_images_there_is_the_header(tmp_path: Path) -> None:
    export(results(), ExportFormat.TSV, tmp_path / "run.tsv")
    assert read(tmp_path / "run.tsv", "\t") == []
    assert (tmp_path / "run.tsv").read_text().startswith("idx\t")


def test_missing_pyarrow_names_the_extra_and_leaves_no_file(
    four: RunResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"denoised-smoothing\[parquet\]"):
        export(four, ExportFormat.PARQUET, tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_output_is_refused(four: RunResults, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot write the output .*No such file.*writable"):
        export(four, ExportFormat.TSV, tmp_path / "missing" / "run.tsv")
