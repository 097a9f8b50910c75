"""smoothing/cluster_guard.py: nothing is left of a cluster whose driver was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from denoised_smoothing.errors import StoreError
from denoised_smoothing.store import Store

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="needs /proc with the environment of processes"
)
WAIT = 60
SLEEPERS = """
import subprocess, sys, time
from denoised_smoothing.smoothing.cluster_guard import guarded
outside = subprocess.Popen(["sleep", "600"], start_new_session=True)
with guarded():
    for alone in (False, True):
        subprocess.Popen(["sleep", "600"], start_new_session=alone)
    # As of a process that overwrites its environment with a title.
    subprocess.Popen(["sh", "-c", "env -i sleep 600 & wait"])
time.sleep(1)
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


def start(code: str, seconds: float = 600) -> tuple[subprocess.Popen[str], int]:
    """Start a driver in a group of its own; return it and the number that it prints."""
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(seconds)], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert driver.stdout is not None
    with driver.stdout:
        printed = driver.stdout.readline()
    if not printed:
        pytest.fail(f"the driver ended with code {driver.wait(WAIT)}")
    return driver, int(printed)


def family(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes that it started, and theirs."""
    return psutil.Process(driver.pid).children(recursive=True)


def lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def remaining(family: list[psutil.Process]) -> list[psutil.Process]:
    """What is left of these after some seconds."""
    ends = time.monotonic() + WAIT
    while (left := [process for process in family if lives(process)]) and time.monotonic() < ends:
        time.sleep(0.2)
    return left


def kill(driver: subprocess.Popen[str]) -> None:
    driver.kill()


def kill_group(driver: subprocess.Popen[str]) -> None:
    os.killpg(driver.pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill, kill_group, lambda driver: None], ids=["one", "all", "none"])
def test_processes_end_with_the_one_that_started_them(
    end: Callable[[subprocess.Popen[str]], None],
) -> None:
    driver, outside = start(SLEEPERS, 5.0)
    started = family(driver)
    assert len(started) == 6, "the guard, one outside of the cluster, and four in it"
    end(driver)
    driver.wait(WAIT)
    try:
        assert not remaining([process for process in started if process.pid != outside])
        assert psutil.pid_exists(outside), "it was not started for the cluster"
    finally:
        os.kill(outside, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill, kill_group])
def test_nothing_is_left_of_a_cluster_whose_driver_was_killed(
    end: Callable[[subprocess.Popen[str]], None],
) -> None:
    pytest.importorskip("ray")
    driver, _ = start(CLUSTER)
    started = family(driver)
    running = " ".join(part for process in started for part in process.cmdline())
    for server in ("gcs_server", "raylet", "Agent"):
        assert server in running
    end(driver)
    driver.wait(WAIT)
    assert not remaining(started)


@pytest.mark.timeout(8 * WAIT)
def test_sigterm_saves_what_is_counted_and_ends_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    samples = str(Path(__file__).parents[1] / "samples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([samples, *filter(None, sys.path)]))
    command = [
        sys.executable, "-m", "denoised_smoothing", "certify", "digits", "--classifier",
        "python:toy:Slow", "--sigma", "0.5", "--n", "6000", "--plan", "fixed", "--seed", "1",
        "--limit", "3", "--run", "r", "--ray", "--workers", "1", "--worker-cpus", "0.5",
    ]  # fmt: skip
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        kept, ends = 0, time.monotonic() + 3 * WAIT
        while not kept and driver.poll() is None and time.monotonic() < ends:
            time.sleep(0.2)
            kept = counted()
        started = family(driver)
        driver.terminate()
        _, told = driver.communicate(timeout=2 * WAIT)
    finally:
        driver.kill()
    assert driver.returncode == 143, told
    assert "Counts so far are stored. To resume:" in told
    assert counted() >= kept > 0
    assert not remaining(started)


def counted() -> int:
    """The copies that the store holds."""
    with suppress(StoreError), Store("runs.sqlite", read_only=True) as store:
        return sum(c.n for image in store.images("r") for c in image.counts.values())
    return 0
