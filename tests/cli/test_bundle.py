"""bundle, and --bundle of predict and certify."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from denoised_smoothing.cli import main

SAMPLES = Path(__file__).parents[1] / "samples"
SPECS = ("--classifier", "digits", "--denoiser", "digits-mse", "--sigma", "0.5")
SMALL = ("--n0", "50", "--n", "50", "--seed", "1", "--limit", "2", "--json")

Command = Callable[..., Any]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs a command in a folder of its own; exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments)])
        captured = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int | None)
        return code or 0, captured.out, captured.err

    return command


@pytest.fixture
def bundle(run: Command, tmp_path: Path) -> Path:
    code, out, err = run("bundle", *SPECS, "--output", "one")
    assert code == 0, err
    assert out.startswith("Bundle: one (torch ")
    assert "in float32, sigma 0.5, images of shape [1, " in out
    return tmp_path / "one"


def test_certifies_and_goes_on_as_the_specs_do(run: Command, bundle: Path) -> None:
    by_specs = run("certify", "digits", *SPECS, *SMALL, "--store", "specs.sqlite", "--run", "r")
    by_bundle = run(
        "certify", "digits", "--bundle", bundle, *SMALL, "--store", "bundle.sqlite", "--run", "r"
    )
    assert by_specs[0] == by_bundle[0] == 0
    for store in ("specs.sqlite", "bundle.sqlite"):
        assert run("export", "r", "--output", f"{store}.tsv", "--store", store)[0] == 0
    columns = [
        [line.split("\t")[:5] for line in Path(f"{store}.tsv").read_text().splitlines()]
        for store in ("specs.sqlite", "bundle.sqlite")
    ]
    assert columns[0] == columns[1]
    code, _, err = run(
        "certify", "digits", "--bundle", bundle, *SMALL, "--store", "specs.sqlite", "--run", "r"
    )
    assert code == 0, err


def test_predicts(run: Command, bundle: Path) -> None:
    import numpy as np
    import PIL.Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save("image.png")
    common = ("--n", "50", "--seed", "1", "--json")
    answers = [
        json.loads(run("predict", "image.png", *options, *common)[1])
        for options in (SPECS, ("--bundle", bundle))
    ]
    assert answers[0] == answers[1]
    assert answers[0]["engine"] == "torch"


def test_options_that_it_stands_for_are_refused(run: Command, bundle: Path) -> None:
    for options in (("--sigma", "0.5"), ("--engine", "torch"), ("--precision", "float32")):
        code, _, err = run("certify", "digits", "--bundle", bundle, *options)
        assert code == 2
        assert f"already sets {options[0]}. Remove these options, or --bundle." in " ".join(
            err.split()
        )


def test_one_of_both_is_needed(run: Command) -> None:
    code, _, err = run("certify", "digits", "--sigma", "0.5")
    assert code == 2
    assert (
        "Option --classifier is missing. Give --classifier and --sigma, or --bundle FOLDER."
        in " ".join(err.split())
    )
    code, _, err = run("certify", "digits", "--classifier", "digits")
    assert code == 2
    assert "Option --sigma is missing. " in " ".join(err.split())


def test_an_altered_bundle_is_refused(run: Command, bundle: Path) -> None:
    (bundle / "denoiser.safetensors").unlink()
    code, _, err = run("certify", "digits", "--bundle", bundle)
    assert code == 2
    assert "denoiser.safetensors is missing from the bundle" in " ".join(err.split())


def test_a_classifier_of_a_factory_comes_back(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(SAMPLES / "toy.py", tmp_path)
    toy = ("--classifier", "python:toy:Toy", "--sigma", "0.5")
    code, _, err = run("bundle", *toy, "--output", "one")
    assert code == 2
    assert "its channels are 1 and its resolution is None. Set shape" in " ".join(err.split())
    code, out, err = run("bundle", *toy, "--resolution", "8", "--output", "one", "--json")
    assert code == 0, err
    assert json.loads(out)["classifier"] == "python:toy:Toy"
    code, _, err = run("certify", "digits", "--bundle", "one", *SMALL)
    assert code == 2
    assert "names the classifier 'python:toy:Toy', which runs code" in " ".join(err.split())
    assert run("certify", "digits", "--bundle", "one", *toy[:2], *SMALL)[0] == 0
    for other in (("--classifier", "digits"), ("--denoiser", "none"), toy):
        code, _, err = run("certify", "digits", "--bundle", "one", *other, *SMALL)
        assert code == 2
        assert f"already sets {other[0]}" in " ".join(err.split())
    code, out, err = run("bundle", *toy, "--resolution", "8", "--output", "two")
    assert code == 0
    assert "Add --classifier python:toy:Toy next to --bundle" in " ".join((out + err).split())


def test_a_bundle_brings_no_code(run: Command, bundle: Path) -> None:
    """Not even of a module that lies in it, where it is the working folder."""
    (bundle / "own.py").write_text("open('ran', 'w')\ndef make(): open('ran', 'w')\n")
    code, _, err = run("certify", "digits", "--bundle", bundle)
    assert code == 2
    assert "holds 'own.py', which its bundle.json does not list" in " ".join(err.split())
    assert not Path("ran").exists()
