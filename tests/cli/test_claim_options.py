"""--sets, --groups and --top-k of certify and report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from denoised_smoothing.cli import main

MODULE = """
import torch

class Torn(torch.nn.Module):
    label_names = ("left", "right", "never")

    def forward(self, images):
        score = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([score, -score, torch.full_like(score, -9)], dim=1)
"""
CERTIFY = (
    "certify", "folder:images", "--classifier", "python:torn:Torn", "--sigma", "0.5",
    "--n0", "50", "--n", "500", "--seed", "1", "--engine", "torch", "--run", "torn",
)  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in a folder with a classifier that is torn between left and right."""
    import numpy as np
    import PIL.Image

    (tmp_path / "torn.py").write_text(MODULE)
    (tmp_path / "groups.txt").write_text("side = left, right\n")
    (tmp_path / "images").mkdir()
    for index in range(2):
        values = np.full((8, 8), 127 + index, np.uint8)
        PIL.Image.fromarray(values).save(tmp_path / f"images/{index}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torn", raising=False)

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command


def test_a_table_of_what_the_votes_prove(run: Run) -> None:
    code, out, err = run(*CERTIFY, "--sets", "2", "--groups", "groups.txt", "--radii", "0,0.1")
    assert code == 0, err
    rows = {" ".join(line.split()) for line in out.splitlines()}
    assert {"answer 0 0.1 of 2 abstaining", "top label 0 0 0"} <= rows
    assert {"one of 2 labels 2 2 2", "group 2 2 2"} <= rows
    code, out, err = run("report", "torn", "--sets", "2", "--top-k", "2", "--radii", "0.1")
    assert code == 0, err
    page = Path("report.html").read_text("utf-8")
    assert "<tr><td>one of 2 labels</td><td>2</td><td>2</td></tr>" in page
    assert "<td>among the 2 most probable</td>" in page
    assert "answers left or right at" in page or "answers right or left at" in page
    code, out, err = run("report", "torn", "--sets", "2", "--radii", "0.1", "--json")
    assert code == 0, err
    assert json.loads(out)["further"]["torn"]["rows"][1]["certified"] == {"0.1": 2}


def test_the_json_of_a_report_has_the_numbers_of_its_page(run: Run) -> None:
    """At 0.001 / 2 images: top labels hold together, sets and groups have this alpha each."""
    code, _, err = run(*CERTIFY)
    assert code == 0, err
    ask = ("report", "torn", "--sets", "2", "--groups", "groups.txt", "--radii", "0.1,0.9")
    alone, together = (
        json.loads(run(*ask, *more, "--json")[1]) for more in ((), ("--together", "0.001"))
    )
    page = Path("report.html").read_text("utf-8")
    assert (alone["together"], together["together"]) == (None, 0.001)
    for values, alpha in ((alone, 0.001), (together, 0.0005)):
        for image in values["further"]["torn"]["images"]:
            assert {held["alpha"] for held in (*image["sets"], *image["groups"])} == {alpha}
            assert image["finest_group"]["radius"] == 0.1
    radii = [
        [image["sets"][0]["radius"] for image in values["further"]["torn"]["images"]]
        for values in (together, alone)
    ]
    assert all(small < large for small, large in zip(*radii, strict=True))
    for row in together["further"]["torn"]["rows"]:
        cells = [row["answer"], *map(str, row["certified"].values()), str(row["abstaining"])]
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page


def test_a_report_names_the_run_that_cannot_answer(run: Run) -> None:
    run(*CERTIFY)
    run(*("other" if part == "torn" else part for part in ANYTIME), "--n0", "0")
    code, _, err = run("report", "torn", "other", "--sets", "2")
    assert code == 2
    assert "Run 'other': Groups, sets and top-k certificates need copies" in err


def test_the_sentences_of_one_image(run: Run) -> None:
    code, out, err = run(*CERTIFY, "--limit", "1", "--groups", "groups.txt")
    assert code == 0, err
    assert "With votes by group, the answer is side (left, right) at every image closer" in out


def test_json(run: Run) -> None:
    code, out, err = run(*CERTIFY, "--limit", "1", "--sets", "2", "--json", "--radii", "0.1")
    assert code == 0, err
    further = json.loads(out)["further"]
    assert further["rows"][1] == {
        "answer": "one of 2 labels", "certified": {"0.1": 1}, "abstaining": 1,
    }  # fmt: skip
    [held] = further["images"][0]["sets"]
    assert sorted(held["labels"]) == [0, 1]
    assert held["radius"] > 0.1
    code, out, _ = run(*CERTIFY, "--limit", "1", "--json")
    assert "further" not in json.loads(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sets", "0"), "--sets must be whole numbers of at least 1, separated by commas"),
        (("--top-k", "a"), "Write for example --top-k 2,3,5."),
        (("--groups", "missing.txt"), "--groups must be 'imagenet', or a file with lines"),
        (("--groups", "imagenet"), "Write a file with your own groups."),
    ],
)
def test_what_is_refused_before_any_work(run: Run, options: tuple[str, ...], message: str) -> None:
    code, _, err = run(*CERTIFY, *options)
    assert code == 2
    assert message in err
    assert not Path("runs.sqlite").exists()


def test_a_plan_without_selection_is_refused(run: Run) -> None:
    plan = ("--plan", "anytime", "--n0", "0", "--sets", "2")
    code, _, err = run(
        *(part for part in CERTIFY if part not in ("--n0", "50", "--n", "500")), *plan
    )
    assert code == 2
    assert "n0 of at least 1, such as --n0 50" in err


ANYTIME = (
    "certify", "folder:images", "--classifier", "python:torn:Torn", "--sigma", "0.5", "--seed", "1",
    "--plan", "anytime", "--engine", "torch", "--radii", "0.25,0.5", "--run", "torn",
)  # fmt: skip


def test_sampling_decides_about_sets(run: Run) -> None:
    ask = ("--sets", "2", "--json")
    _, out, _ = run(*ANYTIME, *ask)
    early = json.loads(out)
    _, out, err = run(*ANYTIME, *ask, "--decide", "top,sets", "--store", "other.sqlite")
    later = json.loads(out)
    assert early["further"]["rows"][1]["certified"] == {"0.25": 2, "0.5": 0}
    assert later["further"]["rows"][1]["certified"] == {"0.25": 2, "0.5": 2}
    assert later["rows"][0]["calls"] > early["rows"][0]["calls"]
    code, _, err = run(*ANYTIME, "--sets", "2", "--store", "other.sqlite")
    assert code != 0
    assert "plan" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--decide", "sets", "--sets", "2"), "--decide must be top, alone or with"),
        (("--decide", "top,all", "--sets", "2"), "--decide must be top, alone or with"),
        (("--decide", "top,groups", "--sets", "2"), "Add --groups, or remove it from --decide."),
        (("--decide", "top,sets"), "Add --sets, or remove it from --decide."),
    ],
)
def test_what_cannot_be_decided(run: Run, options: tuple[str, ...], message: str) -> None:
    code, _, err = run(*ANYTIME, *options)
    assert code == 2
    assert message in " ".join(err.split())


def test_a_fixed_plan_decides_nothing(run: Run) -> None:
    code, _, err = run(*CERTIFY, "--sets", "2", "--decide", "top,sets")
    assert code == 2
    assert "needs an anytime plan, got fixed" in err
