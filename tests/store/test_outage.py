"""A PostgreSQL server that restarts, and a network that drops, under drivers at work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.cli import main
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import StoreUnreachableError
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.store import Store, database

from .servers import Proxy, Server, running
from .test_contract import IMAGES, image

SAMPLES = Path(__file__).parents[1] / "samples"
VALUES = np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8)).astype(np.float32) / 255


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that nothing else uses, so that it may be stopped."""
    with running() as server:
        yield server


class Linear(nn.Module):
    """Random weights; ``happens`` is called before each forward pass."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)))
        self.event = Event(happens)

    def forward(self, images: Tensor) -> Tensor:
        self.event.happens()
        return images.flatten(1) @ self.weights.T


class Event:
    """Not part of what a classifier is, so that its fingerprint is one."""

    __slots__ = ("happens",)

    def __init__(self, happens: Callable[[], None]) -> None:
        self.happens = happens


def certify(store: Store, happens: Callable[[], None] = lambda: None) -> list[object]:
    """The counts of a run, as they are stored."""
    data = ImageDataset(
        name="folder:made",
        fingerprint="f",
        image_ids=[f"image-{index}" for index in range(len(VALUES))],
        read=lambda index: VALUES[index],
        labels=[0] * len(VALUES),
        label_names=tuple("abcde"),
    )
    smoothed = SmoothedClassifier(Linear(happens), 0.5, device="cpu")
    CertificationRun(
        smoothed, data, FixedBudget(100, 400), 0.001, "toy", "none", name="run", seed=7
    ).execute(store)
    return [(i.image_id, i.counts, i.finished) for i in store.images("run")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    with Store(tmp_path_factory.mktemp("whole") / "runs.sqlite") as store:
        return certify(store)


@pytest.mark.parametrize("seconds", [3.0])
def test_a_run_waits_for_the_network(
    server: Server, expected: list[object], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    from denoised_smoothing.runs import writer as recorder

    monkeypatch.setattr(recorder, "SAVE_SECONDS", 0.0)
    proxy, passes = Proxy(server.port), iter(range(10_000))
    target = server.database().replace(f":{server.port}/", f":{proxy.port}/")
    cuts: list[float] = []

    def happens() -> None:
        if next(passes) == 4:
            cuts.append(time.monotonic())
            proxy.cut()
            threading.Timer(seconds, proxy.heal).start()
        time.sleep(0.02)

    with Store(target) as store:
        assert certify(store, happens) == expected
    assert time.monotonic() - cuts[0] >= seconds, "it ended before the network was back"
    proxy.close()


def test_a_store_is_waited_for_only_so_long(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.5)
    with Store(own.database()) as store:
        store.begin("run", {}, seed=0, info={})
        own.stop()
        with pytest.raises(StoreUnreachableError, match=r"The store postgresql.* failed"):
            store.save_images("run", IMAGES)
        own.start()
        store.save_images("run", [*IMAGES, image("c", 2)])
        assert len(store.images("run")) == 3


def test_two_drivers_one_killed_and_the_server_restarted(
    own: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SAMPLES))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SAMPLES), *sys.path]))
    gate, target = tmp_path / "gate", own.database()
    monkeypatch.setenv("TOY_GATE", str(gate))

    def arguments(run: str, store: str = target) -> list[str]:
        return [
            "certify", "digits", "--sigma", "0.5", "--classifier", "python:toy:Gated",
            "--plan", "fixed", "--n", "6000", "--seed", "1", "--limit", "3",
            "--run", run, "--store", store,
        ]  # fmt: skip

    def here(*of_run: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(arguments(*of_run))
        return int(end.value.code or 0)

    command = [sys.executable, "-m", "denoised_smoothing"]
    killed, steady = (subprocess.Popen([*command, *arguments(run)]) for run in "ab")
    with Store(target) as store:
        for run in "ab":
            while not (run in {held.name for held in store.runs()} and store.images(run)):
                assert killed.poll() is steady.poll() is None
                time.sleep(0.2)
        assert here("a") == 2
        assert f"being worked on by process {killed.pid} on" in capsys.readouterr().err
        killed.kill()
        killed.wait()
        own.stop()
        gate.touch()
        time.sleep(1)
        own.start()
        assert here("a") == 0
        assert steady.wait() == 0
        got = [votes(store, run) for run in "ab"]
    assert here("a", "once.sqlite") == 0
    with Store("once.sqlite", read_only=True) as whole:
        assert got == [votes(whole, "a")] * 2
    sys.modules.pop("toy", None)


def votes(store: Store, run: str) -> list[object]:
    """All that is counted, whatever the name of the run."""
    return [
        (i.image_id, i.finished, {s: (c.votes, c.failed) for s, c in i.counts.items()})
        for i in store.images(run)
    ]
