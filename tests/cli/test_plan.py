"""denoised-smoothing plan: what it prints, what it refuses, and that it needs no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denoised_smoothing.certificates.cost import estimate, expected_calls
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.cli import main
from denoised_smoothing.store import Store, StoredImage

SETTING = SmoothingParameters(sigma=0.5, alpha=0.001, dimension=3072, seed=0)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.out)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Outcome:
        code: Any = 0
        try:
            main(["plan", "--sigma", "0.5", *arguments])
        except SystemExit as stop:
            code = stop.code or 0
        text = capsys.readouterr()
        return Outcome(code, text.out, text.err)

    return call


@pytest.fixture
def pilot(tmp_path: Path) -> list[int]:
    """A store with an anytime run "first"; the calls of its six images."""
    plan = Anytime(radii=(0.5,), max_n=1000, n0=50)
    settings = {
        "engine": "torch",
        "precision": "float32",
        "data": "digits",
        "classifier": "python:mine:build",
        "denoiser": "none",
        "sigma": 0.5,
        "alpha": 0.001,
        "plan": plan.to_dict(),
        "noise": "grid",
        "dimension": 3072,
    }
    random = np.random.default_rng(5)
    images = []
    for index, n in enumerate((100, 100, 300, 100, 1000, 100)):
        votes = int(random.binomial(n, 0.9))
        counts = {
            Stage.SELECTION: LabelCounts("first", str(index), Stage.SELECTION, (50,)),
            Stage.ESTIMATION: LabelCounts(
                "first", str(index), Stage.ESTIMATION, (votes, n - votes)
            ),
        }
        images.append(StoredImage(index, str(index), 0, "d", counts, 0.01 * n, finished=True))
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin("first", settings, seed=7, info={})
        store.save_images("first", images)
    return [150, 150, 350, 150, 1050, 150]


def test_json_has_least_n_and_the_table(run: Any) -> None:
    got = run("--radius", "0.5", "--json").json
    assert got["least_n"] == {"fixed": 40, "mixture": 47, "anytime": 49}
    assert got["reachable"] is True
    by_p = {row["p"]: row for row in got["expected"]}
    assert list(by_p) == [0.5, 0.7, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0]
    expected = expected_calls(Anytime(), SETTING, 0.5, 0.9)
    assert by_p[0.9]["anytime"]["calls"] == pytest.approx(expected.calls)
    assert by_p[0.9]["fixed"]["calls"] == pytest.approx(10_100)
    assert by_p[0.7]["fixed"]["certified"] == pytest.approx(0.0, abs=1e-12)
    assert "seconds" not in by_p[0.9]["anytime"]


def test_rate_and_price_give_time_and_cost_for_one_image_and_for_all(run: Any) -> None:
    arguments = ("--radius", "0.5", "--rate", "50", "--price", "0.01", "--images", "2000")
    row = run(*arguments, "--json").json["expected"][-1]["anytime"]
    assert (row["calls"], row["all_calls"]) == (pytest.approx(150), pytest.approx(300_000))
    assert (row["seconds"], row["cost"]) == (pytest.approx(3), pytest.approx(1.5))
    assert (row["all_seconds"], row["all_cost"]) == (pytest.approx(6000), pytest.approx(3000))
    text = run(*arguments)
    assert text.code == 0
    for part in ("For one image", "For 2,000 images", "300,000", "anytime seconds", "fixed cost"):
        assert part in text.words


def test_steps_and_samples_of_a_diffusion_denoiser_count(run: Any) -> None:
    arguments = ("--radius", "0.5", "--rate", "50", "--price", "0.01", "--images", "10")
    row = run(*arguments, "--steps", "5", "--samples", "7", "--json").json["expected"][-1][
        "anytime"
    ]
    assert row["calls"] == pytest.approx(1050)
    assert (row["passes"], row["all_passes"]) == (pytest.approx(5250), pytest.approx(52_500))
    assert (row["seconds"], row["cost"]) == (pytest.approx(21), pytest.approx(10.5))
    assert "passes are those of the denoiser" in run(*arguments, "--steps", "5").words
    refused = run(*arguments, "--samples", "7")
    assert refused.code == 2
    assert "--samples 7 needs --steps 2 or more, got 1" in refused.err
    renamed = run(*arguments, "--steps", "5", "--votes", "7")
    assert renamed.code == 2
    assert "Use --samples 7." in renamed.err


def test_a_radius_beyond_the_cap_names_the_cap_that_reaches_it(run: Any) -> None:
    outcome = run("--radius", "1.5", "--max-n", "5000")
    assert outcome.code == 0
    assert "5,114 copies without a failure by a fixed budget, 5,977 by the mixture" in outcome.words
    assert "Out of reach of 5,000 copies" in outcome.words
    [cap] = re.findall(r"--max-n (\d+)", outcome.words)
    assert run("--radius", "1.5", "--max-n", cap, "--json").json["reachable"] is True
    less = str(int(cap) - 1)
    assert run("--radius", "1.5", "--max-n", less, "--json").json["reachable"] is False


def test_a_radius_that_nothing_reaches_is_said_plainly(run: Any) -> None:
    outcome = run("--radius", "50")
    assert outcome.code == 0
    assert "no number of copies certifies it" in outcome.words
    assert run("--radius", "50", "--json").json["least_n"] == {
        "fixed": None,
        "mixture": None,
        "anytime": None,
    }


def test_a_pilot_gives_an_estimate_with_an_interval(run: Any, pilot: list[int]) -> None:
    arguments = ("--radius", "0.5", "--pilot", "first", "--images", "1000", "--price", "0.01")
    got = run(*arguments, "--json").json["pilot"]
    expected = estimate(pilot, 1000)
    assert (got["run"], got["plan"], got["images"]) == ("first", "anytime", 6)
    assert got["calls"]["total"] == pytest.approx(expected.total)
    assert got["calls"]["high"] == pytest.approx(expected.high)
    assert got["cost"]["standard_error"] == pytest.approx(0.01 * expected.error)
    assert got["seconds"]["total"] == pytest.approx(1000 / 6 * 17)  # as stored
    faster = run(*arguments, "--rate", "100", "--json").json["pilot"]
    assert faster["seconds"]["total"] == pytest.approx(expected.total / 100)
    text = run(*arguments).words
    assert "From 6 images of the run first (plan anytime), for 1,000 images" in text
    assert "calls: 333,333" in text
    assert "if they are a random sample of these" in text


def test_what_the_pilot_does_not_share_is_noted(run: Any, pilot: list[int]) -> None:
    same = ("--radius", "0.5", "--max-n", "1000", "--pilot", "first", "--images")
    assert run(*same, "6", "--json").json["pilot"]["notes"] == []
    [stride] = run(*same, "60", "--json").json["pilot"]["notes"]
    assert "Its images are the first ones of the data (--stride 1)" in stride
    assert "Certify with --stride 10 to spread the pilot" in stride
    other = ("--radius", "0.7", "--noise", "float", "--shape", "1x8x8", "--pilot", "first")
    text = run(*other, "--images", "6").words
    for part in (
        "noise, grid, not float",
        "values per image (--shape), 3072, not 64",
        "maximum of copies (--max-n), 1000, not 10000",
        "radii, [0.5], not [0.7]",
    ):
        assert f"note: The estimate is for the pilot's {part}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--pilot", "first"),
            "--pilot first needs the number of images of the whole data set. Add --images N.",
        ),
        (("--pilot", "frist", "--images", "10"), "Did you mean 'first'?"),
        (("--pilot", "first", "--images", "5"), "must include the 6 images of the pilot, got 5"),
        (
            ("--pilot", "first", "--images", "9", "--sigma", "0.25"),
            "--sigma must be that of the pilot 'first', 0.5, got 0.25",
        ),
        (
            ("--pilot", "first", "--images", "9", "--alpha", "0.01"),
            "--alpha must be that of the pilot 'first', 0.001, got 0.01",
        ),
        (("--shape", "32x32"), "--shape must be channels x height x width, got '32x32'"),
        (("--shape", "3x0x32"), "--shape must be channels x height x width, got '3x0x32'"),
        (("--images", "0"), "--images must be above 0"),
        (("--price", "-1"), "--price must be above 0"),
        (("--rate", "0"), "--rate must be above 0"),
        (("--alpha", "0.4"), "alpha must be at most 0.36"),
        (("--max-n", "0"), "max_n must be a whole number"),
    ],
)
def test_what_cannot_be_used_is_refused(
    run: Any, pilot: list[int], arguments: tuple[str, ...], message: str
) -> None:
    outcome = run("--radius", "0.5", *arguments)
    assert outcome.code == 2
    assert message in re.sub(r"\s+", " ", outcome.err)
    assert outcome.out == ""


def test_the_command_imports_no_torch(tmp_path: Path, pilot: list[int]) -> None:
    arguments = ["plan", "--sigma", "0.5", "--radius", "0.5", "--pilot", "first", "--images", "9"]
    code = (
        "import sys\nfrom denoised_smoothing.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print(sorted({'torch', 'lightning', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "From 6 images" in done.stdout
