"""Sources of certificates: their kind by content, their rows, and what the arithmetic finds."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.certificates.verdicts import Finding, Verdict
from denoised_smoothing.errors import RunNotFoundError, SettingError
from denoised_smoothing.reporting.evidence import UNFINISHED, Outcome, Row, open_evidence
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.kinds import Kind
from denoised_smoothing.reporting.results import ImageResult, RunResults
from denoised_smoothing.store import RefusedImage, Store, StoredImage

from ..certificates.samples import identity_of, setting_of, stages
from .samples import fake_run

SHA = "ab" * 32
PLAN = FixedBudget(100, 1_000)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    made = PLAN.certificate(stages((100,), (950, 50)), setting_of())
    return replace(made, identity=identity_of(None))


@pytest.fixture(scope="module")
def results(certificate: Certificate) -> RunResults:
    """Two certificates, an abstention and an image that was refused."""
    abstains = PLAN.certificate(stages((100,), (40, 560)), setting_of())
    images = tuple(
        ImageResult(index, "7", 0, held, 0.5)
        for index, held in enumerate((certificate, certificate, abstains))
    )
    refused = (RefusedImage(3, "broken", "It is broken."),)
    return RunResults(replace(fake_run(), refused=refused), images)


def verdicts(path: str | Path, run: str | None = None) -> Counter[Verdict]:
    return Counter(row.finding.verdict for row in open_evidence(path, run=run).rows())


@pytest.mark.parametrize("format", ExportFormat)
def test_exports_are_known_by_their_content(
    format: ExportFormat, results: RunResults, tmp_path: Path
) -> None:
    if format is ExportFormat.PARQUET:
        pytest.importorskip("pyarrow")
    export(results, format, tmp_path / "other.txt")
    evidence = open_evidence(tmp_path / "other.txt")
    assert evidence.kind.value == format.value
    rows = list(evidence.rows())
    assert [row.place for row in rows] == ["row 1", "row 2", "row 3", "row 4"]
    assert [row.finding.verdict.value for row in rows] == ["holds"] * 2 + ["no claim"] * 2
    assert rows[0].certificate == results.images[0].certificate
    assert rows[3].finding.reason == "the image was refused"
    assert list(evidence.rows()) == rows
    assert len(list(open_evidence(tmp_path / "other.txt", limit=3).rows())) == 3


@pytest.mark.parametrize(
    "write",
    [
        lambda values: json.dumps(values),
        lambda values: json.dumps(values, indent=2),
        lambda values: json.dumps({"label": 0, "certificate": values}),
        lambda values: "\n " + json.dumps(values) + "\n\n",
    ],
    ids=["line", "indented", "answer", "blank lines"],
)
def test_certificates_of_any_layout_are_read(
    write: Callable[[object], str], certificate: Certificate, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(write(certificate.to_dict()))
    evidence = open_evidence(path)
    assert evidence.kind is Kind.CERTIFICATE
    assert [row.certificate for row in evidence.rows()] == [certificate]


def test_altered_and_malformed_rows_keep_no_other_from_being_read(
    results: RunResults, tmp_path: Path
) -> None:
    path = tmp_path / "run.jsonl"
    export(results, ExportFormat.JSONL, path)
    lines = path.read_text().splitlines()
    lines[0] = lines[0].replace('"radius": 0.', '"radius": 1.')
    lines[2] = lines[2].replace('"sigma": 0.25', '"sigma": "0.25"')
    path.write_text("\n".join(lines))
    rows = list(open_evidence(path).rows())
    assert [row.finding.verdict.value for row in rows] == [
        "altered", "holds", "malformed", "no claim",
    ]  # fmt: skip
    assert "'radius'" in rows[0].finding.reason
    assert "'sigma'" in rows[2].finding.reason


def test_a_file_that_ends_too_early_is_malformed(results: RunResults, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    pytest.importorskip("pyarrow")
    export(results, ExportFormat.PARQUET, path)
    path.write_bytes(path.read_bytes()[:-40])
    assert verdicts(path) == {Verdict.MALFORMED: 1}


def stored_run(path: str) -> None:
    """A certificate, an abstention and an image that is unfinished."""
    settings = fake_run().settings | {
        "plan": PLAN.to_dict(), "classifier_fingerprint": SHA, "denoiser_fingerprint": SHA,
    }  # fmt: skip
    votes = {"a": ((950, 50), True), "b": ((40, 560), True), "c": ((900,), False)}
    with Store(path) as store:
        store.begin("run", settings, seed=7, info={"refused": []})
        store.save_images(
            "run",
            [
                StoredImage(index, name, 0, SHA, counted(name, found), 0.5, finished)
                for index, (name, (found, finished)) in enumerate(votes.items())
            ],
        )


def test_a_run_of_a_store(tmp_path: Path) -> None:
    path = str(tmp_path / "runs.sqlite")
    stored_run(path)
    evidence = open_evidence(path, run="run")
    assert evidence.kind is Kind.STORE
    rows = list(evidence.rows())
    assert [(row.place, row.image_id, row.finding.verdict.value) for row in rows] == [
        ("index 0", "a", "holds"),
        ("index 1", "b", "no claim"),
        ("index 2", "", "no claim"),
    ]
    assert [row.remark for row in rows] == [None, None, "unfinished"]
    assert rows[0].certificate is not None
    assert rows[0].certificate.identity is not None
    assert rows[0].certificate.identity.image_sha256 == SHA
    with Store(path) as store:  # as someone would who edits the database
        store.save_images("run", [StoredImage(0, "a", 0, SHA, counted("a", (990,)), 0.5, True)])
    assert verdicts(path, "run") == {Verdict.MALFORMED: 1, Verdict.NO_CLAIM: 2}
    with pytest.raises(RunNotFoundError):
        verdicts(path, "other")


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ("runs SET settings = json_set(settings, '$.plan.foo', 1)", "run", "plan.foo"),
        ("runs SET settings = json_set(settings, '$.plan.n', '1000')", "run", "n must be"),
        ("runs SET settings = json_set(settings, '$.sigma', 'x')", "run", "settings of the run"),
        ("runs SET info = json_set(info, '$.refused', 7)", "run", "settings of the run"),
        (
            "runs SET settings = json_set(settings, '$.denoiser_fingerprint', 7)",
            "index 0",
            "identity.denoiser_fingerprint",
        ),
        ("images SET digest = 'short'", "index 0", "identity.image_sha256"),
        ("images SET counts = '{\"other\": [[1], 0]}'", "run", "cannot be read"),
        ("images SET counts = '{\"selection\": 7}'", "run", "cannot be read"),
    ],
)
def test_an_edited_store_is_malformed(change: str, place: str, reason: str, tmp_path: Path) -> None:
    path = str(tmp_path / "runs.sqlite")
    stored_run(path)
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(f"UPDATE {change}").rowcount
    row = next(open_evidence(path, run="run").rows())
    assert (row.place, row.finding.verdict) == (place, Verdict.MALFORMED)
    assert reason in row.finding.reason


@pytest.mark.parametrize("format", ExportFormat)
def test_a_row_that_is_there_twice_counts_once(
    format: ExportFormat, results: RunResults, tmp_path: Path
) -> None:
    if format is ExportFormat.PARQUET:
        pytest.importorskip("pyarrow")
    first = results.images[0]
    export(RunResults(fake_run(), (first, first)), format, tmp_path / "run")
    first_row, second = open_evidence(tmp_path / "run").rows()
    assert first_row.finding.verdict is Verdict.HOLDS
    assert second.finding.verdict is Verdict.MALFORMED
    assert "index 0 was in an earlier row" in second.finding.reason


def test_certificates_without_an_identity_are_counted(
    certificate: Certificate, tmp_path: Path
) -> None:
    values = certificate.to_dict()
    stripped = {name: values[name] for name in values if name not in ("format", "identity")}
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(stripped))
    outcome = Outcome()
    for row in open_evidence(path).rows():
        outcome.add(row)
    assert outcome.to_dict()["without_identity"] == 1
    assert outcome.described() == (
        "Certificates: 1 holds. 1 do not say which model and image they are about."
    )


def counted(name: str, votes: tuple[int, ...]) -> dict[Stage, LabelCounts]:
    return {
        Stage.SELECTION: LabelCounts("run", name, Stage.SELECTION, (100,)),
        Stage.ESTIMATION: LabelCounts("run", name, Stage.ESTIMATION, votes),
    }


@pytest.mark.parametrize(
    ("content", "run", "message"),
    [
        (b"", None, "neither a certificate"),
        (b"a,b\n", None, "neither a certificate"),
        (b"SQLite format 3\0", None, "needs the name of a run"),
        (b"{}", "run", "has no runs. Remove --run"),
    ],
)
def test_other_sources_are_refused(
    content: bytes, run: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=message):
        open_evidence(path, run=run)


def test_sources_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read: No such file"):
        open_evidence(tmp_path / "missing.json")
    with pytest.raises(SettingError, match="needs the name of a run"):
        open_evidence("postgresql://user@host/name")


def test_an_outcome_counts_all_and_lists_the_first_that_fail() -> None:
    outcome = Outcome(listed=1)
    for verdict in (Verdict.HOLDS, Verdict.WEAKER, Verdict.ALTERED, Verdict.CONFIRMED):
        outcome.add(Row("row", Finding(Verdict.HOLDS), "id"), Finding(verdict, "reason"))
    outcome.add(Row("row", Finding(Verdict.NO_CLAIM)))
    outcome.add(Row("row", UNFINISHED))
    assert outcome.worst is Verdict.ALTERED
    assert outcome.not_listed == 1
    found = outcome.to_dict()
    assert found["rows"] == 6
    assert (found["unfinished"], found["refused"], found["without_identity"]) == (1, 0, 0)
    assert {name: n for name, n in found["verdicts"].items() if n} == dict.fromkeys(
        ("holds", "weaker", "altered", "confirmed"), 1
    ) | {"no claim": 2}
    assert found["failing"] == [
        {"place": "row", "image_id": "id", "verdict": "weaker", "reason": "reason"}
    ]
