"""smoothing/cluster_guard.py: nothing is left of a cluster whose driver was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from denoised_smoothing.errors import StoreError
from denoised_smoothing.store import Store

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="needs /proc with the environment of processes"
)
MARK = "TEST_OF_THE_GUARD"
WAIT = 60
SLEEPERS = """
import subprocess, sys, time
from denoised_smoothing.smoothing.cluster_guard import guarded
outside = subprocess.Popen(["sleep", "600"], start_new_session=True)
with guarded():
    for alone in (False, True):
        subprocess.Popen(["sleep", "600"], start_new_session=alone)
print(outside.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""
CLUSTER = """
import os, sys, time
from denoised_smoothing.smoothing.cluster import RayCluster
cluster = RayCluster(workers=1)
cluster.submit(lambda: os.getpid()).result()
print(os.getpid(), flush=True)
cluster.submit(lambda: time.sleep(600))
time.sleep(float(sys.argv[1]))
"""


def marked(value: str) -> dict[int, str]:
    """The commands of all processes that inherited this mark, by process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={value}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = command.decode(errors="replace")
        except OSError:
            pass
    return found


def start(code: str, value: str, seconds: float = 600) -> tuple[subprocess.Popen[str], int]:
    """Start a driver in a group of its own; return it and the number that it prints."""
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(seconds)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, MARK: value}, start_new_session=True,
    )  # fmt: skip
    assert driver.stdout is not None
    with driver.stdout:
        printed = driver.stdout.readline()
    if not printed:
        pytest.fail(f"the driver ended with code {driver.wait(WAIT)}")
    return driver, int(printed)


def remaining(value: str, without: int = 0) -> dict[int, str]:
    """What is left after some seconds."""
    ends = time.monotonic() + WAIT
    while (left := marked(value)).keys() - {without} and time.monotonic() < ends:
        time.sleep(0.2)
    return {process: command for process, command in left.items() if process != without}


def kill(driver: subprocess.Popen[str]) -> None:
    driver.kill()


def kill_group(driver: subprocess.Popen[str]) -> None:
    os.killpg(driver.pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill, kill_group, lambda driver: None], ids=["one", "all", "none"])
def test_processes_end_with_the_one_that_started_them(
    end: Callable[[subprocess.Popen[str]], None],
) -> None:
    value = uuid.uuid4().hex
    driver, outside = start(SLEEPERS, value, 5.0)
    assert len(marked(value)) == 5, "driver, guard, and three that sleep"
    end(driver)
    driver.wait(WAIT)
    try:
        assert not remaining(value, outside)
        assert outside in marked(value), "it was not started for the cluster"
    finally:
        os.kill(outside, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill, kill_group])
def test_nothing_is_left_of_a_cluster_whose_driver_was_killed(
    end: Callable[[subprocess.Popen[str]], None],
) -> None:
    pytest.importorskip("ray")
    value = uuid.uuid4().hex
    driver, _ = start(CLUSTER, value)
    running = " ".join(marked(value).values())
    for server in ("gcs_server", "raylet", "agent"):
        assert server in running
    end(driver)
    driver.wait(WAIT)
    assert not remaining(value)


def test_sigterm_saves_what_is_counted_and_ends_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    value = uuid.uuid4().hex
    samples = str(Path(__file__).parents[1] / "samples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MARK, value)
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([samples, *filter(None, sys.path)]))
    command = [
        sys.executable, "-m", "denoised_smoothing", "certify", "digits", "--classifier",
        "python:toy:Slow", "--sigma", "0.5", "--n", "6000", "--plan", "fixed", "--seed", "1",
        "--limit", "3", "--run", "r", "--ray", "--workers", "1", "--worker-cpus", "0.5",
    ]  # fmt: skip
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    monkeypatch.delenv(MARK)
    kept, ends = 0, time.monotonic() + 2 * WAIT
    while not kept and driver.poll() is None and time.monotonic() < ends:
        time.sleep(0.2)
        kept = counted()
    driver.terminate()
    _, told = driver.communicate(timeout=WAIT)
    assert driver.returncode == 143, told
    assert "Counts so far are stored. To resume:" in told
    assert counted() >= kept > 0
    assert not remaining(value)


def counted() -> int:
    """The copies that the store holds."""
    with suppress(StoreError), Store("runs.sqlite", read_only=True) as store:
        return sum(c.n for image in store.images("r") for c in image.counts.values())
    return 0
