"""cli.py and terminal.py: what is printed where, exit codes, and what the README promises."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import typer
from rich.console import Console

from denoised_smoothing.cli import COMMANDS as SUMMARIES
from denoised_smoothing.cli import app, main
from denoised_smoothing.cli import output as terminal
from denoised_smoothing.errors import TrainingInterruptedError
from denoised_smoothing.models.denoisers.files import (
    build_denoiser,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.reporting.exported import read_export
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.runs import demo
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store
from denoised_smoothing.text import unescaped

from ..samples.painted import paint

SAMPLES = Path(__file__).parents[1] / "samples"
README = Path(__file__).parents[2] / "README.md"
DOCS = README.parent / "docs"
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = {
    name: GROUP.get_command(typer.Context(GROUP), name) for name in SUMMARIES
}
WITHIN: dict[str, Any] = {
    f"{name} {inner}": command
    for name, group in COMMANDS.items()
    for inner, command in getattr(group, "commands", {}).items()
}
TOY = ("--classifier", "python:toy:Toy", "--sigma", "0.5")
SMALL = ("--n0", "50", "--n", "50", "--seed", "1")
"""As n is one chunk, no image ends early."""
DIGITS = ("certify", "digits", *TOY, *SMALL, "--limit", "3")
LINE = re.compile(r"^\$? *denoised-smoothing (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Standard error in one line."""
        return re.sub(r"[\s│]+", " ", self.err)

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs a command in a folder that holds ``toy.py``."""
    shutil.copy(SAMPLES / "toy.py", tmp_path)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["denoised-smoothing", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Outcome(int(end.value.code or 0), *capsys.readouterr())

    yield call
    sys.modules.pop("toy", None)


def picture(path: str, mode: str = "L", size: tuple[int, int] = (8, 8)) -> str:
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    PIL.Image.fromarray(values).convert(mode).save(path)
    return path


class TestHelp:
    @pytest.mark.parametrize("width", [80, 120])
    @pytest.mark.parametrize("name", [*COMMANDS, *WITHIN])
    def test_of_every_command_explains_every_option(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, name: str, width: int
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
        outcome = run(*name.split(), "--help")
        command = (COMMANDS | WITHIN)[name]
        words = re.sub(r"[\s│]+", " ", outcome.out)
        assert (outcome.code, outcome.err) == (0, "")
        assert f"Usage: denoised-smoothing {name} [OPTIONS]" in words
        assert " ".join(command.help.split()) in words
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            assert parameter.help, f"{parameter.name} is not explained"
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert f" {option} " in words or not option.startswith("-")
        assert "…" not in outcome.out
        assert max(map(len, outcome.out.splitlines())) <= width

    def test_summaries_are_the_start_of_the_help_of_commands(self) -> None:
        for name, command in COMMANDS.items():
            assert command.help.split("\n\n")[0] == SUMMARIES[name]
            assert len(SUMMARIES[name].split(". ")[0]) < 80

    @pytest.mark.parametrize("name", [*COMMANDS, *WITHIN])
    def test_the_example_of_a_command_parses(self, name: str) -> None:
        command = (COMMANDS | WITHIN)[name]
        if name == "experiment":
            return
        [line] = re.findall(r"^Example: denoised-smoothing (.*)$", command.help, re.MULTILINE)
        assert line.startswith(name)
        command.make_context(name, shlex.split(line.removeprefix(name)))

    def test_commands_and_options_have_the_names_they_had(self) -> None:
        lines = []
        for name, command in (COMMANDS | WITHIN).items():
            options = [
                option
                for parameter in command.params
                if not getattr(parameter, "hidden", False)
                for option in (*parameter.opts, *parameter.secondary_opts)
            ]
            if not hasattr(command, "commands"):
                lines.append(f"{name}: {' '.join(sorted(options))}")
        known = (Path(__file__).parent / "options.txt").read_text("utf-8").splitlines()
        assert sorted(lines) == sorted(known)

    def test_names_the_commands_and_exit_codes(self, run: Run) -> None:
        outcome = run("--help")
        assert outcome.code == 0
        for text in (*COMMANDS, "130 interrupted", "2 refused before any work"):
            assert text in re.sub(r"[\s│]+", " ", outcome.out)

    def test_no_command_is_help(self, run: Run) -> None:
        assert "certify" in run().out

    def test_an_unknown_command_or_option_is_refused(self, run: Run) -> None:
        assert run("certfy").code == 2
        outcome = run("certify", "digits", *TOY, "--sigam", "1")
        assert outcome.code == 2
        assert "--sigam" in outcome.err


class TestCertify:
    def test_table_and_next_commands(self, run: Run) -> None:
        outcome = run(*DIGITS, "--radii", "0,0.5", "--run", "my run", "--store", "a b.sqlite")
        assert outcome.code == 0
        [header] = re.findall(r"^ *method .*", outcome.out, re.MULTILINE)
        assert "0.5" in header.split()
        assert "Stored as my run in a b.sqlite. Next:" in outcome.out
        commands = LINE.findall(outcome.out.replace("  denoised", "denoised"))
        assert len(commands) == 2
        for command in commands:
            assert run(*shlex.split(command)).code == 0
        assert Path("report.html").exists()
        assert Path("my run.tsv").exists()

    def test_json(self, run: Run) -> None:
        values = run(*DIGITS, "--json", "--radii", "0.25,0.5").json
        [row] = values["rows"]
        assert values["store"] == "runs.sqlite"
        assert (row["method"], row["sigma"], row["images"]) == (
            "no denoiser + python:toy:Toy",
            0.5,
            3,
        )
        assert (row["calls"], row["unfinished"]) == (300, 0)
        assert row["certified"].keys() == {"0.25", "0.5"}
        with Store("runs.sqlite", read_only=True) as store:
            [name] = values["runs"]
            assert len(load_results(store, name).images) == 3
            assert store.run(name).info["command"] == shlex.join(
                ["denoised-smoothing", *DIGITS, "--json", "--radii", "0.25,0.5"]
            )

    def test_the_same_command_goes_on(self, run: Run) -> None:
        first = run(*DIGITS, "--json").json["rows"]
        assert run(*DIGITS, "--json").json["rows"] == first
        assert run(*DIGITS, "--limit", "5", "--json").json["rows"][0]["images"] == 5
        assert len(run("list", "runs", "--json").json) == 1

    def test_a_limit_below_that_of_the_run_shows_fewer_images(self, run: Run) -> None:
        first = run(*DIGITS, "--run", "r", "--json").json["rows"]
        assert run(*DIGITS, "--run", "r", "--limit", "8", "--json").json["rows"][0]["images"] == 8
        again = run(*DIGITS, "--run", "r", "--json").json["rows"]
        assert "raised from 3 to 8" in json.dumps(again[0].pop("proven"))
        assert again == [{key: row[key] for key in row if key != "proven"} for row in first]
        one = run(*DIGITS, "--run", "r", "--limit", "1", "--json").json
        assert one["rows"][0]["images"] == 1
        assert "certificate" in one
        with Store("runs.sqlite", read_only=True) as store:
            assert len(load_results(store, "r").images) == 8

    @pytest.mark.parametrize("name", ["", "  "])
    def test_an_empty_name_is_refused(self, run: Run, name: str) -> None:
        for command in (DIGITS, ("sweep", "digits", *TOY[:2], "--radius", "0.25", "--limit", "2")):
            outcome = run(*command, "--run", name)
            assert (outcome.code, outcome.out) == (2, "")
            assert f"The name of a run must not be empty, got {name!r}. Give" in outcome.err
        assert not Path("runs.sqlite").exists()

    def test_files_whose_names_are_not_utf8(self, run: Run) -> None:
        folder = Path(os.fsdecode(b"pictures \xfc"))
        folder.mkdir()
        for name in (b"a.png", b"caf\xe9.png"):
            picture(str(folder / os.fsdecode(name)))
        (folder / os.fsdecode(b"n\xf6.png")).write_bytes(b"no image")
        one = run("certify", str(folder / os.fsdecode(b"caf\xe9.png")), *TOY, *SMALL)
        assert one.code == 0, one.err
        assert r"caf\u{dce9}.png" in one.out
        outcome = run("certify", f"folder:{folder}", *TOY, *SMALL, "--run", "r")
        assert outcome.code == 1, outcome.err
        assert "1 of 3 images could not be certified" in outcome.message
        assert run("report", "r").code == 0
        assert r"caf\u{dce9}.png" in Path("report.html").read_text("utf-8")
        for form in ("tsv", "csv", "parquet"):
            assert run("export", "r", "--format", form, "--output", f"r.{form}").code == 0
        with Path("r.csv").open(newline="", encoding="utf-8") as file:
            ids = [row["image_id"] for row in csv.DictReader(file)]
        assert ids == ["a.png", r"caf\u{dce9}.png", r"n\u{dcf6}.png"]
        assert [unescaped(name) for name in ids] == sorted(path.name for path in folder.iterdir())

    def test_an_image_file(self, run: Run) -> None:
        outcome = run("certify", picture("grey.png"), *TOY, *SMALL)
        assert outcome.code == 0
        assert outcome.out.startswith("grey.png: ")
        assert "at alpha 0.001" in outcome.out
        certificate = run("certify", "grey.png", *TOY, *SMALL, "--json").json["certificate"]
        assert certificate["image_id"] == "grey.png"

    def test_the_fixed_plan_is_the_default_and_takes_two_sides(self, run: Run) -> None:
        assert self.plan(run, "one", *SMALL) == {"kind": "fixed", "n0": 50, "n": 50}
        two = self.plan(run, "two", *SMALL, "--two-sided")
        assert two == {"kind": "fixed", "n0": 50, "n": 50, "two_sided": True}
        assert self.plan(run, "radius", "--plan", "radius", "--of-n", "500") == {
            "kind": "radius", "of_n": 500, "share": 0.95, "n0": 100,
        }  # fmt: skip
        stated = ("--plan", "anytime", "--n0", "0", "--max-n", "100")
        assert self.plan(run, "free", *stated)["n0"] == 0

    @staticmethod
    def plan(run: Run, name: str, *options: str) -> dict[str, Any]:
        """The plan of a run with these options, as it is stored."""
        outcome = run("certify", "digits", *TOY, *options, "--limit", "2", "--run", name)
        assert outcome.code == 0, outcome.err
        with Store("runs.sqlite", read_only=True) as store:
            assert all(image.finished for image in store.images(name))
            plan: dict[str, Any] = store.run(name).settings["plan"]
            return plan

    def test_an_anytime_run_goes_on_with_more(self, run: Run) -> None:
        arguments = ("certify", "digits", *TOY, "--limit", "3", "--seed", "1")
        plan = ("--plan", "anytime", "--radii", "0.1,0.2", "--max-n", "500")
        [first] = run(*arguments, *plan, "--json").json["rows"]
        assert first["certified"].keys() == {"0.1", "0.2"}
        assert 0 < first["calls"] <= 3 * 550
        values = run(*arguments, *plan, "--more", "200", "--json").json
        [more] = values["rows"]
        assert first["calls"] <= more["calls"] <= 3 * 750
        with Store("runs.sqlite", read_only=True) as store:
            [name] = [stored.name for stored in store.runs()]
            stored = store.run(name).settings["plan"]
        assert values["runs"] == [name]
        assert (stored["max_n"], stored["more"], stored["radii"]) == (500, 200, [0.1, 0.2])
        [larger] = run(*arguments, *plan[:-1], "700", "--json").json["rows"]
        assert larger == more

    def test_more_is_refused_where_the_bound_is_for_a_fixed_number(self, run: Run) -> None:
        [before] = run(*DIGITS, "--run", "a", "--json").json["rows"]
        outcome = run(*DIGITS, "--run", "a", "--more", "100")
        assert (outcome.code, outcome.out) == (2, "")
        assert "A run of the plan 'fixed' cannot be extended by 100 copies" in outcome.message
        assert "Start a new run; one with --plan anytime" in outcome.message
        [after] = run(*DIGITS, "--run", "a", "--json").json["rows"]
        assert after == before
        outcome = run(*DIGITS, "--run", "b", "--more", "100")
        assert outcome.code == 2
        assert "There is no run 'b' to extend by 100 copies" in outcome.message

    def test_noise_is_on_the_grid_unless_asked(self, run: Run) -> None:
        arguments = ("certify", picture("grey.png"), *TOY, *SMALL, "--json")
        assert run(*arguments).json["certificate"]["noise"] == "grid"
        outcome = run(*arguments, "--noise", "float")
        assert outcome.json["certificate"]["noise"] == "float"
        assert "note: With --noise float the certificates are not proven" in outcome.message
        assert "not proven" not in run(*arguments).message
        outcome = run(*DIGITS, "--run", "a")
        assert outcome.code == 0
        outcome = run(*DIGITS, "--run", "a", "--noise", "float")
        assert outcome.code == 2
        assert "noise: 'grid' in the run, 'float' requested" in outcome.message
        answer = run("predict", "grey.png", *TOY, "--noise", "float", "--n", "50", "--json").json
        assert answer["noise"] == "float"

    def test_a_function_is_a_classifier(self, run: Run) -> None:
        box = ("--classifier", "python:toy:black_box", "--sigma", "0.25")
        assert run("certify", "digits", *box, *SMALL, "--limit", "2").code == 0

    def test_labels_that_are_compared_by_number_are_noted(self, run: Run) -> None:
        outcome = run(*DIGITS, "--json")
        assert outcome.err.startswith("note: The classes of the data are numbers, so labels")
        assert "(0 = a, 1 = b, 2 = c, ...)" in outcome.message
        assert outcome.json

    def test_a_file_assigns_labels(self, run: Run) -> None:
        for name in ("dog", "cat"):
            Path("images", name).mkdir(parents=True)
            picture(f"images/{name}/1.png")
        command = ("certify", "folder:images", *TOY, *SMALL, "--run", "a", "--labels", "labels.txt")
        assert "--labels must be a file with lines such as" in run(*command).message
        Path("labels.txt").write_text("cat = c\ndog = 3\n")
        assert run(*command).code == 0
        outcome = run(*command[:-2])
        assert (outcome.code, outcome.out) == (2, "")
        assert "2 of 2 classes of the data match no label" in outcome.message
        assert run("export", "a", "--output", "a.tsv").code == 0
        rows = Path("a.tsv").read_text().splitlines()[1:]
        assert [row.split("\t")[1] for row in rows] == ["2", "3"]
        Path("labels.txt").write_text("cat = b\ndog = 3\n")
        assert "labels.cat: 2 in the run, 1 requested" in run(*command).message

    def test_other_settings_under_the_same_name_are_refused(self, run: Run) -> None:
        assert run(*DIGITS, "--run", "a").code == 0
        outcome = run(*DIGITS, "--run", "a", "--alpha", "0.01")
        assert (outcome.code, outcome.out) == (2, "")
        assert "alpha: 0.001 in the run, 0.01 requested" in outcome.message

    def test_a_broken_image_in_the_middle_keeps_what_was_counted(self, run: Run) -> None:
        Path("images").mkdir()
        for index in range(8):
            picture(f"images/{index}.png")
        Path("images/7.png").write_bytes(b"no image")
        batch = ("--batch-size", "100")
        outcome = run("certify", "folder:images", *TOY, *SMALL, *batch, "--run", "a")
        assert outcome.code == 1
        assert "images/7.png' cannot be decoded" in outcome.message
        assert run("export", "a", "--output", "a.tsv").code == 0
        assert len(Path("a.tsv").read_text().splitlines()) > 5


def test_a_password_of_a_store_is_not_shown(run: Run) -> None:
    outcome = run(*DIGITS, "--store", "postgresql+psycopg://me:hunter2@host/runs")
    assert (outcome.code, outcome.out) == (2, "")
    assert "A password in the URL of a store would be recorded" in outcome.message
    assert "hunter2" not in outcome.message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--sigma 0", "sigma must be above 0 and finite, got 0.0. Use a standard deviation"),
        ("--sigma -1", "sigma must be above 0 .* got -1.0"),
        ("--sigma nan", "sigma must be above 0 .* got nan"),
        ("--sigma some", "Invalid value for '--sigma'"),
        ("--alpha 2", r"alpha .* got 2.0"),
        ("--alpha 0", r"alpha .* got 0.0"),
        ("--n 0", "n must be a whole number of at least 1, got 0"),
        ("--n0 -5", "n0 must be a whole number of at least 1, got -5"),
        ("--radii 0.5;1", "--radii must be numbers separated by commas, got '0.5;1'"),
        ("--radii 0.5,-1", r"radii must be lengths of at least 0, got \(0.5, -1.0\)"),
        ("--radii nan", r"radii must be lengths of at least 0, got \(nan,\)"),
        ("--noise gauss", "Invalid value for '--noise'"),
        ("--plan fix", "Invalid value for '--plan'"),
        (
            "--plan fixed --max-n 9",
            "--plan fixed does not accept --max-n. Use --plan anytime, or remove --max-n.",
        ),
        ("--of-n 9", "--plan fixed does not accept --of-n. Use --plan radius, or remove --of-n."),
        (
            "--plan anytime --n 9",
            "--plan anytime does not accept --n. Use --plan fixed, or remove --n.",
        ),
        (
            "--plan anytime --n 0",
            "--plan anytime does not accept --n. Use --plan fixed, or remove --n.",
        ),
        ("--plan anytime --two-sided", "does not accept --two-sided. Use --plan fixed, or"),
        ("--plan anytime --share 0.9", "does not accept --share. Use --plan radius, or"),
        (
            "--plan radius --max-n 9",
            "--plan radius does not accept --max-n. Use --plan anytime, or",
        ),
        ("--max-n 9 --of-n 9", "does not accept --max-n, --of-n. Remove --max-n, --of-n."),
        ("--plan radius --share 1.5", "share must lie strictly .* got 1.5"),
        ("--plan anytime --max-n 0", "max_n must be a whole number of at least 1, got 0"),
        ("--plan anytime --n0 -1", "n0 must be a whole number of at least 1, got -1"),
        ("--limit 0", "limit must be at least 1, got 0"),
        ("--stride 0", "stride must be at least 1, got 0"),
        ("--resolution 1", "resolution must be at least 2 pixels, got 1"),
        ("--batch-size 0", "batch_size must be at least 1, got 0"),
        ("--device gpu", "device 'gpu' is not available here .* Use auto, cpu, cuda"),
        ("--device cpu --devices cpu,cpu", "Got both --device cpu and --devices cpu,cpu. Use only"),
        ("--classifier digitz", r"Unknown classifier 'digitz'\. Did you mean digits\?"),
        ("--classifier cifar-resnet56:toy.pt", "toy.pt is a pickle .* must be safetensors"),
        ("--classifier python:toy:number", "module 'toy' has no function 'number'"),
        ("--classifier python:toy:nothing", "must return a callable on images, got NoneType"),
        ("--classifier python:toy:Colour", "image '0' is grey, but the classifier takes RGB"),
        ("--denoiser unett:x", r"Unknown denoiser 'unett:x'\. Did you mean unet:FILE"),
        ("--denoiser unet:toy.pt", "toy.pt is a pickle"),
    ],
)
def test_bad_settings_are_refused(run: Run, arguments: str, said: str) -> None:
    torch.save({"x": torch.zeros(1)}, "toy.pt")
    outcome = run("certify", "digits", *TOY, *arguments.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert re.search(said, outcome.message), outcome.message
    assert not Path("runs.sqlite").exists()


def make_bad_images() -> None:
    """Files and folders that ``certify`` refuses, in the working folder."""
    Path("empty").mkdir()
    Path("corrupt.png").write_bytes(Path(picture("whole.png")).read_bytes()[:60])
    PIL.Image.fromarray(np.zeros((8, 8), np.uint16)).save("deep.png")
    PIL.Image.new("RGBA", (8, 8)).save("alpha.png")
    picture("dot.png", size=(1, 1))
    picture("colour.png", "RGB")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"picture": [b""], "label": [1]})
    parquet.write_table(table, "columns.parquet")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("missing.png", "There is no image file 'missing.png'. Check the path"),
        ("corrupt.png", "'corrupt.png' cannot be decoded"),
        ("deep.png", "'deep.png' has more than 8 bits a channel"),
        ("alpha.png", "has the mode RGBA .* Flatten any transparency"),
        ("dot.png", "is 1x1 pixels, expected at least 2x2"),
        ("colour.png", "is RGB, but the classifier takes grey images"),
        ("folder:empty", "'empty' holds no images"),
        ("folder:missing", "There is no folder 'missing'"),
        ("empty", r"Did you mean 'folder:empty'\?"),
        ("parquet:columns.parquet", "row 0 of .* cannot be decoded"),
        ("parquet:missing.parquet", "There is no file 'missing.parquet'"),
        ("digitz", r"There is no data set 'digitz'. Did you mean 'digits'\?"),
    ],
)
@pytest.mark.parametrize("command", ["certify", "predict"])
def test_bad_data_are_refused(run: Run, command: str, data: str, said: str) -> None:
    make_bad_images()
    if command == "predict" and not data.endswith(".png"):
        said = f"'{data}' cannot be decoded" if data == "empty" else f"no image file '{data}'"
    outcome = run(command, data, *TOY)
    assert (outcome.code, outcome.out) == (2, "")
    assert re.search(said, outcome.message.replace("\\", "")), outcome.message
    assert not Path("runs.sqlite").exists()


class TestStores:
    def test_a_folder(self, run: Run) -> None:
        Path("folder").mkdir()
        outcome = run(*DIGITS, "--store", "folder")
        assert outcome.code == 1
        assert "The store folder failed (unable to open database file)" in outcome.message

    def test_a_file_in_the_place_of_a_folder(self, run: Run) -> None:
        outcome = run(*DIGITS, "--store", "toy.py/runs.sqlite")
        assert outcome.code == 1
        assert "The store toy.py/runs.sqlite failed" in outcome.message

    def test_of_another_program(self, run: Run) -> None:
        outcome = run(*DIGITS, "--store", "toy.py")
        assert outcome.code == 1
        assert "file is not a database" in outcome.message
        assert Path("toy.py").read_text() == (SAMPLES / "toy.py").read_text()

    @pytest.mark.parametrize("command", [DIGITS, ("list", "runs"), ("report", "a")])
    def test_of_a_newer_version(self, run: Run, command: tuple[str, ...]) -> None:
        Store("runs.sqlite").close()
        with closing(sqlite3.connect("runs.sqlite")) as connection, connection:
            connection.execute("update alembic_version set version_num = '99'")
        outcome = run(*command)
        assert (outcome.code, outcome.out) == (2, "")
        assert "has schema 99, and this version of the package reads up to" in outcome.message

    @pytest.mark.parametrize("command", ["report x", "export x --output x.tsv", "list runs"])
    def test_that_is_not_there(self, run: Run, command: str) -> None:
        outcome = run(*command.split())
        assert outcome.code == 1
        assert "runs.sqlite failed (there is no such file)" in outcome.message
        assert not Path("runs.sqlite").exists()


class TestFailing:
    def test_a_classifier_that_fails_is_1(self, run: Run) -> None:
        outcome = run("certify", "digits", "--classifier", "python:toy:Undecided", "--sigma", "1")
        assert (outcome.code, outcome.out) == (1, "")
        assert "error: The classifier gave NaN logits" in outcome.err

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            (("predict", "grey.png", *TOY), "'predict' stores nothing. Repeat the com"),
            (("demo",), "stored. To resume:\ndenoised-smoothing demo\n"),
            (
                ("sweep", "digits", "--classifier", "python:toy:Toy", "--radius", "0.25"),
                "stored. To resume:\ndenoised-smoothing sweep digits --classifier python:toy:Toy",
            ),
        ],
        ids=lambda value: value[0] if isinstance(value, tuple) else "",
    )
    def test_ctrl_c_is_130_and_says_how_to_resume(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], said: str
    ) -> None:
        def interrupt(*arguments: object, **named: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(SmoothedClassifier, "predict", interrupt)
        monkeypatch.setattr("denoised_smoothing.runs.sweep.sweep_sigma", interrupt)
        monkeypatch.setattr(demo, "run_demo", interrupt)
        picture("grey.png")
        outcome = run(*command)
        assert (outcome.code, outcome.out) == (130, "")
        assert "Interrupted. " in outcome.err
        assert said in outcome.err

    def test_a_missing_package_names_the_extra(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "lightning", None)
        for command in (("train", "--sigma", "1"), ("train-classifier",)):
            outcome = run(*command, "digits:train", "--output", "x.safetensors")
            assert outcome.code == 2
            assert "pip install 'denoised-smoothing[train]'" in outcome.message


class TestPredict:
    def test_text_and_json(self, run: Run) -> None:
        sigma = ("--sigma", "0.05", "--seed", "1", "--n", "200")
        arguments = ("predict", picture("grey.png"), *TOY, *sigma)
        text = run(*arguments)
        values = run(*arguments, "--json").json
        assert values["label_name"] == "abcdefghij"[values["label"]]
        assert text.out.startswith(f"{values['label_name']}: label {values['label']} (p-value ")
        # Of 150 nearly all are for one class: the other 50 cannot change that.
        assert (values["calls"], sum(values["counts"].values()), values["seed"]) == (150, 150, "1")

    def test_abstention_and_no_names(self, run: Run) -> None:
        arguments = ("predict", picture("grey.png"), *TOY, "--seed", "1", "--n", "2")
        assert run(*arguments).out.startswith("abstains (p-value ")
        values = run(*arguments, "--json").json
        assert (values["label"], values["label_name"]) == (None, None)
        box = ("--classifier", "python:toy:black_box", "--sigma", "0.1", "--json")
        assert run("predict", "grey.png", *box).json["label_name"] is None

    def test_resolution(self, run: Run) -> None:
        picture("large.png", size=(20, 30))
        assert run("predict", "large.png", *TOY, "--resolution", "8").code == 0
        outcome = run("predict", "large.png", *TOY)
        assert (outcome.code, "The classifier failed on images of shape" in outcome.err) == (
            1,
            True,
        )
        outcome = run("predict", "large.png", *TOY, "--resolution", "0")
        assert outcome.code == 2
        assert "resolution must be at least 2" in outcome.message

    def test_grey_for_a_colour_classifier(self, run: Run) -> None:
        colour = ("--classifier", "python:toy:Colour", "--sigma", "0.5")
        outcome = run("predict", picture("grey.png"), *colour)
        assert outcome.code == 2
        assert "the image is grey, but the classifier takes RGB images" in outcome.message
        assert run("predict", picture("colour.png", "RGB"), *colour).code == 0


class TestExportAndReport:
    def test_tsv_has_the_columns_of_the_literature(self, run: Run) -> None:
        run(*DIGITS, "--run", "a")
        outcome = run("export", "a", "--output", "a.tsv")
        assert (outcome.code, outcome.out) == (0, "wrote a.tsv and a.tsv.jsonl\n")
        lines = Path("a.tsv").read_text().splitlines()
        assert lines[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
        assert len(lines) == 4

    @pytest.mark.parametrize("form", ["csv", "parquet"])
    def test_other_formats(self, run: Run, form: str) -> None:
        run(*DIGITS, "--run", "a")
        output = f"a.{form}"
        values = run("export", "a", "--format", form, "--output", output, "--json").json
        assert values == {"output": output}
        if form == "csv":
            with Path(output).open(newline="") as file:
                assert [row["n"] for row in csv.DictReader(file)] == ["50"] * 3
        else:
            parquet = pytest.importorskip("pyarrow.parquet")
            assert parquet.read_table(output)["n"].to_pylist() == [50] * 3

    def test_exports_give_back_certificates_that_say_what_they_are_about(self, run: Run) -> None:
        run(*DIGITS, "--run", "a")
        values = run("export", "a", "--output", "a.tsv", "--json").json
        assert values == {"output": "a.tsv", "side_file": "a.tsv.jsonl"}
        run("export", "a", "--format", "jsonl", "--output", "a.jsonl")
        found = list(read_export("a.tsv"))
        assert found == list(read_export("a.jsonl"))
        with Store("runs.sqlite", read_only=True) as store:
            held = load_results(store, "a").images
            settings, digests = store.run("a").settings, [i.digest for i in store.images("a")]
        assert [image.certificate for image in found] == [image.certificate for image in held]
        identities = [image.certificate.identity for image in held]
        assert [identity.image_sha256 for identity in identities] == digests
        for identity in identities:
            told = {name: getattr(identity, name) for name in ("classifier", "denoiser")}
            told |= {
                f"{name}_fingerprint": getattr(identity, f"{name}_fingerprint") for name in told
            }
            told |= {"resolution": identity.resolution, "image_shape": [*identity.image_shape]}
            assert told == {name: settings[name] for name in told}

    def test_a_report_of_a_run_and_a_file(self, run: Run) -> None:
        run(*DIGITS, "--run", "a")
        rows = ["idx\tlabel\tpredict\tradius\tcorrect\ttime", "0\t3\t3\t0.825\t1\t0:00:14.5"]
        Path("other.tsv").write_text("\n".join(rows))
        assert run("report", "a", "other.tsv").code == 0
        assert "“other.tsv” is read from a file" in Path("report.html").read_text()
        for names, said in ((["other.tsv"], "at least one stored"), (["a", "no.tsv"], "No such")):
            outcome = run("report", *names)
            assert outcome.code == 2
            assert said in outcome.message

    def test_report_of_several_runs(self, run: Run) -> None:
        for sigma in ("0.25", "0.5"):
            run(*DIGITS, "--sigma", sigma, "--run", f"s{sigma}")
        values = run("report", "s0.25", "s0.5", "--radii", "0.25", "--json").json
        assert values["output"] == "report.html"
        assert [row["proven"]["attempted"] for row in values["rows"]] == [
            row["images"] for row in values["rows"]
        ]
        html = Path("report.html").read_text()
        assert "s0.25" in html
        assert "s0.5" in html

    def test_certificates_that_hold_together(self, run: Run) -> None:
        run(*DIGITS, "--run", "a")
        run("export", "a", "--output", "a.csv", "--format", "csv", "--together", "0.001")
        with Path("a.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {float(row["alpha"]) for row in rows} == {0.001 / len(rows)}
        run("report", "a", "--together", "0.001")
        assert "all certificates of top labels in this report" in Path("report.html").read_text()

    def test_two_runs_are_compared(self, run: Run) -> None:
        for sigma in ("0.25", "0.5"):
            run(*DIGITS, "--sigma", sigma, "--run", f"s{sigma}")
        values = run("compare", "s0.25", "s0.5", "--radii", "0.25", "--json").json
        [at] = values["radii"]
        assert at["both"] + at["only_first"] + at["only_second"] <= values["images"]
        outcome = run("compare", "s0.25", "s0.5", "--radii", "0.25")
        assert "exact McNemar test at 5 % / 1" in outcome.out

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("export b --output b.tsv", r"No run 'b' in the store .* Did you mean|newest are: a"),
            ("report a b", "No run 'b' in the store"),
            ("report a --radii x", "--radii must be numbers separated by commas, got 'x'"),
            ("export a --output missing/a.tsv", "cannot write the output 'missing/a.tsv'"),
            ("report a --together 2", "beta must lie strictly between 0 and 1, got 2"),
            ("compare a a", "needs two runs, got 'a' twice"),
            ("compare a b", "No run 'b' in the store"),
            ("export a --format xls --output a.xls", "Invalid value for '--format'"),
        ],
    )
    def test_bad_input_is_refused(self, run: Run, arguments: str, said: str) -> None:
        run(*DIGITS, "--run", "a")
        outcome = run(*arguments.split())
        assert (outcome.code, outcome.out) == (2, "")
        assert re.search(said, outcome.message)


class TestUntrainedSigma:
    DIGITS = ("--classifier", "digits", "--denoiser", "digits-mse", "--engine", "torch")
    NOTE = "note: sigma 3 is outside the range for which the denoiser was trained (0.1 to 0.6)."

    def test_certify_prints_one_note_and_stores_it(self, run: Run) -> None:
        outcome = run("certify", "digits", *self.DIGITS, "--sigma", "3", *SMALL, "--limit", "1",
                      "--json")  # fmt: skip
        assert outcome.err.count(self.NOTE) == 1
        assert [
            f"note: {text}"[: len(self.NOTE)] for text in outcome.json["certificate"]["notes"]
        ] == [self.NOTE]

    def test_predict_prints_one_note(self, run: Run) -> None:
        outcome = run(
            "predict", picture("a.png"), *self.DIGITS, "--sigma", "3", "--n", "20", "--json"
        )
        assert outcome.err.count(self.NOTE) == 1
        assert len(outcome.json["notes"]) == 1

    def test_sweep_notes_each_sigma_outside(self, run: Run) -> None:
        outcome = run("sweep", "digits", *self.DIGITS, "--sigmas", "0.25,3,4", "--radius", "0.25",
                      "--max-n", "20", "--limit", "1")  # fmt: skip
        assert re.findall(r"note: sigma (\S+) is outside", outcome.err) == ["3", "4"]

    def test_nothing_is_said_within_the_range(self, run: Run) -> None:
        outcome = run("predict", picture("a.png"), *self.DIGITS, "--sigma", "0.6", "--n", "20")
        assert "note:" not in outcome.err


class TestList:
    @pytest.mark.parametrize(
        ("kind", "held"),
        [("classifiers", "digits"), ("denoisers", "none"), ("datasets", "folder:PATH")],
    )
    def test_what_can_be_named(self, run: Run, kind: str, held: str) -> None:
        rows = run("list", kind, "--json").json
        assert held in [row["spec"] for row in rows]
        text = run("list", kind).out
        assert text.split()[:3] == ["kind", "spec", "what"]
        assert held in text

    def test_all_that_can_be_named(self, run: Run) -> None:
        rows = run("list", "--json").json
        assert {row["kind"] for row in rows} == {"classifiers", "denoisers", "datasets"}

    def test_runs(self, run: Run) -> None:
        Store("runs.sqlite").close()
        assert run("list", "runs").out == "none\n"
        assert run("list", "runs", "--json").json == []
        run(*DIGITS, "--run", "a")
        [row] = run("list", "runs", "--json").json
        assert row.pop("created").endswith("+00:00")
        assert row == {
            "run": "a",
            "data": "digits",
            "sigma": 0.5,
            "engine": "torch",
            "precision": "float32",
            "finished": 3,
        }
        assert run("list", "runs").out.split()[:7] == [
            "run",
            "data",
            "sigma",
            "engine",
            "precision",
            "finished",
            "created",
        ]

    def test_of_something_else(self, run: Run) -> None:
        outcome = run("list", "stores")
        assert outcome.code == 2
        assert "'classifiers', 'denoisers', 'datasets', 'runs'" in outcome.message


class TestTrain:
    ARGUMENTS = (
        "train", "digits:train", "--sigma", "0.5", "--option", "width=4", "--option", "outer=1",
        "--option", "inner=1", "--steps", "20", "--epoch-steps", "10", "--batch-size", "8",
        "--validation-limit", "20", "--accelerator", "cpu", "--no-flip",
        "--output", "unet.safetensors",
    )  # fmt: skip

    def test_an_option_that_the_architecture_has_not(self, run: Run) -> None:
        outcome = run(*self.ARGUMENTS, "--option", "foo=3")
        assert (outcome.code, outcome.out) == (2, "")
        assert "cannot build unet with" in outcome.message
        assert "'foo'" in outcome.message

    def test_ctrl_c_says_that_the_same_command_goes_on(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(job: object) -> None:
            raise TrainingInterruptedError("Repeat the command to resume")

        monkeypatch.setattr("denoised_smoothing.training.fit.train_denoiser", stopped)
        outcome = run(*self.ARGUMENTS)
        assert outcome.code == 130
        assert "Repeat the command to resume" in outcome.message

    def test_the_architecture_is_that_of_the_weights_to_start_from(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: list[Any] = []

        def stopped(job: Any) -> None:
            found.append(job.architecture)
            raise TrainingInterruptedError("stopped")

        monkeypatch.setattr("denoised_smoothing.training.fit.train_denoiser", stopped)
        save_denoiser("dncnn.safetensors", build_denoiser("dncnn", image_channels=1), "dncnn", {})
        start = ("--start", "dncnn.safetensors")
        for more in ((), start, (*start, "--architecture", "memnet")):
            run("train", "digits:train", "--sigma", "0.5", "--output", "a.safetensors", *more)
        assert found == ["unet", "dncnn", "memnet"]

    def test_once_again_and_resumed(self, run: Run) -> None:
        pytest.importorskip("lightning")
        card = run(*self.ARGUMENTS, "--judge", "python:toy:Toy", "--json").json
        assert (card["output"], card["architecture"]) == ("unet.safetensors", "unet")
        assert "accuracy_python:toy:Toy" in json.loads(card["quality"])
        assert card["command"].startswith("denoised-smoothing train digits:train --sigma 0.5 ")
        before = load_denoiser_file("unet.safetensors").state_dict()

        outcome = run(*self.ARGUMENTS)
        assert (outcome.code, outcome.out) == (2, "")
        assert "unet.safetensors exists already. Choose another output" in outcome.message

        Path("unet.safetensors").unlink()
        outcome = run(*self.ARGUMENTS)
        assert outcome.code == 0
        assert "since it was resumed" in outcome.out
        after = load_denoiser_file("unet.safetensors").state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)

        Path("unet.safetensors").unlink()
        outcome = run(*self.ARGUMENTS, "--seed", "1")
        assert outcome.code == 1
        assert (
            "holds a training with other settings (seed: 0 there, 1 requested)" in outcome.message
        )

    def test_labels_of_data_and_classifier_by_name(
        self, run: Run, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Folders have the order blue, green, red, and the classifier's labels the other one."""
        pytest.importorskip("lightning")
        paint(Path("painted"))
        Path("labels.txt").write_text("red = 0\nblue = 2\ngreen = 1\n")
        note = "note: The classifier has no label names, so labels are compared by number"
        for number, (name, more, accuracy) in enumerate(
            (("Primary", (), 1.0), ("Unnamed", (), 0.333333),
             ("Unnamed", ("--labels", "labels.txt"), 1.0))
        ):  # fmt: skip
            spec = f"python:toy:{name}"
            outcome = run(
                "train", "folder:painted", *self.ARGUMENTS[2:-1], f"{number}.safetensors",
                "--objective", "stability", "--target", "truth", "--classifier", spec, *more,
                "--sigma", "0.05", "--steps", "1", "--epoch-steps", "1", "--json",
            )  # fmt: skip
            assert (note in caplog.text) == (accuracy < 1)
            caplog.clear()
            assert json.loads(outcome.json["quality"])[f"accuracy_{spec}"] == accuracy

    def test_a_classifier_and_certify_it(self, run: Run) -> None:
        pytest.importorskip("lightning")
        arguments = ("train-classifier", "digits:train", "--depth", "8", "--steps", "2")
        card = run(*arguments, "--output", "resnet8.safetensors", "--json").json
        assert card["architecture"] == "cifar-resnet8"
        spec = ("--classifier", "cifar-resnet8:resnet8.safetensors", "--sigma", "0.25")
        unet = build_denoiser("unet", image_channels=1, width=4, outer=1, inner=1)
        save_denoiser("unet.safetensors", unet, "unet", {})
        outcome = run("certify", "digits", *spec, *SMALL, "--limit", "1", "--json",
                      "--denoiser", "unet:unet.safetensors")  # fmt: skip
        assert outcome.json["rows"][0]["method"] == (
            "unet:unet.safetensors + cifar-resnet8:resnet8.safetensors"
        )

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (
                "--option width",
                "--option must be NAME=VALUE .* got 'width'. Write for example --option width=32",
            ),
            ("--option width=0", "--option must be NAME=VALUE .* got 'width=0'"),
            ("--option =5", "--option must be NAME=VALUE .* got '=5'"),
            ("--architecture unett", "must be one of dncnn, .*got 'unett'"),
            ("--objective psnr", "Invalid value for '--objective'"),
            ("--objective stability", "objective stability needs at least one classifier"),
            ("--classifier python:toy:black_box", "is not a torch module, which training needs"),
            ("--sigma-max 0.1", "sigma_max must be at least sigma, got 0.1 and 0.5"),
            ("--steps 0", "steps must be at least 1 and finite, got 0"),
            ("--start missing.safetensors", "there is no weights file missing.safetensors"),
        ],
    )
    def test_bad_input_is_refused(self, run: Run, arguments: str, said: str) -> None:
        pytest.importorskip("lightning")
        outcome = run(*self.ARGUMENTS, *arguments.split())
        assert (outcome.code, outcome.out) == (2, "")
        assert re.search(said, outcome.message), outcome.message
        assert not Path("unet.safetensors.training").exists()


class TestTerminal:
    @pytest.mark.parametrize(
        ("seconds", "left"),
        [(0.4, "0:00:00"), (61.0, "0:01:01"), (3599.9, "0:59:59"), (7322.0, "2:02:02")],
    )
    def test_the_bar_shows_how_far_it_is(
        self, monkeypatch: pytest.MonkeyPatch, seconds: float, left: str
    ) -> None:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=200, _environ={"TERM": "xterm"})
        monkeypatch.setattr(terminal, "err", console)
        with terminal.run_bar() as show:
            show(RunProgress("photos", 3, 20, 2, 12_345, 9.0, seconds))
        shown = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
        for text in ("photos", "3/20 images", "2 certified", "12,345 queries", f"{left} left"):
            assert text in shown

    def test_after_ctrl_c_it_says_what_is_not_stored(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lost = "The counts of the last 9 copies are not stored."
        with pytest.raises(SystemExit) as end, terminal.run_bar():
            raise KeyboardInterrupt(lost)
        assert end.value.code == 130
        assert f"Interrupted. {lost} To resume:" in capsys.readouterr().err


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "denoised_smoothing", "certify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: denoised-smoothing certify" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], ["torch", "scipy", "numpy", "sqlalchemy", "PIL"]),
        (["list"], ["torch", "scipy.stats", "sqlalchemy"]),
        (["list", "runs"], ["torch", "scipy.stats"]),
        (["export", "--help"], ["torch", "scipy.stats"]),
    ],
)
def test_a_command_imports_what_it_needs(
    tmp_path: Path, arguments: list[str], heavy: list[str]
) -> None:
    Store(tmp_path / "runs.sqlite").close()
    code = (
        "import sys\nfrom denoised_smoothing.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


PAGES = (
    "README.md",
    *(
        f"docs/{page.name}"
        for page in sorted(DOCS.glob("*.md"))
        if page.name != "deploy.md" or "serve" in COMMANDS
    ),
)


def read(page: str) -> str:
    path = README.parent / page
    if not path.exists():
        pytest.skip(f"there is no {page} next to the tests")
    return path.read_text(encoding="utf-8")


class TestDocumentation:
    """What README and documentation tell to type is understood; nothing is run."""

    @pytest.mark.parametrize("page", PAGES)
    def test_commands_in_blocks_parse(self, page: str) -> None:
        blocks = re.findall(r"^```\w*\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)
        lines = LINE.findall("\n".join(blocks).replace("\\\n", " "))
        assert len(lines) >= (5 if page == "README.md" else 0)
        for line in lines:
            name, *arguments = shlex.split(line, comments=True)
            command = COMMANDS[name]
            while getattr(command, "commands", None):
                name, *arguments = arguments
                command = command.commands[name]
            command.make_context(name, arguments)

    @pytest.mark.parametrize("page", PAGES)
    def test_commands_and_options_in_the_text_exist(self, page: str) -> None:
        options = {
            option: name
            for name, group in COMMANDS.items()
            for command in (group, *getattr(group, "commands", {}).values())
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        text = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`([^`]+)`", text):
            words = code.split()
            if words[0] == "denoised-smoothing":
                assert words[1] in COMMANDS
            if words[0] == "denoised-smoothing" or words[0].startswith("--"):
                named = {word.partition("=")[0] for word in words if word.startswith("--")}
                assert named <= options.keys() | {"--help"}
