"""Counts do not depend on how they were executed, and runs refuse what would change them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.cli import attack as attacking
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.datasets import ImageDataset, load_dataset
from denoised_smoothing.engines import choice, converted
from denoised_smoothing.engines import torch_engine as pytorch
from denoised_smoothing.engines.contract import PROBED
from denoised_smoothing.engines.engine import Engine, processor
from denoised_smoothing.errors import ClassifierError, RunMismatchError, SettingError
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.scheduler import ImageTask
from denoised_smoothing.store import Store

from .samples import INT8, KINDS, OPENVINO, SEED, convolutional, images, residual, smoothed, unet

PICTURES = images(3)
PLAN = FixedBudget(20, 50)


def model(engine: EngineName, precision: Precision, **options: Any) -> SmoothedClassifier:
    return smoothed(residual(denoiser=unet()), unet(), engine, precision, **options)


def tasks() -> list[ImageTask]:
    return [ImageTask("run", f"image-{number}", image) for number, image in enumerate(PICTURES)]


def whole(_: object) -> dict[Stage, int]:
    return {Stage.SELECTION: 20, Stage.ESTIMATION: 430}


def counted(pipeline: SmoothedClassifier, todo: Sequence[ImageTask]) -> dict[str, Any]:
    done = list(pipeline.count_labels(todo, whole, SEED))
    return {task.image_id: {s: c.votes for s, c in task.counts.items()} for task in done}


def on_cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in (choice, converted, pytorch):
        monkeypatch.setattr(module, "cores", lambda: count)


@pytest.mark.parametrize(("engine", "precision"), KINDS)
def test_counts_depend_on_nothing_but_the_copies(
    monkeypatch: pytest.MonkeyPatch, engine: EngineName, precision: Precision
) -> None:
    expected = counted(model(engine, precision), tasks())
    assert len([votes for votes in expected["image-0"][Stage.ESTIMATION] if votes]) > 1
    for cores, batch_size in ((1, None), (3, 1), (3, 5000)):
        on_cores(monkeypatch, cores)
        pipeline = model(engine, precision, batch_size=batch_size)
        assert counted(pipeline, tasks()) == expected
    one_by_one = [counted(pipeline, [task]) for task in reversed(tasks())]
    assert {name: counts for done in one_by_one for name, counts in done.items()} == expected

    todo, batches = tasks(), []

    def kill(_: object) -> None:
        batches.append(1)
        if len(batches) == 2:
            raise KeyboardInterrupt

    killed = pipeline.count_labels(todo, whole, SEED, on_batch=kill)
    with pytest.raises(KeyboardInterrupt):
        list(killed)
    assert 0 < sum(task.calls for task in todo) < 3 * 450
    rest = [ImageTask("run", task.image_id, task.image, dict(task.counts)) for task in todo]
    assert counted(model(engine, precision), rest) == expected


class Crowded(nn.Module):
    """Has no memory for two whole batches at once. Its counters are those of the class."""

    lock = threading.Lock()
    inside = raised = 0

    def __init__(self) -> None:
        super().__init__()
        self.network = convolutional()

    def forward(self, copies: Tensor) -> Tensor:
        if len(copies) <= PROBED:
            return cast(Tensor, self.network(copies))
        with self.lock:
            Crowded.inside += 1
            crowd = self.inside > 1
            Crowded.raised += crowd
        try:
            if crowd:
                raise torch.OutOfMemoryError("out of memory")
            time.sleep(0.01)
            logits: Tensor = self.network(copies)
            return logits
        finally:
            with self.lock:
                Crowded.inside -= 1


class Full(nn.Module):
    """Has memory for so many passes, and no more."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.network, self.passes = convolutional(), passes

    def forward(self, copies: Tensor) -> Tensor:
        self.passes -= 1
        if self.passes < 0:
            raise torch.OutOfMemoryError("out of memory")
        logits: Tensor = self.network(copies)
        return logits


class TestOutOfMemory:
    def test_goes_on_one_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        on_cores(monkeypatch, 2)
        expected = counted(smoothed(convolutional()), tasks())
        crowded = Crowded()
        # Not folded, so this very one is called.
        monkeypatch.setattr(choice, "folded", lambda pipeline, copies: pipeline)
        assert counted(smoothed(crowded), tasks()) == expected
        assert crowded.raised > 0

    def test_where_it_never_fits_what_was_counted_is_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_cores(monkeypatch, 1)
        # 3 of the check, 3 that count, and 2 that are compared with the first of them.
        full = Full(passes=8)
        full.register_forward_hook(lambda *_: None)
        todo = tasks()
        with pytest.raises(ClassifierError, match=r"memory of cpu does not hold 200 .*are kept"):
            counted(smoothed(full), todo)
        assert sum(task.calls for task in todo) == 600


def dataset(**changes: Any) -> ImageDataset:
    values: dict[str, Any] = {
        "name": "folder:made",
        "fingerprint": "f",
        "image_ids": ["a", "b", "c"],
        "read": lambda index: PICTURES[index],
        "labels": [0, 1, 2],
        **changes,
    }
    return ImageDataset(**values)


def request(pipeline: SmoothedClassifier, **options: Any) -> CertificationRun:
    return CertificationRun(
        pipeline, dataset(), PLAN, 0.001, "c", "unet", name="run", seed=SEED, **options
    )


@OPENVINO
def test_auto_goes_on_as_the_run_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "cache"))
    fastest = ["openvino", "torch"]

    def throughput(engine: Engine, copies: Tensor, seconds: float) -> float:
        return (engine.name == fastest[0]) + (len(copies) == 100) / 2

    monkeypatch.setattr(choice, "throughput", throughput)
    classifier = convolutional()
    with Store(tmp_path / "runs.sqlite") as store:
        first = request(smoothed(classifier, engine="auto"), limit=1)
        run = first.execute(store)
        assert run.settings["engine"] == "openvino"
        assert run.settings["forward_shape"] == [100, 3, 16, 16]
        fastest.reverse()
        for path in (tmp_path / "cache" / "engines").glob("*.json"):
            path.unlink()
        later = smoothed(classifier, engine="auto")
        assert later.prepared.engine_for(PICTURES[0]).engine.name == "torch"
        request(later).execute(store)
        assert later.prepared.engine_for(PICTURES[0]).engine.name == "openvino"
        assert later.prepared.engine_for(PICTURES[0]).forward == 100
        assert len(store.images("run")) == 3
        with pytest.raises(RunMismatchError, match="engine"):
            request(smoothed(classifier, engine="torch")).execute(store)
        refused = RunMismatchError if "bf16" in processor() else SettingError
        with pytest.raises(refused, match=r"precision|not in bfloat16"):
            request(smoothed(classifier, engine="openvino", precision="bfloat16")).execute(store)


@INT8
def test_int8_records_its_calibration(tmp_path: Path) -> None:
    def pipeline(engine: str = "openvino") -> SmoothedClassifier:
        return SmoothedClassifier(
            convolutional(), 0.5, device="cpu", engine=engine, precision="int8"
        )

    with Store(tmp_path / "runs.sqlite") as store:
        run = request(pipeline(), limit=1).execute(store)
        assert run.settings["calibration_data"] == "folder:made"
        assert run.settings["calibration_fingerprint"] == "f"
        assert len(run.settings["calibration"]) == 64
        request(pipeline("auto")).execute(store)  # goes on, with the calibration it had
        assert len(store.images("run")) == 3
        others = dataset(
            name="folder:others", fingerprint="o", read=lambda index: PICTURES[index][:, ::-1]
        )
        with pytest.raises(RunMismatchError, match="calibration"):
            request(pipeline(), calibration=others).execute(store)


@pytest.mark.parametrize(
    ("engine", "precision"), [case for case in KINDS if "openvino" in str(case.id)]
)
def test_an_attack_is_judged_by_the_engine_that_certified(
    tmp_path: Path, engine: EngineName, precision: Precision
) -> None:
    pipeline = SmoothedClassifier(
        load_classifier("digits"), 0.5, device="cpu", engine=engine, precision=precision
    )
    data = load_dataset("digits")
    run_request = CertificationRun(
        pipeline, data, PLAN, 0.001, "digits", "none", name="run", seed=SEED, limit=1
    )
    with Store(tmp_path / "runs.sqlite") as store:
        run = run_request.execute(store)
    model = ModelOptions("digits", sigma=0.5, device="cpu", engine=EngineName.TORCH)
    again = attacking._request(run, model, None)
    image = again.image(0)[1]
    assert (
        again.smoothed.prepared.engine_for(image).engine.identity()
        == pipeline.prepared.engine_for(image).engine.identity()
    )
    assert run.settings["engine"] == engine
    assert run.settings["precision"] == precision
