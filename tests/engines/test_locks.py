"""Locks: flags of CUDA for all threads, many threads or one alone, and what others log."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from denoised_smoothing.engines import converted
from denoised_smoothing.engines.locks import exact_float32, tracing
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.engines.torch_engine import TorchEngine

CPU = torch.device("cpu")
COPIES = torch.linspace(-1, 2, 6 * 3 * 4 * 4).reshape(6, 3, 4, 4)


def reads_a_flag(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1) + torch.backends.cudnn.deterministic


def test_flags_of_cuda_are_set_while_any_thread_needs_them(
    request: pytest.FixtureRequest,
) -> None:
    """They belong to the process: one thread's end must not loosen what another computes."""
    before = torch.backends.cudnn.deterministic
    torch.set_float32_matmul_precision("high")  # as many a script does
    request.addfinalizer(lambda: torch.set_float32_matmul_precision("highest"))
    on_cpu = TorchEngine(Pipeline(reads_a_flag, None, 0.25, CPU), CPU)
    assert torch.equal(on_cpu.answer(COPIES), COPIES.flatten(1))  # the flags are as they were
    assert before is False
    first, second = exact_float32(), exact_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.backends.cudnn.deterministic is True
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"
    second.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.deterministic is False


def test_nothing_is_traced_while_modules_run_and_nothing_runs_while_one_is_traced() -> None:
    """Tracing changes nn.Module for the whole process; an answer in another thread would fail."""
    said: list[str] = []

    def trace() -> None:
        with tracing(alone=True), tracing(alone=True), tracing():  # its own checks run modules
            said.append("traced")

    def run() -> None:
        with tracing():
            said.append("ran")

    with ThreadPoolExecutor(2) as pool:
        with tracing(), tracing():
            waiting = pool.submit(trace)
            pool.submit(run).result(10)  # not held up by one that waits to trace
            assert said == ["ran"]
        waiting.result(10)
        with tracing(alone=True):
            waiting = pool.submit(run)
            time.sleep(0.05)
            assert said == ["ran", "traced"]
        waiting.result(10)
    assert said == ["ran", "traced", "ran"]


def test_messages_of_other_threads_are_heard_during_a_conversion(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Converters are silenced by their names; a switch for all loggers once hid other notes."""
    other, before = logging.getLogger("denoised_smoothing.other"), logging.root.handlers[:]
    with converted._quiet():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(other.warning, "heard").result()
        logging.getLogger("nncf").warning("hidden")
        logging.getLogger("torch.onnx").warning("hidden")
        logging.root.setLevel(logging.ERROR)  # as OpenVINO does where a conversion fails
        logging.root.addHandler(logging.NullHandler())
    other.warning("heard after it")
    logging.getLogger("nncf").error("heard after it")
    assert caplog.messages == ["heard", "heard after it", "heard after it"]
    assert logging.root.handlers == before
