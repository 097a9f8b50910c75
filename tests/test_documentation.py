"""The documentation: what it tells to run runs, and prints what it says."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from markdown_it import MarkdownIt
from rich.console import Console

import denoised_smoothing
from denoised_smoothing import Anytime, CertificationRun, RadiusTarget, SmoothedClassifier
from denoised_smoothing.cli import main
from denoised_smoothing.cli import output as terminal

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
NUMBER = re.compile(r"\d[\d.,]*(e-?\d+)?")
SMALLER = {
    "n0=100": "n0=10",
    "10_000": "50",
    "steps=8000": "steps=2",
    "(3, 32, 32)": "(3, 16, 16)",
    "cifar10:train": "folder:photos",
    '"aws"': '"simulated?weights=cat=0.95,dog=0.05"',
    "unet:unet.safetensors": "cifar10",
}
"""What the documentation asks for, and what is enough and at hand here."""


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """Language and content of the blocks of a page."""
    if not page.exists():
        pytest.skip(f"there is no {page.name} beside the tests")
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            yield token.info, token.content


def words(text: str) -> str:
    """A text without its numbers, which depend on the noise, and without its layout."""
    return " ".join(NUMBER.sub("#", text.replace("─", " ")).split())


def commands(content: str) -> Iterator[tuple[list[str], str]]:
    """The words of each command of a console block, and what it prints."""
    for part in re.split(r"^\$ ", content.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield shlex.split(command), output


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """Says what was printed since it was asked last; everything happens in a new folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "out", Console(width=100))
    return lambda: capsys.readouterr().out


@pytest.mark.parametrize("page", ["index.md", "tutorial.md", "verify.md"])
def test_blocks_run_and_print_what_they_say(
    page: str, printed: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    checked, output = 0, ""
    for language, content in fences(DOCS / page):
        if language == "python":
            exec(compile(content, page, "exec"), names)
            output = printed()
        elif language == "output":
            assert words(output) == words(content)
            checked += 1
        elif language == "console":
            for typed, expected in commands(content):
                monkeypatch.setattr(sys, "argv", typed)
                with pytest.raises(SystemExit) as end:
                    main()
                assert not end.value.code
                assert words(printed()) == words(expected)
                checked += 1
    assert checked >= 1


@pytest.fixture
def reader(printed: Callable[[], str]) -> dict[str, Any]:
    """What a reader is supposed to have: a model and images, by name and in the folder."""
    photos = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    for name, photo in zip(("cat", "dog"), photos, strict=True):
        Path("photos", name).mkdir(parents=True)
        PIL.Image.fromarray(photo).save(f"photos/{name}/a.png")
    PIL.Image.fromarray(photos[0]).save("cat.png")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, 10),
    )  # fmt: skip
    images = torch.tensor(photos).permute(0, 3, 1, 2) / 255
    return {
        "model": network, "network": network, "denoiser": None,
        "image": images[0], "images": images, "some_images": images,
    }  # fmt: skip


def run_python(page: str, names: dict[str, Any]) -> None:
    """Run all Python blocks of a page, one after the other."""
    blocks = [text for language, text in fences(REPOSITORY / page) if language == "python"]
    assert blocks
    for block in blocks:
        for much, less in SMALLER.items():
            block = block.replace(much, less)
        exec(compile(block, page, "exec"), names)


def test_the_python_of_the_readme_runs(reader: dict[str, Any], printed: Callable[[], str]) -> None:
    run_python("README.md", reader)
    assert re.match(r"label \d within L2 radius 0\.\d+|abstains: ", printed())
    assert reader["smoothed"].sigma == 0.25


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text("utf-8")) <= 7_000


def test_the_python_about_runs_runs(reader: dict[str, Any]) -> None:
    for module in ("jinja2", "matplotlib"):
        pytest.importorskip(module)
    reader["smoothed"] = SmoothedClassifier(reader["model"], sigma=0.25)
    run_python("docs/runs.md", reader)
    assert {path.name for path in Path().iterdir()} >= {"report.html", "runs.sqlite"}


def test_the_python_about_plans_runs(reader: dict[str, Any]) -> None:
    reader["smoothed"] = SmoothedClassifier(reader["model"], sigma=0.25)
    run_python("docs/plans.md", reader)
    for name, plan in (("decided", Anytime), ("near", RadiusTarget)):
        certificate = reader[name]
        assert isinstance(certificate.plan, plan)
        assert 0 < certificate.calls <= certificate.plan.most_calls()


def test_the_python_about_prediction_sets_runs(reader: dict[str, Any]) -> None:
    class Sure(torch.nn.Module):
        """Label 0, whose score depends on the copy."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            means = images.mean(dim=(1, 2, 3))
            return torch.stack([means + 1, 0 * means], dim=1)

    Path("labelled", "cat").mkdir(parents=True)
    for number in range(30):
        PIL.Image.new("RGB", (16, 16), (8 * number,) * 3).save(f"labelled/cat/{number}.png")
    reader["smoothed"] = smoothed = SmoothedClassifier(Sure(), sigma=0.25)
    plan = denoised_smoothing.FixedBudget(n0=50, n=50)
    with denoised_smoothing.Store("runs.sqlite") as store:
        labelled = denoised_smoothing.load_dataset("folder:labelled")
        CertificationRun(smoothed, labelled, plan, 0.001, name="labelled").execute(store)
    run_python("docs/prediction-sets.md", reader)
    assert reader["sets"].predict(reader["image"]).labels == (0,)


def test_the_python_about_training_runs(reader: dict[str, Any]) -> None:
    pytest.importorskip("lightning")
    run_python("docs/training.md", reader)
    assert Path("unet-mse.safetensors").exists()


def test_the_python_about_performance_runs(reader: dict[str, Any]) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    run_python("docs/performance.md", reader)
    assert reader["smoothed"].prepared.precision == "int8"


def test_the_python_about_models_runs(reader: dict[str, Any]) -> None:
    pytest.importorskip("art")
    run_python("docs/models.md", reader)
    assert (reader["labels"].shape, reader["radii"].shape) == ((2,), (2,))
    assert reader["SOURCE"].options == ("depth",)


def test_the_python_about_vision_apis_runs(reader: dict[str, Any]) -> None:
    run_python("docs/vision-apis.md", reader)
    assert reader["certificate"].calls == reader["classifier"].spent.charged > 0


def test_every_public_name_is_in_the_reference() -> None:
    page = DOCS / "reference.md"
    if not page.exists():
        pytest.skip("there is no documentation beside the tests")
    shown = re.findall(r"^::: denoised_smoothing\.(\w+)$", page.read_text("utf-8"), re.MULTILINE)
    assert sorted(shown) == denoised_smoothing.__all__
