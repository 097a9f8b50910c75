"""The public face: names, docstrings, and what is not imported until it is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import denoised_smoothing
from denoised_smoothing import errors
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.store import Store, StoredExample, StoredImage

PACKAGE = Path(denoised_smoothing.__file__).parent
REPOSITORY = Path(__file__).parents[1]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63"
    "f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def public_definitions() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        yield str(path.relative_to(PACKAGE)), tree
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                yield f"{path.relative_to(PACKAGE)}:{node.name}", node


def test_names_are_complete_and_sorted() -> None:
    assert list(denoised_smoothing._HOMES) == denoised_smoothing.__all__
    assert denoised_smoothing.__all__ == sorted(denoised_smoothing.__all__)
    assert dir(denoised_smoothing) == denoised_smoothing.__all__


def test_type_checkers_see_the_same_names() -> None:
    stub = Path(denoised_smoothing.__file__).with_suffix(".pyi")
    seen = {
        alias.asname: node.module.removeprefix("denoised_smoothing.")
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen == denoised_smoothing._HOMES


def test_every_error_that_users_catch_is_public() -> None:
    of_the_service = {"BusyError", "ClosingError", "BodyTooLargeError", "BodyTooSlowError"}
    names = {name for name in vars(errors) if name.endswith("Error")}
    assert names - of_the_service <= set(denoised_smoothing.__all__)


@pytest.mark.parametrize("name", denoised_smoothing.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    documentation = getattr(denoised_smoothing, name).__doc__
    assert documentation
    assert not documentation.startswith(f"{name}(")  # what a dataclass writes by itself


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'denoised_smoothing' has no attribute 'certify'"):
        _ = denoised_smoothing.certify


def test_every_module_class_and_function_is_documented() -> None:
    definitions = dict(public_definitions())
    assert len(definitions) > 100
    assert [name for name, node in definitions.items() if not ast.get_docstring(node)] == []


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata.version("denoised-smoothing") == project["version"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one run of one finished image."""
    path = tmp_path / "runs.sqlite"
    plan = FixedBudget(10, 100)
    settings = {
        "engine": "torch",
        "precision": "float32",
        "data": "digits", "data_fingerprint": "d", "resolution": None, "stride": 1,
        "dimension": 64, "classifier": "toy", "denoiser": "none", "sigma": 0.5, "alpha": 0.001,
        "plan": plan.to_dict(), "noise": "float",
    }  # fmt: skip
    counts = {
        stage: LabelCounts("run", "0", stage, (copies,))
        for stage, copies in ((Stage.SELECTION, 10), (Stage.ESTIMATION, 100))
    }
    with Store(path) as opened:
        opened.begin("run", settings, seed=0, info={})
        opened.save_images("run", [StoredImage(0, "0", 0, "digest", counts, 1.0, finished=True)])
        pictures = [StoredExample("0", kind, 0, PNG) for kind in ("clean", "noisy", "denoised")]
        opened.save_examples("run", pictures)
    return path


HEAVY = ("torch", "torchvision", "lightning", "scipy.stats", "alembic")


def imported_after(code: str, *arguments: str, folder: Path) -> list[str]:
    """Which heavy packages a fresh process has after the code; its last line of output."""
    script = f"import sys\n{code}\nprint([name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    names: list[str] = json.loads(done.stdout.splitlines()[-1].replace("'", '"'))
    return names


def test_importing_and_help_need_no_torch(tmp_path: Path) -> None:
    code = """
import denoised_smoothing
denoised_smoothing.FixedBudget, denoised_smoothing.Store, denoised_smoothing.load_image
from denoised_smoothing.cli import main
for arguments in (["--help"], ["certify", "--help"], ["train", "--help"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
"""
    assert imported_after(code, folder=tmp_path) == []


def test_certifying_imports_no_statistics_package_before_it_is_used(tmp_path: Path) -> None:
    code = "from denoised_smoothing import SmoothedClassifier"
    assert set(imported_after(code, folder=tmp_path)) <= {"torch", "torchvision"}


def test_reading_a_store_and_writing_a_report_need_no_torch(store: Path) -> None:
    code = """
from denoised_smoothing.cli import main
for arguments in (
    ["list", "runs"], ["export", "run", "--output", "run.tsv"], ["report", "run"],
):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
"""
    assert imported_after(code, folder=store.parent) == []
    assert (store.parent / "run.tsv").read_text().startswith("idx\tlabel\t")
    assert "certified" in (store.parent / "report.html").read_text()
