"""benchmarks/parts.py and gpu.py: what is done is kept, what was stopped continues."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from denoised_smoothing.cli.experiment import experiment
from denoised_smoothing.cli.train import train as TRAIN
from denoised_smoothing.runs.paper.recipes import IMAGENET_RECIPES
from tests.test_benchmarks import BENCHMARKS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

COUNT = "import sys, pathlib; file = pathlib.Path(sys.argv[1]); text = file.read_text() if \
file.exists() else ''; file.write_text(text + 'x'); print('call', len(text) + 1)\n"
"""Adds an x to a file, and prints how many there are."""
SLEEP = COUNT + "import time; time.sleep(0 if len(text) else 60)"
"""Ends at its second call only, and by Ctrl-C."""
DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n\
print('deaf', flush=True); time.sleep(60)"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not BENCHMARKS.exists():
        pytest.skip("there are no benchmarks next to the tests")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("parts")


def python(code: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *map(str, arguments))


def results(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_what_is_done_is_not_done_again(
    parts: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks, folder = tmp_path / "marks", tmp_path / "results"
    part = parts.Part("count", python(COUNT, marks), limit=60)
    assert parts.execute([part], folder, device="a GPU")
    assert parts.execute([part], folder)
    assert marks.read_text() == "x"
    [end] = results(folder)
    assert (end["name"], end["state"], end["exit_code"]) == ("count", "done", 0)
    assert end["device"] == "a GPU"
    assert (folder / "count.txt").read_text().endswith("\ncall 1\n")
    assert capsys.readouterr().out.endswith("count: done before\n")


def test_a_part_that_its_limit_stopped_continues_at_the_next_call(
    parts: ModuleType, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    slow = parts.Part("slow", python(SLEEP, marks), limit=3)
    after = parts.Part("after", python("print('after')"), limit=60)
    began = time.monotonic()
    assert not parts.execute([slow, after], tmp_path)
    assert time.monotonic() - began < 50
    assert [(end["name"], end["state"]) for end in results(tmp_path)] == [
        ("slow", "stopped"),
        ("after", "done"),
    ]
    assert parts.execute([slow, after], tmp_path)
    assert marks.read_text() == "xx"
    assert [end["state"] for end in results(tmp_path)] == ["stopped", "done", "done"]
    # Both calls, and the traceback of Ctrl-C.
    output = (tmp_path / "slow.txt").read_text()
    assert output.count("$ ") == 2
    assert "KeyboardInterrupt" in output


def test_a_command_that_ignores_its_interruption_is_killed(
    parts: ModuleType, tmp_path: Path
) -> None:
    part = parts.Part("deaf", python(DEAF), limit=3)
    assert not parts.execute([part], tmp_path, grace=0.1)
    [end] = results(tmp_path)
    assert (end["state"], end["exit_code"]) == ("stopped", -signal.SIGKILL)


def test_an_interruption_that_was_dropped_is_repeated(parts: ModuleType, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "def second(*_): sys.exit(130)\n"
        "def first(*_): signal.signal(signal.SIGINT, second)\n"
        "signal.signal(signal.SIGINT, first)\n"
        "for _ in range(600): time.sleep(0.1)"
    )
    part = parts.Part("late", python(code), limit=3)
    assert not parts.execute([part], tmp_path, grace=6)
    [end] = results(tmp_path)
    assert (end["state"], end["exit_code"]) == ("stopped", 130)


def test_a_failed_part_is_shown_and_tried_again(
    parts: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = parts.Part("failing", python("raise SystemExit('no such file')"), limit=60)
    after = parts.Part("after", python("pass"), limit=60)
    for _ in range(2):
        assert not parts.execute([failing, after], tmp_path)
    assert [end["name"] for end in results(tmp_path)] == ["failing", "after", "failing"]
    assert "exit code 1\n    $ " in (text := capsys.readouterr().out)
    assert "\n    no such file\n" in text


def test_the_budget_covers_all_parts_and_their_interruption(
    parts: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = parts.Part("slow", python("import time; time.sleep(60)"), limit=60)
    after = parts.Part("after", python("pass"), limit=60)
    assert not parts.execute([slow, after], tmp_path, budget=4, grace=2)
    assert [(end["name"], end["state"]) for end in results(tmp_path)] == [("slow", "stopped")]
    assert "slow: at most 2 s\n" in (text := capsys.readouterr().out)
    assert "after: not started, because the budget is used up\n" in text


def test_a_part_waits_for_its_files_and_is_done_where_its_file_exists(
    parts: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights"
    reads = parts.Part("reads", python("pass"), limit=60, needs=(str(weights),))
    makes = parts.Part("makes", python("raise SystemExit(2)"), limit=60, makes=str(weights))
    assert not parts.execute([reads], tmp_path)
    assert f"reads: waits for {weights}\n" in capsys.readouterr().out
    assert not (tmp_path / "results.jsonl").exists()
    weights.touch()
    assert parts.execute([makes, reads], tmp_path)
    assert [end["name"] for end in results(tmp_path)] == ["reads"]


def test_results_are_kept_at_once_and_by_ctrl_c(parts: ModuleType, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from parts import Part, execute\n"
        f"quick = Part('quick', {python('pass')!r}, 60)\n"
        f"slow = Part('slow', {python('import time; time.sleep(60)')!r}, 60)\n"
        f"execute([quick, slow], Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen(
        python(code), env={**os.environ, "PYTHONPATH": str(BENCHMARKS)}, stderr=subprocess.DEVNULL
    )
    slow, until = tmp_path / "slow.txt", time.monotonic() + 60
    while not slow.exists() and time.monotonic() < until:
        time.sleep(0.05)
    [quick] = results(tmp_path)  # while the next part runs
    assert (quick["name"], quick["state"]) == ("quick", "done")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60)
    assert [end["state"] for end in results(tmp_path)] == ["done", "stopped"]


class TestGpu:
    @pytest.fixture
    def gpu(self, parts: ModuleType) -> ModuleType:
        return importlib.import_module("gpu")

    def test_parts_read_what_the_parts_before_them_write(
        self, gpu: ModuleType, tmp_path: Path
    ) -> None:
        parts = gpu.Plan(Path("data"), tmp_path).parts
        assert len({part.name for part in parts}) == len(parts)
        written: set[str] = set()
        for part in parts:
            own = {file for file in part.needs if file.startswith(str(tmp_path))}
            assert own <= written, part.name
            written |= {part.makes} - {None}
        assert len(written) == len(gpu.TRAININGS)

    @pytest.mark.parametrize("device", ["cuda", "cpu"])
    def test_options_of_trainings_exist(self, gpu: ModuleType, device: str, tmp_path: Path) -> None:
        plan = gpu.Plan(Path("data"), tmp_path, device, share=0.5, small=device == "cpu")
        steps = {}
        for training in gpu.TRAININGS:
            [_, module, package, name, *options] = plan.training(training).command
            assert (module, package, name) == ("-m", "denoised_smoothing", "train")
            typed = TRAIN.make_context(name, options).params
            assert typed["architecture"] == "multiscale-unet"
            steps[training.name] = typed["steps"]
        halves = {training.name: training.steps // 2 for training in gpu.TRAININGS}
        assert steps == (halves if device == "cuda" else dict.fromkeys(halves, 2))

    def test_options_and_rows_of_tables_exist(self, gpu: ModuleType, tmp_path: Path) -> None:
        known = {recipe.name for recipe in IMAGENET_RECIPES} - {"photo"}  # needs no training
        rows = {}
        for part in gpu.Plan(Path("data"), tmp_path).parts:
            if "experiment" in part.command:
                [_, _, _, _, table, *options] = part.command
                typed = experiment.commands[table].make_context(table, options).params
                rows[part.name] = set(typed["row"])
        assert rows["imagenet"] < rows["imagenet-published"] == known
        assert rows["cifar10"] == set()

    def test_without_cuda_it_says_what_to_do(
        self, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(SystemExit, match=r"no CUDA device here\. Use --device cpu"):
            gpu.device_name("cuda")
        assert gpu.device_name("cpu") == "cpu"
