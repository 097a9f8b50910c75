"""Files with the columns of Cohen et al. 2019, next to stored runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.cohen import PublishedImage, read_published
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.results import RunResults
from denoised_smoothing.reporting.tables import certified_accuracy, comparison, to_markdown
from denoised_smoothing.store import RefusedImage

from .samples import FakeImage, FakeStore, fake_run, image, results, votes

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
ROWS = (
    "20\t3\t3\t0.825\t1\t0:00:14.510521",
    "0\t3\t-1\t0.0\t0\t0:00:15",
    "40\t5\t4\t1.08\t0\t0:00:14.5",
)


def written(folder: Path, *rows: str, header: str = HEADER, name: str = "other.tsv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_rows_are_images(tmp_path: Path) -> None:
    found = read_published(written(tmp_path, *ROWS))
    assert found.images == (
        PublishedImage(0, 3, None, 0.0, 15.0),
        PublishedImage(20, 3, 3, 0.825, 14.510521),
        PublishedImage(40, 5, 4, 1.08, 14.5),
    )
    assert (found.name, found.sigma, found.labelled) == ("other.tsv", None, True)
    assert certified_accuracy(found, [0.0, 0.825, 0.826]).tolist() == [1 / 3, 1 / 3, 0.0]


def test_an_export_of_ours_is_read(tmp_path: Path) -> None:
    images = image(1, 1, 1, 0.29999, seconds=0.25), image(2, None, None, 0.0)
    run = replace(fake_run(), refused=(RefusedImage(3, "broken", "It is broken."),))
    export(RunResults(run, images), ExportFormat.TSV, tmp_path / "ours.tsv")
    assert read_published(tmp_path / "ours.tsv").images == (
        PublishedImage(1, 1, 1, 0.2999, 0.25),
        PublishedImage(2, None, None, 0.0, 0.5),
    )


def test_a_table_shows_runs_and_files(tmp_path: Path) -> None:
    other = read_published(written(tmp_path, *ROWS))
    run = results(image(0, 3, 3, 0.5), image(20, 3, 3, 0.9))
    rows = comparison([run, other], [0.5, 0.8])
    assert [cell.certified for cell in rows[1].cells] == [1, 1]
    texts = rows[1].texts()
    assert texts[:7] == ["other.tsv", "unknown", "3", "–", "–", "33.3", "33.3"]
    assert texts[-1] == "unknown"
    assert "| other.tsv | unknown | 3 |" in to_markdown(rows)


@pytest.mark.parametrize("same", [True, False])
def test_a_report_shows_runs_and_files(same: bool, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    held = [FakeImage(index, f"image-{index}", label, votes(index, (0, 0, 0, 1000)))
            for index, label in ((0, 3), (20, 3), (40, 5))]  # fmt: skip
    store = FakeStore({"a": (fake_run(), held, [])})
    path = written(tmp_path, *ROWS[: 3 if same else 2])
    write_report(store, ["a"], tmp_path / "report.html", published=[path])  # type: ignore[arg-type]
    html = (tmp_path / "report.html").read_text()
    assert html.count("<td>other.tsv</td>") >= 1
    assert "“other.tsv” is read from a file that states neither σ, α, plan nor noise" in html
    assert ("are not those of the first run" in html) is not same
    with pytest.raises(SettingError, match="at least one stored run"):
        write_report(store, [], tmp_path / "report.html", published=[path])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ((), HEADER, "have no image"),
        (ROWS, HEADER.replace("radius", "r"), "there is no column radius"),
        ((ROWS[0], ROWS[0]), HEADER, "row 2: idx 20 was in an earlier row"),
        (("1\t3\t3\t0.8\t1",), HEADER, "row 1 has other cells"),
        (("1\t3\t3\t0.8\t1\t0:00:01\tx",), HEADER, "row 1 has other cells"),
        (("1.0\t3\t3\t0.8\t1\t0:00:01",), HEADER, "row 1: idx must be a whole number"),
        (("1\tcat\t3\t0.8\t1\t0:00:01",), HEADER, "row 1: label must be a whole .* 'cat'"),
        (("1\t3\t3\tnan\t1\t0:00:01",), HEADER, "row 1: radius must be .* 'nan'"),
        (("1\t3\t3\t-0.1\t1\t0:00:01",), HEADER, "row 1: radius must be .* '-0.1'"),
        (("1\t3\t2\t0.8\t1\t0:00:01",), HEADER, "correct is 1, but label is 3 and predict is 2"),
        (("1\t-1\t-1\t0.0\t1\t0:00:01",), HEADER, "correct is 1, but label is -1"),
        (("1\t3\t3\t0.8\t1\tsoon",), HEADER, "row 1: time must be H:MM:SS"),
    ],
)
def test_a_file_that_cannot_be_used(
    rows: tuple[str, ...], header: str, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, *rows, header=header)
    with pytest.raises(SettingError, match=message) as caught:
        read_published(path)
    assert "Name a" in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"No such file .* Name a tsv"):
        read_published(tmp_path / "missing.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="cannot use the results"):
        read_published(tmp_path / "binary.tsv")
