"""executors/cluster.py, on a cluster of two workers that is started once for this file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.cli import cluster_options, main
from denoised_smoothing.cli.cluster_options import with_address
from denoised_smoothing.errors import ClassifierError, MissingExtraError, SettingError, StoreError
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.smoothing import cluster
from denoised_smoothing.smoothing.cluster import RayCluster, worker_device
from denoised_smoothing.store import Store

SAMPLES = Path(__file__).parents[1] / "samples"
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8)).astype(np.float32) / 255


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    ray = pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        # Workers import modules as the driver does.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(SAMPLES), *sys.path]))
        patch.syspath_prepend(str(SAMPLES))
        patch.setenv("TOY_LOG", str(folder / "log"))
        try:
            with RayCluster(workers=2, cpus=0.5) as running:
                yield running
        finally:
            ray.shutdown()
            sys.modules.pop("toy", None)


def certificates(spec: str, cluster: RayCluster | None = None) -> list[Certificate]:
    smoothed = SmoothedClassifier(load_classifier(spec), 0.5, device="cpu", cluster=cluster)
    plan = Anytime((0.25, 0.5), max_n=2_000)
    return smoothed.certify_batch(IMAGES, plan=plan, seed=3)


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
    on_ray = [*slow, "--ray", address, "--workers", "1", "--worker-cpus", "0.5"]
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
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RayCluster(**options)  # type: ignore[arg-type]


def test_a_cluster_without_room_for_a_worker_says_what_it_has(two: RayCluster) -> None:
    with pytest.raises(
        SettingError, match=r"\(CPU 1, tpu 2\): all have CPU \d+, GPU 0, tpu 0; ask for less"
    ):
        _ = RayCluster(resources={"tpu": 2.0}).crew


def test_room_is_that_of_each_node() -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 5.0, "GPU": 1.0}]
    assert RayCluster(cpus=2.0)._room(nodes) == 1 + 2
    assert RayCluster(cpus=0.5, gpus=0.5)._room(nodes) == 2
    with pytest.raises(SettingError, match=r"no node .*\(CPU 6\): all have CPU 8, GPU 1; ask"):
        RayCluster(cpus=6.0)._room(nodes)


def test_waiting_for_a_node_that_has_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    # Not by what is logged: some library may have switched off all loggers that there were.
    monkeypatch.setattr(cluster._log, "warning", lambda text, *a: said.append(text % a))
    nodes = [{"CPU": 4.0}, {"CPU": 4.0}]
    assert RayCluster(workers=3, cpus=2.0)._room(nodes) == 4
    assert not said
    assert RayCluster(workers=3, cpus=6.0)._room(nodes) == 0
    assert said == [
        "no node of the cluster has room for a worker (CPU 6): all have CPU 8, GPU 0; waiting for "
        "one that has"
    ]


class FakeRay:
    """A Ray with clusters at some addresses, none of which is left."""

    def __init__(self) -> None:
        self.gcs_address = ""

    def is_initialized(self) -> bool:
        return bool(self.gcs_address)

    def init(self, address: str, **options: object) -> None:
        self.gcs_address = {"head:6379": "10.0.0.1:6379", "local": "127.0.0.1:5000"}[address]

    def get_runtime_context(self) -> FakeRay:
        return self


def test_a_second_cluster_at_another_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_joined", None)
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    connect = cluster._connect
    for address in ("head:6379", "head:6379", "10.0.0.1:6379", "auto", None):
        assert connect(address).gcs_address == "10.0.0.1:6379"
    with pytest.raises(
        SettingError, match=r"at 10.0.0.1:6379 and cannot join another at 'other:6379'; leave"
    ):
        connect("other:6379")


@pytest.mark.parametrize("device", ["cuda", "cpu,cpu"])
def test_devices_that_a_worker_cannot_have_are_refused(device: str) -> None:
    expected = "--worker-gpus" if device == "cuda" else "a worker of a cluster has one device"
    with pytest.raises(SettingError, match=expected):
        worker_device(device, RayCluster())


def test_gpus_of_workers_are_what_auto_means() -> None:
    assert worker_device("auto", RayCluster(gpus=0.5)) == "cuda"
    assert worker_device("cuda:3", RayCluster(gpus=0.5)) == "cuda"
    assert worker_device("auto", RayCluster()) == "cpu"


def test_answers_that_are_bought_stay_off_the_cluster() -> None:
    with pytest.raises(SettingError, match=r"bought by threads of this process.*leave --ray"):
        SmoothedClassifier(load_classifier("simulated"), 0.5, cluster=RayCluster())


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'denoised-smoothing\[ray\]'"):
        _ = RayCluster().crew


class TestOptions:
    def test_ray_may_stand_without_an_address(self) -> None:
        assert with_address(["--ray"]) == ["--ray", "local"]
        assert with_address(["--ray", "--json"]) == ["--ray", "local", "--json"]
        assert with_address(["--ray", "auto", "--json"]) == ["--ray", "auto", "--json"]
        assert with_address(["digits"]) == ["digits"]
        assert with_address([]) == []

    def test_become_a_cluster(self) -> None:
        assert cluster_options.cluster(None, None, 1.0, 0.0, None, 1) is None
        made = cluster_options.cluster("local", 3, 2.0, 0.5, "a100=1, disk=0.25", 4)
        assert made is not None
        assert (made.address, made.workers, made.cpus, made.gpus, made.passes) == (
            None, 3, 2, 0.5, 4,
        )  # fmt: skip
        assert made.resources == {"a100": 1, "disk": 0.25}

    def test_need_ray(self) -> None:
        with pytest.raises(SettingError, match="about the workers of a cluster; add --ray"):
            cluster_options.cluster(None, 4, 1.0, 0.0, None, 1)

    def test_resources_are_names_and_amounts(self) -> None:
        with pytest.raises(SettingError, match="such as a100=1, got 'a100'"):
            cluster_options.cluster("local", None, 1.0, 0.0, "a100", 1)
