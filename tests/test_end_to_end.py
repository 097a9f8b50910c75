"""The command as a process of its own: killed, interrupted, resumed; and on real data."""

from __future__ import annotations

import csv
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from denoised_smoothing.errors import StoreError
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.store import Store, StoredImage

SHARED = Path(
    os.environ.get("DENOISED_SMOOTHING_SHARED", Path(__file__).resolve().parents[2] / "shared")
)
SAMPLES = Path(__file__).parent / "samples"
LOG = "passes.log"
IMAGES, N0, N = 12, 400, 50
"""As n is one chunk, no image ends early."""
CALLS = IMAGES * (N0 + N)
FORWARD = 200
"""Copies of a forward pass of 8x8 images."""
CANARIES = 3
"""Passes that each process computes again: 0, 1 and 8."""
PASSES = CALLS // FORWARD + CANARIES
PIXELS = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), np.uint8)
SETTLED = 10
"""Of 0.05 seconds, one after the other: from then on something has been saved."""
COMMAND = (
    "certify", "folder:images", "--classifier", "python:toy:Slow", "--sigma", "0.3",
    "--engine", "torch", "--batch-size", str(FORWARD),
    "--n0", str(N0), "--n", str(N), "--seed", "11",
)  # fmt: skip


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder that holds ``toy.py`` and images."""
    shutil.copy(SAMPLES / "toy.py", folder)
    (folder / "images").mkdir(exist_ok=True)
    for index, values in enumerate(PIXELS):
        PIL.Image.fromarray(values).save(folder / f"images/{index:02}.png")
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", "denoised_smoothing", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={
            **os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TOY_LOG": LOG, **variables
        },
        # A shell that runs the tests in the background may have switched it off.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def passes(folder: Path) -> int:
    """Forward passes so far, over all processes."""
    return len((folder / LOG).read_text().splitlines())


def images(folder: Path) -> list[StoredImage]:
    with Store(folder / "runs.sqlite", read_only=True) as store:
        [run] = store.runs()
        return store.images(run.name)


def copies(folder: Path) -> int:
    return sum(counts.n for image in images(folder) for counts in image.counts.values())


def counted_so_far(folder: Path) -> int:
    """Copies in a store that another process may be making just now."""
    with suppress(StoreError, ValueError):
        return copies(folder)
    return 0


def outcome(folder: Path) -> tuple[object, ...]:
    """Counts and exports, but for the time."""
    with Store(folder / "runs.sqlite", read_only=True) as store:
        [run] = store.runs()
        results = load_results(store, run.name)
    tables = []
    for form, delimiter in ((ExportFormat.TSV, "\t"), (ExportFormat.CSV, ",")):
        export(results, form, folder / form)
        with (folder / form).open(newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter)
            tables.append([{key: row[key] for key in row if key != "time"} for row in rows])
    counts = [(image.image_id, image.counts, image.finished) for image in images(folder)]
    return run.name, run.seed, counts, *tables


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = start(folder, *COMMAND)
    assert (done.returncode, passes(folder)) == (0, PASSES), done.stderr
    assert f"Stored as {outcome(folder)[0]} in runs.sqlite" in done.stdout
    return outcome(folder)


def test_killed_at_a_random_moment_and_resumed(
    uninterrupted: tuple[object, ...], tmp_path: Path
) -> None:
    moment = random.Random(2).randint(SETTLED, PASSES - 1)
    killed = start(tmp_path, *COMMAND, TOY_SIGNAL="SIGKILL", TOY_AT=str(moment))
    made, stored = passes(tmp_path), copies(tmp_path)
    assert (killed.returncode, made >= moment) == (-signal.SIGKILL, True)
    assert 0 < stored < CALLS
    # Of 0.05 seconds: those of 0.4 seconds wait to be saved, and one is in flight.
    assert made * FORWARD - stored <= (9 + CANARIES) * FORWARD
    again = start(tmp_path, *COMMAND, "--batch-size", "2000")
    assert again.returncode == 0, again.stderr
    assert passes(tmp_path) - made <= PASSES  # some are not full
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.skipif(
    not (find_spec("openvino") and find_spec("nncf")), reason="needs openvino, nncf"
)
def test_a_converted_model_killed_and_resumed(tmp_path: Path) -> None:
    """Quantised by the first process, found again by the second, equal to one that was let be."""
    command = (
        "certify", "digits", "--classifier", "digits", "--denoiser", "digits-mse",
        "--sigma", "0.5", "--limit", "8", "--n0", "200", "--n", "12000", "--seed", "3",
        "--engine", "openvino", "--precision", "int8",
    )  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    done = start(whole, *command)
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(
        [sys.executable, "-m", "denoised_smoothing", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=broken,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        while not counted_so_far(broken):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert 0 < copies(broken) < copies(whole)
    again = start(broken, *command)
    assert again.returncode == 0, again.stderr
    assert outcome(broken) == outcome(whole)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_with_the_command_that_continues(
    uninterrupted: tuple[object, ...], tmp_path: Path, name: str, code: int
) -> None:
    """The store is whole in one file: nothing is left in a log beside it."""
    stopped = start(tmp_path, *COMMAND, TOY_SIGNAL=name, TOY_AT="12")
    assert (stopped.returncode, stopped.stdout) == (code, "")
    assert [path.name for path in tmp_path.glob("runs.sqlite*")] == ["runs.sqlite"]
    assert "Interrupted. Counts so far are stored. To resume:" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    made, stored = passes(tmp_path), copies(tmp_path)
    assert stored > 0
    [line] = re.findall(r"^denoised-smoothing (.*)$", stopped.stderr, re.MULTILINE)
    done = start(tmp_path, *shlex.split(line))
    assert done.returncode == 0, done.stderr
    assert passes(tmp_path) - made <= -((stored - CALLS) // FORWARD) + 2 + CANARIES
    assert outcome(tmp_path) == uninterrupted


def test_ctrl_c_of_a_continuation_does_not_add_its_copies_twice(tmp_path: Path) -> None:
    command = (
        *COMMAND[:COMMAND.index("--n0")], "--seed", "11",
        "--plan", "anytime", "--radii", "0.1,0.3", "--max-n", "300",
    )  # fmt: skip
    assert start(tmp_path, *command).returncode == 0
    begun = copies(tmp_path)
    more = (*command, "--more", "300")
    stopped = start(tmp_path, *more, TOY_SIGNAL="SIGINT", TOY_AT="2")
    assert stopped.returncode == 130
    [line] = re.findall(r"^denoised-smoothing (.*)$", stopped.stderr, re.MULTILINE)
    done = start(tmp_path, *shlex.split(line))
    assert done.returncode == 0, done.stderr
    assert begun < copies(tmp_path) <= IMAGES * (50 + 300 + 300)
    with Store(tmp_path / "runs.sqlite", read_only=True) as store:
        [run] = store.runs()
        assert (run.settings["plan"]["max_n"], run.settings["plan"]["more"]) == (300, 300)
        assert len(run.info["continued"]) == 1
        assert all(image.finished for image in store.images(run.name))


def test_cifar10(tmp_path: Path) -> None:
    """The command of the issue, on two images."""
    data = SHARED / "data/cifar10/test.parquet"
    weights = SHARED / "data/cifar10_classifiers/resnet56.safetensors"
    for needed in (data, weights):
        if not needed.exists():
            pytest.skip(f"needs {needed.relative_to(SHARED.parent)}")
    pytest.importorskip("pyarrow")
    done = start(
        tmp_path, "certify", f"parquet:{data}", "--classifier", f"cifar-resnet56:{weights}",
        "--sigma", "0.25", "--n0", "20", "--n", "100", "--limit", "2", "--run", "cifar",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Certified accuracy" in done.stdout
    with Store(tmp_path / "runs.sqlite", read_only=True) as store:
        run, images = store.run("cifar"), store.images("cifar")
    assert run.settings["resolution"] == 32
    assert run.settings["dimension"] == 3 * 32 * 32
    assert run.settings["forward_shape"][1:] == [3, 32, 32]
    assert run.info["label_names"][:2] == ["airplane", "automobile"]
    assert [(image.image_id, image.label, image.finished) for image in images] == [
        ("0", 0, True),
        ("1", 1, True),
    ]
