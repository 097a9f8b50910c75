"""What every engine does, whichever packages are installed."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.engines.choice import TOLERANCE, EngineChoice, choose_engine
from denoised_smoothing.engines.converted import OpenVinoEngine
from denoised_smoothing.engines.pipeline import Pipeline, agrees
from denoised_smoothing.errors import ClassifierError
from denoised_smoothing.models.denoisers.base import as_denoiser

from .samples import (
    ONNXRUNTIME,
    OPENVINO,
    SIGMA,
    Blind,
    Labels,
    convolutional,
    noisy,
    residual,
    unet,
)

CPU = torch.device("cpu")
PIPELINES = {
    "convolutional": lambda: (convolutional(), None),
    "unet and resnet": lambda: (residual(), unet()),
    "grey": lambda: (residual(1), unet(1)),
    "blind denoiser": lambda: (convolutional(), as_denoiser(Blind())),
    "labels": lambda: (Labels(), None),
}
TABLE = [
    *(pytest.param(EngineName.TORCH, name, id=f"torch {name}") for name in PIPELINES),
    *(
        pytest.param(EngineName.OPENVINO, name, id=f"openvino {name}", marks=OPENVINO)
        for name in PIPELINES
    ),
    *(
        pytest.param(EngineName.ONNXRUNTIME, name, id=f"onnxruntime {name}", marks=ONNXRUNTIME)
        for name in ("unet and resnet", "labels")
    ),
]


def channels(name: str) -> int:
    return 1 if name == "grey" else 3


def pipeline(name: str) -> Pipeline:
    return Pipeline(*PIPELINES[name](), SIGMA, CPU)


@cache
def chosen(engine: EngineName, name: str) -> EngineChoice:
    return choose_engine(
        pipeline(name), lambda count: noisy(count, channels(name)), engine=engine, device=CPU
    )


@pytest.mark.parametrize(("engine", "name"), TABLE)
class TestEveryEngine:
    def test_reproduces_the_answers_of_the_pipeline(self, engine: EngineName, name: str) -> None:
        choice = chosen(engine, name)
        copies = noisy(choice.forward, channels(name)).flip(0)
        with torch.inference_mode():
            expected = pipeline(name)(copies)
        assert agrees(choice.engine.answer(copies), expected, TOLERANCE)
        assert choice.notes == ()
        assert choice.engine.name == engine
        assert choice.engine.identity()["engine"] == engine

    def test_the_place_of_a_copy_does_not_change_its_answer(
        self, engine: EngineName, name: str
    ) -> None:
        """Bit by bit: counts of a resumed run rest on it, whose batches are cut differently."""
        choice = chosen(engine, name)
        copies = noisy(choice.forward, channels(name))
        answer = choice.engine.answer(copies)
        for order in (torch.arange(choice.forward - 1, -1, -1), torch.arange(200).roll(17)):
            assert torch.equal(choice.engine.answer(copies[order]), answer[order])
        padded = torch.cat([copies[:7], torch.zeros_like(copies[7:])])
        assert torch.equal(choice.engine.answer(padded)[:7], answer[:7])

    def test_answers_the_same_in_every_thread(self, engine: EngineName, name: str) -> None:
        choice = chosen(engine, name)
        copies = noisy(choice.forward, channels(name))
        answer = choice.engine.answer(copies)
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(choice.engine.answer, [copies] * 6))
        assert all(torch.equal(answer, other) for other in answers)


@pytest.mark.parametrize(("engine", "name"), [case for case in TABLE if "labels" in str(case.id)])
def test_a_batch_of_another_shape_is_refused(engine: EngineName, name: str) -> None:
    if engine is EngineName.TORCH:
        return
    with pytest.raises(ClassifierError, match=r"batches of shape \[200, 3, 16, 16\], got \[7, 3"):
        chosen(engine, name).engine.answer(noisy(7))


@OPENVINO
def test_first_answers_may_come_from_several_threads() -> None:
    """In a process that has not used OpenVINO: its first contact with numpy is not thread safe."""
    code = """
import sys, threading, torch
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from denoised_smoothing.certificates.parameters import Precision
from denoised_smoothing.engines.converted import OpenVinoEngine
from denoised_smoothing.models.cache import ModelFiles
model = ModelFiles.read(Path(sys.argv[1]))
engine = OpenVinoEngine(model, tuple(map(int, sys.argv[2:])), Precision.FLOAT32)
start = threading.Barrier(8)
def answer(_):
    copies = torch.zeros(engine.shape)
    start.wait()
    return engine.answer(copies)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(answer, range(8)))
"""
    engine = chosen(EngineName.OPENVINO, "labels").engine
    assert isinstance(engine, OpenVinoEngine)
    arguments = [str(engine.folder), *map(str, engine.shape)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=120)
