"""The command ``verify``: depths, exit codes, and what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from denoised_smoothing import SmoothedClassifier, load_classifier, load_dataset, load_denoiser
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.cli import main
from denoised_smoothing.images import digest

IMAGE = load_dataset("digits")[0].image
MODEL = ("--classifier", "digits", "--denoiser", "digits-mse", "--data", "digits")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    smoothed = SmoothedClassifier(
        load_classifier("digits"), 0.5, load_denoiser("digits-mse"), device="cpu"
    )
    made = smoothed.certify(IMAGE, n0=50, n=500, seed=1)
    classifier, denoiser = smoothed.fingerprints()
    identity = Identity("digits", classifier, "digits-mse", denoiser, digest(IMAGE))
    return replace(made, identity=identity)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["denoised-smoothing", "verify", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Outcome(int(end.value.code or 0), *capsys.readouterr())

    return call


def forged(certificate: Certificate) -> Certificate:
    votes = {certificate.label or 0: certificate.counts.n}
    counts = replace(certificate.counts, votes=votes)
    stages = {held.stage: held for held in (certificate.selection, counts)}
    made = certificate.plan.certificate(stages, certificate.parameters)
    return replace(made, identity=certificate.identity)


def test_the_arithmetic_of_a_certificate(run: Run, certificate: Certificate) -> None:
    forged(certificate).save("forged.json")
    found = run("forged.json")
    assert found.code == 0
    assert found.out.startswith("Certificates: 1 holds.\nArithmetic: ")
    assert "a consistent forgery passes this check" in found.out
    values = certificate.to_dict()
    for name, value, verdict, code in (
        ("radius", 0.9, "altered", 5),
        ("sigma", "0.5", "malformed", 4),
    ):
        Path("edited.json").write_text(json.dumps(values | {name: value}))
        found = run("edited.json")
        assert found.code == code
        assert found.out.startswith(f"{verdict}: file: The field '{name}'")


def test_the_copies_are_drawn_again(run: Run, certificate: Certificate) -> None:
    certificate.save("right.json")
    forged(certificate).save("forged.json")
    right = run("right.json", *MODEL, "--exact")
    assert right.code == 0
    assert right.out.startswith("Certificates: 1 equal.\nRedraw: ")
    assert "an audit (--fresh)" in right.out
    wrong = run("forged.json", *MODEL, "--exact")
    assert wrong.code == 3
    assert wrong.out.startswith(f"contradicted: file, image {certificate.counts.image_id!r}: ")


def test_fresh_copies_decide(run: Run, certificate: Certificate) -> None:
    certificate.save("right.json")
    found = run("right.json", *MODEL, "--fresh", "--seed", "2", "--json")
    assert (found.code, found.json["verdicts"]["confirmed"]) == (0, 1)
    assert (found.json["depth"], found.json["seed"], found.json["alpha"]) == ("audit", "2", 0.001)
    forged(certificate).save("forged.json")
    wrong = run("forged.json", *MODEL, "--fresh", "--seed", "2")
    assert wrong.code == 3
    assert wrong.out.startswith(f"contradicted: file, image {certificate.counts.image_id!r}: ")
    assert "of 2,000 fresh copies have label" in wrong.out
    weaker = run("right.json", *MODEL, "--fresh", "--seed", "2", "--n", "20")
    assert weaker.code == 8
    assert weaker.out.startswith("weaker: ")


def test_a_bundle_has_the_fingerprints_of_its_parts(run: Run, certificate: Certificate) -> None:
    smoothed = SmoothedClassifier(
        load_classifier("digits"), 0.5, load_denoiser("digits-mse"), device="cpu"
    )
    smoothed.save("bundle")
    certificate.save("right.json")
    found = run("right.json", "--bundle", "bundle", "--data", "digits", "--exact")
    assert (found.code, found.out.partition("\n")[0]) == (0, "Certificates: 1 equal.")


def test_another_denoiser_is_named(run: Run, certificate: Certificate) -> None:
    certificate.save("right.json")
    found = run("right.json", "--classifier", "digits", "--data", "digits", "--json")
    assert found.code == 6
    [row] = found.json["failing"]
    assert row["verdict"] == "different"
    assert "'digits-mse'" in row["reason"]
    assert "'none'" in row["reason"]


def test_lines_are_counted_and_the_first_that_fail_are_listed(
    run: Run, certificate: Certificate
) -> None:
    row = {"true_label": 0, "refused": None, "seconds": 0.0}
    right, wrong = {}, {"radius": 1.0}
    lines = (
        json.dumps(row | {"index": index, "certificate": certificate.to_dict() | change})
        for index, change in enumerate([right, wrong, right, wrong, wrong])
    )
    Path("run.jsonl").write_text("\n".join(lines) + "\n")
    found = run("run.jsonl", "--json", "--list", "2")
    assert found.code == 5
    assert found.json["kind"] == "jsonl"
    assert (found.json["verdicts"]["holds"], found.json["verdicts"]["altered"]) == (2, 3)
    assert [row["place"] for row in found.json["failing"]] == ["row 2", "row 4"]
    assert found.json["failing_not_listed"] == 1
    assert "... and 1 more" in run("run.jsonl", "--list", "2").out
    assert run("run.jsonl", "--limit", "1").code == 0
    drawn = run("run.jsonl", *MODEL, "--json")
    assert (drawn.json["verdicts"]["equal"], drawn.json["verdicts"]["altered"]) == (2, 3)


def test_one_row_does_not_end_the_check_of_the_others(run: Run, certificate: Certificate) -> None:
    row = {"true_label": None, "refused": None, "seconds": 0.0}
    changes = (
        {"precision": "int8"},  # torch has none
        {"precision": "float16"},  # nor this one on a CPU
        {},
        {"identity": certificate.to_dict()["identity"] | {"image_sha256": "0" * 64}},
    )
    lines = [
        json.dumps(row | {"index": index, "certificate": certificate.to_dict() | each})
        for index, each in enumerate(changes)
    ]
    Path("run.jsonl").write_text("\n".join(lines) + "\n")
    found = run("run.jsonl", *MODEL, "--json")
    assert (found.code, found.json["verdicts"]["equal"]) == (7, 1)
    first, second, third = sorted(found.json["failing"], key=lambda row: str(row["place"]))
    assert [row["verdict"] for row in (first, second, third)] == ["unchecked"] * 3
    assert [row["place"] for row in (first, second, third)] == ["row 1", "row 2", "row 4"]
    assert first["reason"].startswith("its model cannot be used here: ")
    assert "int8" in first["reason"]


def test_copies_are_counted_before_they_are_drawn(run: Run, certificate: Certificate) -> None:
    votes = {certificate.label or 0: 10**15}
    counts = replace(certificate.counts, votes=votes)
    plan = replace(certificate.plan, n=10**15)
    stages = {held.stage: held for held in (certificate.selection, counts)}
    made = plan.certificate(stages, certificate.parameters)
    replace(made, identity=certificate.identity).save("large.json")
    for options, needed in (((), "1,000,000,000,000,050"), (("--fresh",), "4,000,000,000,000,000")):
        found = run("large.json", *MODEL, *options)
        assert found.code == 7
        assert f"needs {needed} copies" in found.out
        assert f"the certificates need {needed} copies" in " ".join(found.err.split())
    certificate.save("right.json")
    found = run("right.json", *MODEL, "--max-calls", "549", "--json")
    assert (found.code, found.json["calls"], found.json["max_calls"]) == (7, 550, 549)
    assert run("right.json", *MODEL, "--max-calls", "550").code == 0


def test_index_and_true_label_are_those_of_the_data(run: Run, certificate: Certificate) -> None:
    made = replace(certificate, identity=None).to_dict() | {
        "identity": certificate.to_dict()["identity"],
        "image_id": load_dataset("digits").image_ids[0],
    }
    row = {"index": 0, "true_label": 0, "refused": None, "seconds": 0.0, "certificate": made}
    for field, value in (("index", 1), ("true_label", 1)):
        Path("run.jsonl").write_text(json.dumps(row | {field: value}) + "\n")
        failing = run("run.jsonl", *MODEL, "--json").json["failing"]
        assert failing[-1]["verdict"] == "different"
        expected = f"{field} is 1 in the file and 0 of the image at hand"
        assert failing[-1]["reason"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fresh",), "without --classifier and --data"),
        (("--data", "digits"), "without --classifier"),
        (("--denoiser", "digits-mse"), "without --classifier and --data"),
        (("--run", "a"), "has no runs. Remove --run"),
        (("--n", "10"), "--n has no effect on this check"),
        ((*MODEL, "--seed", "10"), "--seed has no effect on this check"),
        ((*MODEL, "--fresh", "--exact"), "--exact has no effect on this check"),
        (("--bundle", "b", *MODEL), "--bundle b already sets --classifier, --denoiser"),
        (("--bundle", "b", "--data", "digits", "--engine", "torch"), "already sets --engine"),
        (("--max-calls", "9"), "--max-calls has no effect on this check (depth arithmetic)"),
        (("--alpha", "0.1", "--engine", "torch"), "--alpha, --engine has no effect"),
        (("--device", "cpu", "--calibration", "digits"), "--device, --calibration has no effect"),
        ((*MODEL, "--max-calls", "0"), "max_calls"),
        (("--classifier", "digitz", "--data", "digits"), "digitz"),
        ((*MODEL, "--alpha", "2"), "alpha must lie"),
        (("--classifier", "simulated", "--data", "digits"), "remote classifiers"),
    ],
)
def test_refusals(
    run: Run, certificate: Certificate, options: tuple[str, ...], message: str
) -> None:
    certificate.save("right.json")
    found = run("right.json", *options)
    assert found.code == 2
    assert message in " ".join(found.err.split())


def test_other_files_are_refused(run: Run) -> None:
    Path("empty.json").touch()
    for name, message in (("empty.json", "neither a certificate"), ("no.json", "cannot be read")):
        found = run(name)
        assert found.code == 2
        assert message in found.err


def test_the_arithmetic_loads_no_torch(certificate: Certificate, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    certificate.save(path)
    code = (
        "import sys; from denoised_smoothing.cli import main\n"
        "try: main(['verify', sys.argv[1]])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False"
