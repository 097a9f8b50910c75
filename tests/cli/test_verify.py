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
    for name, value, verdict in (("radius", 0.9, "altered"), ("sigma", "0.5", "malformed")):
        Path("edited.json").write_text(json.dumps(values | {name: value}))
        found = run("edited.json")
        assert found.code == 4
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
    weaker = run("right.json", *MODEL, "--fresh", "--seed", "2", "--n", "20")
    assert weaker.code == 5
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
    assert found.code == 5
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
    assert found.code == 4
    assert found.json["kind"] == "jsonl"
    assert (found.json["verdicts"]["holds"], found.json["verdicts"]["altered"]) == (2, 3)
    assert [row["place"] for row in found.json["failing"]] == ["row 2", "row 4"]
    assert found.json["failing_not_listed"] == 1
    assert "... and 1 more" in run("run.jsonl", "--list", "2").out
    assert run("run.jsonl", "--limit", "1").code == 0
    drawn = run("run.jsonl", *MODEL, "--json")
    assert (drawn.json["verdicts"]["equal"], drawn.json["verdicts"]["altered"]) == (2, 3)


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
        ((*MODEL, "--bundle", "b"), "Got both --classifier digits and --bundle b"),
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
