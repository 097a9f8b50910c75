"""The command ``attack``: exit codes, what is printed, and what the folder holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from denoised_smoothing.attacks import Campaign
from denoised_smoothing.cli import main
from denoised_smoothing.cli.attack import ALARM
from denoised_smoothing.errors import ClassifierError, ImageError, StoreError
from denoised_smoothing.images import load_image

MODULE = """
import os
import torch

class Liar(torch.nn.Module):
    '''Certified while it answers 0 to everything; attacked while brightness decides.'''

    channels = 1

    def forward(self, images):
        score = 40 * (images.mean(dim=(1, 2, 3)) - float(os.environ.get("BOUNDARY", "-99")))
        return torch.stack([score, -score], dim=1)

class Box(Liar):
    def forward(self, images):
        return super().forward(images).argmax(dim=1)

class Named(Liar):
    label_names = ("bright", "dark")

class Other(Liar):
    def __init__(self):
        super().__init__()
        self.more = torch.nn.Parameter(torch.ones(1))
"""
COMMON = ("--store", "a.sqlite", "--steps", "3", "--copies", "8", "--n", "300", "--seed", "0")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs a command in a folder that holds ``liar.py`` and the folder ``images``."""
    (tmp_path / "liar.py").write_text(MODULE)
    (tmp_path / "images").mkdir()
    for index, level in enumerate((128, 140, 150)):
        values = np.full((8, 8), level, np.uint8)
        PIL.Image.fromarray(values).save(tmp_path / f"images/{index}.png")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["denoised-smoothing", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Outcome(int(end.value.code or 0), *capsys.readouterr())

    yield call
    sys.modules.pop("liar", None)


def certify(run: Run, classifier: str = "python:liar:Liar") -> None:
    outcome = run(
        "certify", "folder:images", "--classifier", classifier, "--sigma", "0.25", "--n0", "20",
        "--n", "300", "--store", "a.sqlite", "--run", "lies", "--seed", "3",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err


def found(folder: str = "attack") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "attack.json").read_text())
    return content


class TestAlarm:
    def test_a_broken_certificate_has_an_exit_code_and_keeps_the_image(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certify(run)
        monkeypatch.setenv("BOUNDARY", "0.46")
        outcome = run("attack", "lies", *COMMON, "--share", "0.99")
        assert outcome.code == ALARM == 3
        message = " ".join(outcome.err.split())
        assert "ALARM: image '0.png' is certified as label 0 within L2 radius" in message
        assert "label 1 wins" in message
        assert "The image is stored as attack/00000-after.png." in message
        content = found()
        assert content["alarms"][0] == "attack/00000-after.png"
        first = content["attacks"][0]
        assert first["alarm"]
        assert first["norm"] < first["certified_radius"]
        before, after = (load_image(f"attack/{first[side]}") for side in ("before", "after"))
        assert np.array_equal(before, load_image("images/0.png"))
        assert np.linalg.norm(after - before) == pytest.approx(first["norm"], abs=1e-6)

    def test_beyond_the_radius_there_is_none(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certify(run)
        monkeypatch.setenv("BOUNDARY", "0.35")
        outcome = run("attack", "lies", *COMMON, "--share", "5")
        assert outcome.code == 0, outcome.err
        assert found()["shares"] == [{"share": 5.0, "held": 0, "abstained": 0, "changed": 3}]
        assert "ALARM" not in outcome.err
        assert Path("attack/00002-after.png").exists()
        assert "3 attacks on 3 images. None of them contradict a certificate" in outcome.out

    def test_abstentions_raise_none(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        certify(run)
        monkeypatch.setenv("BOUNDARY", str(128 / 255))
        outcome = run("attack", "lies", *COMMON, "--radii", "0.001", "--limit", "1")
        assert outcome.code == 0, outcome.err
        assert [attack["verdict"] for attack in found()["attacks"]] == ["abstained"]
        assert found()["radii"] == [
            {"radius": 0.001, "certified": 1, "unbroken": 1, "abstained": 0, "images": 1}
        ]


def test_the_upper_bound_of_an_anytime_run_is_above_what_a_fixed_run_certifies(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run gives an image up for radius 0.5, and says nothing about 0.01."""
    monkeypatch.setenv("BOUNDARY", str(128 / 255 - 0.05 / 8))  # the first image is 0.05 away
    common = ("certify", "folder:images", "--classifier", "python:liar:Liar", "--sigma", "0.25")
    common += ("--store", "a.sqlite", "--seed", "3", "--n0", "20", "--radii")
    plan = ("--plan", "anytime", "--max-n", "1000", "--run", "anytime")
    assert run(*common, "0.5", *plan).code == 0
    fixed = run(*common, "0.01", "--n", "2000", "--run", "fixed", "--json")
    assert json.loads(fixed.out)["rows"][0]["certified"] == {"0.01": 3}
    outcome = run("attack", "anytime", *COMMON, "--radii", "0.01")
    assert outcome.code == 0, outcome.err
    assert found()["radii"] == [
        {"radius": 0.01, "certified": 2, "unbroken": 3, "abstained": 1, "images": 3}
    ]
    assert "are not attacked and count as unbroken: 1." in " ".join(outcome.out.split())


class TestRefusals:
    def test_another_classifier(self, run: Run) -> None:
        certify(run)
        outcome = run("attack", "lies", *COMMON, "--classifier", "python:liar:Other")
        assert outcome.code == 2
        assert (
            "The models or data differ from those of run 'lies': classifier_fingerprint: "
            in outcome.err
        )
        assert not Path("attack").exists()

    def test_other_data(self, run: Run) -> None:
        certify(run)
        PIL.Image.new("L", (8, 8), 3).save("images/3.png")
        outcome = run("attack", "lies", *COMMON)
        assert outcome.code == 2
        assert "data_fingerprint" in outcome.err

    def test_an_image_that_was_replaced(self, run: Run) -> None:
        """By one of the same size in bytes, which is all that a folder's fingerprint sees."""
        certify(run)
        size = Path("images/1.png").stat().st_size
        for level in range(256):
            PIL.Image.new("L", (8, 8), level).save("other.png")
            if level != 140 and Path("other.png").stat().st_size == size:
                break
        Path("other.png").replace("images/1.png")
        outcome = run("attack", "lies", *COMMON, "--radii", "0.1")
        assert outcome.code == 1
        assert "Image '1.png' differs from the certified one" in " ".join(outcome.err.split())
        assert [attack["image_id"] for attack in found()["attacks"]] == ["0.png"]
        assert not found()["complete"]

    def test_a_folder_that_holds_an_attack(self, run: Run) -> None:
        certify(run)
        assert run("attack", "lies", *COMMON, "--radii", "0.1", "--limit", "1").code == 0
        outcome = run("attack", "lies", *COMMON, "--radii", "0.1")
        assert outcome.code == 2
        assert "exists, and no attack is overwritten" in " ".join(outcome.err.split())

    def test_a_black_box_without_a_surrogate(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certify(run, "python:liar:Box")
        outcome = run("attack", "lies", *COMMON)
        assert outcome.code == 2
        assert "Name a surrogate" in " ".join(outcome.err.split())
        assert not Path("attack").exists()
        monkeypatch.setenv("BOUNDARY", "0.46")
        arguments = ("--surrogate", "python:liar:Liar", "--share", "0.99", "--limit", "1")
        assert run("attack", "lies", *COMMON, *arguments).code == ALARM

    def test_a_surrogate_that_alone_has_label_names(self, run: Run) -> None:
        certify(run)
        outcome = run("attack", "lies", *COMMON, "--surrogate", "python:liar:Named")
        assert "note: Of classifier and surrogate, one has no label names" in outcome.err

    def test_no_such_run(self, run: Run) -> None:
        certify(run)
        outcome = run("attack", "truth", *COMMON)
        assert outcome.code == 2
        assert "'truth'" in outcome.err


def test_an_interrupted_attack_keeps_what_it_found(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(run)
    attack = Campaign._attack

    def interrupted(self: Campaign, image: Any, *rest: Any) -> Any:
        if image.index == 2:
            raise KeyboardInterrupt
        return attack(self, image, *rest)

    monkeypatch.setattr(Campaign, "_attack", interrupted)
    outcome = run("attack", "lies", *COMMON, "--radii", "0.1,0.2")
    assert outcome.code == 130
    words = " ".join(outcome.err.split())
    assert "All attacks so far are stored in attack. An attack cannot be resumed. To start" in words
    assert len(found()["attacks"]) == 4
    assert not found()["complete"]
    assert Path("attack/curve.png").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImageError("image '2.png' is gone"), "error: image '2.png' is gone"),
        (ClassifierError("the classifier failed"), "error: the classifier failed"),
        (StoreError("image '2.png' is not the one"), "error: image '2.png' is not the one"),
        (KeyboardInterrupt(), "Interrupted. All attacks so far are stored in attack"),
    ],
)
def test_an_alarm_is_not_masked_by_what_happens_after_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str
) -> None:
    certify(run)
    attack = Campaign._attack

    def failing(self: Campaign, image: Any, *rest: Any) -> Any:
        if image.index == 2:
            raise error
        return attack(self, image, *rest)

    monkeypatch.setattr(Campaign, "_attack", failing)
    monkeypatch.setenv("BOUNDARY", "0.46")
    outcome = run("attack", "lies", *COMMON, "--share", "0.99")
    assert outcome.code == ALARM
    words = " ".join(outcome.err.split())
    assert said in words
    assert "ALARM: image '0.png' is certified as label 0" in words
    assert found()["alarms"]
    assert not found()["complete"]
    assert Path("attack/curve.png").exists()


def test_the_bundled_digits_from_end_to_end(run: Run) -> None:
    pytest.importorskip("sklearn", reason="the digits are those of scikit-learn")
    done = run(
        "certify", "digits", "--classifier", "digits", "--denoiser", "digits-stability",
        "--sigma", "0.25", "--n0", "20", "--n", "400", "--limit", "3", "--store", "a.sqlite",
        "--run", "d", "--seed", "1",
    )  # fmt: skip
    assert done.code == 0, done.err
    outcome = run("attack", "d", *COMMON, "--radii", "0.25", "--share", "0.99", "--share", "5")
    assert outcome.code == 0, outcome.err
    content = found()
    assert content["complete"]
    assert (content["steps"], content["copies"], content["n"]) == (3, 8, 300)
    within, beyond = content["shares"]
    assert within["changed"] == 0
    assert beyond["changed"] > 0
    assert content["radii"][0]["certified"] <= content["radii"][0]["unbroken"]
    assert Path("attack/curve.png").read_bytes().startswith(b"\x89PNG")
    words = " ".join(outcome.out.split())
    assert "Certified accuracy, and the upper bound by attacks" in words
    assert f"5 beyond {beyond['held']} {beyond['abstained']} {beyond['changed']}" in words
    again = run(
        "attack", "d", *COMMON, "--radii", "0.25", "--share", "0.99", "--share", "5", "--json",
        "--output", "again",
    )  # fmt: skip
    assert json.loads(again.out)["attacks"] == content["attacks"]


def test_without_radii_and_shares_it_attacks_at_those_within_reach(run: Run) -> None:
    certify(run)
    assert run("attack", "lies", *COMMON, "--limit", "1").code == 0
    assert [row["radius"] for row in found()["radii"]] == [0.25]
    assert [row["share"] for row in found()["shares"]] == [0.99]
