"""smoothing/cluster.py, on a cluster of two workers that is started once for this file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.cli import main
from denoised_smoothing.errors import (
    ClassifierError,
    MissingExtraError,
    SettingError,
    StoreError,
    WorkerError,
)
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.smoothing import cluster
from denoised_smoothing.smoothing.cluster import TRIES, RayCluster, worker_device
from denoised_smoothing.store import Store

SAMPLES = Path(__file__).parents[1] / "samples"
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8)).astype(np.float32) / 255
WAIT = 120
STORE = 80 * 1024**2
"""Bytes of the cluster's object store."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    ray = pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        # Workers import modules as the driver does.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(SAMPLES), *sys.path]))
        patch.syspath_prepend(str(SAMPLES))
        patch.setenv("TOY_LOG", str(folder / "log"))
        patch.setenv("TOY_GATE", str(folder / "gate"))
        patch.setattr(ray, "init", partial(ray.init, object_store_memory=STORE))
        try:
            with RayCluster(workers=2, cpus=0.5) as running:
                yield running
        finally:
            ray.shutdown()
            sys.modules.pop("toy", None)


def certificates(
    spec: str, cluster: RayCluster | None = None, max_n: int = 2_000
) -> list[Certificate]:
    smoothed = SmoothedClassifier(load_classifier(spec), 0.5, device="cpu", cluster=cluster)
    plan = Anytime((0.25, 0.5), max_n=max_n)
    found = smoothed.certify_batch(IMAGES, plan=plan, seed=3)
    return [replace(each, identity=_without_machine(each.identity)) for each in found]


def _without_machine(identity: Identity | None) -> Identity:
    """Workers do not say what drew the noise and computed the answers."""
    assert identity is not None
    return replace(identity, noise_stream=None, machine=None)


def test_workers_count_as_one_process_does(two: RayCluster) -> None:
    assert certificates("python:toy:Toy", two) == certificates("python:toy:Toy")


def test_a_worker_that_is_killed_loses_no_vote(
    two: RayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = Path(os.environ["TOY_LOG"])
    expected = certificates("python:toy:Toy")
    answered = certificates("python:toy:KilledOnce", two)
    assert [a.counts for a in answered] == [e.counts for e in expected]
    lines = log.read_text().split()
    assert lines.count("killed") == 1
    assert len(set(lines)) >= 3, "two workers, and what came in the place of one"


def test_what_a_worker_raises_arrives(two: RayCluster) -> None:
    with pytest.raises(ClassifierError, match="gave NaN logits"):
        certificates("python:toy:Undecided", two)


def test_a_function_is_counted_by_workers(two: RayCluster) -> None:
    assert certificates("python:toy:black_box", two) == certificates("python:toy:black_box")


def test_a_task_that_loses_several_processes_is_given_up(two: RayCluster, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def lethal() -> None:
        with log.open("a") as lines:
            print(os.getpid(), file=lines)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        WorkerError, match=rf"{TRIES} workers were lost over the same batch.*died.*to resume"
    ):
        two.submit(lethal).result(WAIT)
    assert len(set(log.read_text().split())) == TRIES


def test_closing_leaves_no_future_open(two: RayCluster) -> None:
    cluster = RayCluster(workers=1, cpus=0.5)
    running, waiting = (cluster.submit(lambda: time.sleep(WAIT)) for _ in range(2))
    while not cluster._running:
        time.sleep(0.1)
    cluster.close()
    for future in (running, waiting):
        with pytest.raises(WorkerError, match=r"was lost \(it was closed\)\. .* to resume"):
            future.result(WAIT)
    assert cluster.submit(lambda: 1).result(WAIT) == 1, "it opens again"
    cluster.close()


def test_an_argument_that_cannot_be_sent_fails_by_itself(two: RayCluster) -> None:
    with pytest.raises(TypeError, match="lock"):
        two.submit(lambda lock: None, threading.Lock()).result(WAIT)
    assert two.submit(lambda: 1).result(WAIT) == 1


def test_a_driver_that_leaves_the_cluster_leaves_no_future_open(two: RayCluster) -> None:
    code = """
import sys, time, ray
from denoised_smoothing.errors import WorkerError
from denoised_smoothing.smoothing.cluster import RayCluster
cluster = RayCluster(sys.argv[1], workers=1, cpus=0.5, wait=120)
futures = [cluster.submit(lambda: time.sleep(60)) for _ in range(2)]
while not cluster._running:
    time.sleep(0.1)
ray.shutdown()
for future in futures:
    assert "The connection to the cluster was lost" in str(future.exception(30)), future
"""
    import ray

    address = ray.get_runtime_context().gcs_address
    subprocess.run([sys.executable, "-c", code, address], check=True, timeout=WAIT)


def test_a_driver_that_is_killed_goes_on_without_the_cluster(
    two: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.chdir(tmp_path)
    slow, toy = (
        [
            "certify", "digits", "--classifier", f"python:toy:{name}", "--sigma", "0.5",
            "--n", "6000", "--plan", "fixed", "--seed", "1", "--limit", "3", "--run", "r",
        ]
        for name in ("Slow", "Toy")
    )  # fmt: skip
    address = ray.get_runtime_context().gcs_address
    on_ray = [
        *slow,
        "--ray",
        address,
        "--workers",
        "1",
        "--worker-cpus",
        "0.5",
        "--ray-wait",
        "120",
    ]
    driver = subprocess.Popen([sys.executable, "-m", "denoised_smoothing", *on_ray])
    kept = 0
    while not kept and driver.poll() is None:
        time.sleep(0.2)
        with suppress(StoreError), Store("runs.sqlite", read_only=True) as store:
            kept = sum(c.n for image in store.images("r") for c in image.counts.values())
    driver.kill()
    driver.wait()
    for command, name in ((slow, "runs.sqlite"), (toy, "once.sqlite")):
        with pytest.raises(SystemExit) as end:
            main([*command, "--store", name])
        assert not end.value.code
    stores = [Store(name, read_only=True) for name in ("runs.sqlite", "once.sqlite")]
    went_on, once = ([image.counts for image in store.images("r")] for store in stores)
    assert went_on == once
    assert 0 < kept < sum(c.n for counts in once for c in counts.values()), "killed on the way"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"passes": 0}, "passes must be at least 1, got 0"),
        ({"gpus": -1.0}, "gpus must be at least 0, got -1"),
        ({"memory": -1.0}, "memory must be at least 0, got -1"),
        ({"wait": float("nan")}, "wait must be at least 0, got nan"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RayCluster(**options)  # type: ignore[arg-type]


def test_a_cluster_without_capacity_for_a_worker_says_what_it_has(two: RayCluster) -> None:
    with pytest.raises(
        SettingError, match=r"\(CPU 1, tpu 2\): all have CPU \d+, GPU 0, tpu 0\. Request less"
    ):
        RayCluster(resources={"tpu": 2.0}).submit(time.sleep, 0)
    with pytest.raises(SettingError, match=r"\(CPU 1, memory 1e\+06 GB\): all have .* [\d.]+ GB\."):
        RayCluster(memory=1e15).submit(time.sleep, 0)


def test_a_gpu_that_no_node_has_is_awaited_and_then_named(
    two: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    logged: list[str] = []
    # Not by what is logged: some library may have switched off all loggers that there were.
    monkeypatch.setattr(cluster._log, "warning", lambda text, *a: logged.append(text % a))
    address = ray.get_runtime_context().gcs_address
    lacking = RayCluster(address, workers=2, gpus=1.0, wait=1.0)
    with pytest.raises(
        SettingError,
        match=r"\(CPU 1, GPU 1\): all have CPU \d+, GPU 0\. None came within 1 seconds; --ray-wait",
    ):
        lacking.submit(time.sleep, 0)
    assert "Waiting 1 seconds for one that has." in logged[0]
    assert two.submit(lambda: 1).result(WAIT) == 1


def test_memory_that_a_worker_does_not_get_is_named(two: RayCluster) -> None:
    for hungry in (lambda: bytearray(1 << 50), lambda: torch.empty(1 << 50)):
        with pytest.raises(WorkerError, match=r"A worker ran out of memory.*--worker-memory.*resu"):
            two.submit(hungry).result(WAIT)


def test_a_run_whose_workers_lack_memory_keeps_its_counts(
    two: RayCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ray

    monkeypatch.chdir(tmp_path)
    hungry, toy = (
        [
            "certify", "digits", "--classifier", f"python:toy:{name}", "--sigma", "0.5",
            "--n", "6000", "--plan", "fixed", "--seed", "1", "--limit", "3", "--run", "r",
        ]
        for name in ("Hungry", "Toy")
    )  # fmt: skip
    address = ray.get_runtime_context().gcs_address
    on_ray = [*hungry, "--ray", address, "--workers", "1", "--worker-cpus", "0.5"]
    with pytest.raises(SystemExit) as end:
        main(on_ray)
    assert end.value.code == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "A worker ran out of memory (" in told
    assert "MemoryError: no memory for the batch" in told
    with Store("runs.sqlite", read_only=True) as store:
        kept = sum(c.n for image in store.images("r") for c in image.counts.values())
    Path(os.environ["TOY_GATE"]).touch()
    for command, name in ((on_ray, "runs.sqlite"), (toy, "once.sqlite")):
        with pytest.raises(SystemExit) as end:
            main([*command, "--store", name])
        assert not end.value.code
    stores = [Store(name, read_only=True) for name in ("runs.sqlite", "once.sqlite")]
    went_on, once = ([image.counts for image in store.images("r")] for store in stores)
    assert went_on == once
    assert 0 < kept < sum(c.n for counts in once for c in counts.values()), "stopped on the way"


def test_a_model_that_is_larger_than_the_object_store_is_counted(two: RayCluster) -> None:
    import ray

    few = certificates("python:toy:Large", two, max_n=300)
    assert few == certificates("python:toy:Large", max_n=300)
    assert ray.cluster_resources()["object_store_memory"] == STORE < 100e6


def test_what_ray_counts_itself_is_no_custom_resource() -> None:
    with pytest.raises(SettingError, match=r"GPU is not a custom resource. Use gpus \(--worker-g"):
        RayCluster(resources={"GPU": 1.0})


@pytest.mark.parametrize("device", ["cuda", "cpu,cpu"])
def test_devices_that_a_worker_cannot_have_are_refused(device: str) -> None:
    expected = "--worker-gpus" if device == "cuda" else "A worker of a cluster has one device"
    with pytest.raises(SettingError, match=expected):
        worker_device(device, RayCluster())


def test_gpus_of_workers_are_what_auto_means() -> None:
    assert worker_device("auto", RayCluster(gpus=0.5)) == "cuda"
    assert worker_device("cuda:3", RayCluster(gpus=0.5)) == "cuda"
    assert worker_device("auto", RayCluster()) == "cpu"


def test_answers_that_are_bought_stay_off_the_cluster() -> None:
    with pytest.raises(SettingError, match=r"sent by threads of this process.*Omit --ray"):
        SmoothedClassifier(load_classifier("simulated"), 0.5, cluster=RayCluster())


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'denoised-smoothing\[ray\]'"):
        RayCluster().submit(time.sleep, 0)


class Reference:
    """The reference of a task whose result the test sets."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.result = arguments, Future[Any]()


class TestTasks:
    """Of a Ray whose tasks end when the test says so."""

    @pytest.fixture(autouse=True)
    def _fake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ray = pytest.importorskip("ray")
        self.started: list[Reference] = []
        self.options: dict[str, Any] = {}

        def remote(**options: Any) -> Callable[[Any], Any]:
            self.options = options
            return lambda function: self

        def get(reference: Reference, timeout: float) -> Any:
            return reference.result.result(WAIT)

        monkeypatch.setattr(ray, "remote", remote)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "get", get)
        self.nodes: list[dict[str, Any]] = [
            {"Alive": True, "Resources": {"CPU": 4.0, "memory": 8e9}}
        ]
        monkeypatch.setattr(ray, "nodes", lambda: self.nodes)
        monkeypatch.setattr(cluster, "connect", lambda address, wait: ray)

    def remote(self, *arguments: Any) -> Reference:
        self.started.append(Reference(*arguments))
        return self.started[-1]

    def wait_for(self, tasks: int) -> None:
        ends = time.monotonic() + WAIT
        while len(self.started) < tasks:
            assert time.monotonic() < ends
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(self.started) == tasks

    def test_ray_repeats_a_task_and_keeps_its_process(self) -> None:
        self.nodes[0]["Resources"] = {"CPU": 4.0, "a100": 1.0}
        running = RayCluster(workers=1, cpus=0.5, resources={"a100": 1.0})
        running.submit(print).cancel()
        self.wait_for(1)
        assert self.options["max_retries"] == TRIES - 1
        assert self.options["max_calls"] == 0, "a process would end after each GPU task"
        assert self.options["num_cpus"] == 0.5
        assert self.options["resources"] == {"a100": 1}
        self.started[0].result.set_result(None)

    def test_workers_are_the_tasks_at_once(self) -> None:
        running = RayCluster(workers=2)
        futures = [running.submit(print, number) for number in range(4)]
        self.wait_for(2)
        self.started[1].result.set_result("b")
        assert futures[1].result(WAIT) == "b"
        self.wait_for(3)
        assert [reference.arguments for reference in self.started] == [(0,), (1,), (2,)]
        assert not futures[0].done()
        for reference in (self.started[0], self.started[2]):
            reference.result.set_result(None)
        self.wait_for(4)
        self.started[3].result.set_result(None)

    def test_a_full_cluster_has_tasks_that_wait(self) -> None:
        running = RayCluster()
        for number in range(10):
            running.submit(print, number)
        self.wait_for(8)
        assert running.workers == 4
        for number in range(10):
            self.wait_for(min(10, 8 + number))
            self.started[number].result.set_result(None)

    def test_a_task_that_has_not_started_can_be_cancelled(self) -> None:
        running = RayCluster(workers=1)
        futures = [running.submit(print) for _ in range(3)]
        self.wait_for(1)
        assert futures[1].cancel()
        assert not futures[0].cancel()
        self.started[0].result.set_result(1)
        self.wait_for(2)
        self.started[1].result.set_result(2)
        assert futures[2].result(WAIT) == 2
        assert len(self.started) == 2

    def test_errors_of_the_package_arrive_as_they_are(self) -> None:
        from ray.exceptions import RayTaskError

        running = RayCluster(workers=2)
        mine, other = running.submit(print), running.submit(print)
        self.wait_for(2)
        for reference, cause in zip(
            self.started, (SettingError("mine"), KeyError("x")), strict=True
        ):
            reference.result.set_exception(RayTaskError("votes", "trace", cause))
        with pytest.raises(SettingError, match="mine"):
            mine.result(WAIT)
        with pytest.raises(WorkerError, match=r"failed with KeyError: 'x'\. .* every node"):
            other.result(WAIT)

    def test_a_lost_connection_is_not_a_lost_worker(self) -> None:
        from ray.exceptions import LocalRayletDiedError

        running = RayCluster(workers=2)
        futures = [running.submit(print), running.submit(print)]
        self.wait_for(2)
        self.started[0].result.set_exception(LocalRayletDiedError())
        self.started[1].result.set_exception(ConnectionError("Ray has not been started yet"))
        for future, name in zip(futures, ("LocalRayletDied", "Connection"), strict=True):
            with pytest.raises(WorkerError, match=rf"cluster was lost \({name}Error: .* to resume"):
                future.result(WAIT)

    def test_memory_limits_the_workers_of_a_node(self) -> None:
        running = RayCluster(memory=3e9)
        running.submit(print)
        self.wait_for(1)
        assert running.workers == 2
        assert self.options["memory"] == 3_000_000_000
        self.started[0].result.set_result(None)

    def test_a_node_that_is_lost_is_awaited_and_then_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import ray
        from ray.exceptions import GetTimeoutError

        cancelled: list[object] = []
        asked = iter(range(100))

        def get(reference: Reference, timeout: float) -> Any:
            time.sleep(0.01)
            if next(asked) == 2:  # after it was waited for
                self.nodes = [{"Alive": False, "Resources": {"CPU": 4.0}}]
            raise GetTimeoutError

        monkeypatch.setattr(ray, "get", get)
        monkeypatch.setattr(ray, "cancel", lambda reference, force: cancelled.append(reference))
        monkeypatch.setattr(cluster, "CHECK", 0.2)
        future = RayCluster(workers=1, wait=0.0).submit(print)
        with pytest.raises(
            WorkerError, match=r"No node .*\(CPU 1\): all have CPU 0.* Nodes were los"
        ):
            future.result(WAIT)
        assert cancelled == self.started
