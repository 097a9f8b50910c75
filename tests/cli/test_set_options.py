"""Prediction sets on the command line: two calibrations, and options that exclude each other."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest

from .test_cli import TOY, Run, picture, run

__all__ = ["run"]
SETS = ("--coverage", "0.8", "--radius", "0.05")


def test_a_run_calibrates_sets(run: Run) -> None:
    shipped = ("--classifier", "digits", "--denoiser", "digits-stability", "--sigma", "0.25")
    run("certify", "digits", *shipped, "--n0", "40", "--n", "50", "--limit", "60", "--run", "a")
    arguments = ("predict", picture("a.png"), *shipped, *SETS, "--calibration-run", "a")
    values = run(*arguments, "--json").json
    assert (values["evidence"], values["copies"], values["calibration_images"]) == ("votes", 40, 60)
    assert all(40 >= votes >= values["threshold"] > 0 for votes in values["values"])
    assert values["label_names"] == [str(label) for label in values["labels"]]
    assert run(*arguments).out.endswith("Calibration: 60 images of run 'a' (digits).\n")


def test_votes_that_are_never_right_give_no_sets(run: Run) -> None:
    run("certify", "digits", *TOY, "--n0", "40", "--n", "50", "--limit", "60", "--run", "a")
    outcome = run("predict", picture("a.png"), *TOY, *SETS, "--calibration-run", "a")
    assert outcome.code == 2
    assert "would hold every label: the true label has at most 0 of 40 votes" in outcome.message


def test_data_calibrate_sets_of_several_images(run: Run) -> None:
    files = (picture("a.png"), picture("b.png"))
    arguments = ("predict", *files, *TOY, *SETS, "--seed", "4", "--calibration-data", "digits")
    outcome = run(*arguments, "--limit", "60")
    assert outcome.code == 0
    first, second, statement = outcome.out.splitlines()
    names = first.removeprefix("a.png: ").split(", ")
    assert second == f"b.png: {', '.join(names)}"  # the same pixels
    assert statement.startswith("Over images like the 60 of the calibration")
    assert statement.endswith("Calibration: 60 images of digits, seed 4.")
    values = [
        json.loads(line) for line in run(*arguments, "--limit", "60", "--json").out.splitlines()
    ]
    assert [value["image"] for value in values] == list(files)
    assert values[0]["label_names"] == names == ["abcdefghij"[k] for k in values[0]["labels"]]
    assert (values[0]["evidence"], values[0]["copies"]) == ("scores", 1)


def test_too_few_images_are_counted(run: Run) -> None:
    outcome = run(
        "predict", picture("a.png"), *TOY, "--coverage", "0.9", "--radius", "0.5",
        "--calibration-data", "digits", "--limit", "50",
    )  # fmt: skip
    assert outcome.code == 2
    assert "needs at least 88 calibration images, got 50" in outcome.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--radius", "0.1"), "Option --radius is for prediction sets. Give --coverage"),
        (("--limit", "5"), "Option --limit is for prediction sets."),
        (SETS, "either --calibration-run RUN or --calibration-data DATA, got neither"),
        ((*SETS, "--calibration-run", "a", "--calibration-data", "digits"), "DATA, got both"),
        ((*SETS, "--calibration-run", "a", "--n", "5"), "--coverage does not accept --n"),
        ((*SETS, "--calibration-run", "a", "--copies", "5"), "--copies belongs to --calibration-d"),
        ((*SETS, "--calibration-run", "a"), "The store runs.sqlite failed (there is no"),
        (("--coverage", "1", "--calibration-data", "digits"), "coverage must lie strictly between"),
    ],
)
def test_options_that_do_not_fit(run: Run, options: tuple[str, ...], message: str) -> None:
    outcome = run("predict", picture("a.png"), *TOY, *options)
    assert (outcome.code, outcome.out) in ((1, ""), (2, ""))
    assert message in outcome.message


def test_a_remote_classifier_names_the_labels_of_its_sets(run: Run) -> None:
    simulated = ("--classifier", "simulated?weights=cat=0.9,dog=0.1", "--sigma", "0.25", "--yes")
    Path("photos", "cat").mkdir(parents=True)
    for number in range(12):
        PIL.Image.new("RGB", (8, 8), (9 * number,) * 3).save(f"photos/cat/{number}.png")
    run("certify", "folder:photos", *simulated, "--n0", "50", "--n", "50", "--run", "a")
    sets = ("--coverage", "0.9", "--radius", "0.02", "--calibration-run", "a")
    assert run("predict", "photos/cat/1.png", *simulated, *sets).out.startswith("cat\nOver images")
    assert ": label " in run("predict", "photos/cat/1.png", *simulated, "--n", "50").out
    outcome = run(
        "predict", "photos/cat/1.png", *simulated, *SETS, "--calibration-data", "folder:photos"
    )
    assert outcome.code == 2
    assert "a remote one gives labels. Use vote shares of a stored run" in outcome.message
