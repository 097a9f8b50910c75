"""Devices, and the copies of a forward pass."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from denoised_smoothing.engines.engine import choose_device, cores, forward_size
from denoised_smoothing.errors import SettingError

CPU = torch.device("cpu")


class TestChooseDevice:
    def test_auto_takes_an_accelerator_if_there_is_one(self) -> None:
        assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")

    @pytest.mark.parametrize("name", ["cpu", CPU])
    def test_takes_a_name_or_a_device(self, name: str | torch.device) -> None:
        assert choose_device(name) == CPU

    @pytest.mark.parametrize("name", ["cuda:99", "hpu:99", "meta", "gpu", "", "cpu:x"])
    def test_a_device_that_is_not_there_is_refused(self, name: str) -> None:
        with pytest.raises(SettingError, match=f"device '{name}' is not available here .*Use auto"):
            choose_device(name)


class TestForwardSize:
    @pytest.mark.parametrize(
        ("side", "on_cpu", "on_cuda"),
        [(2, 200, 4000), (8, 200, 4000), (32, 50, 1000), (64, 12, 250), (224, 4, 20), (2000, 4, 4)],
    )
    def test_is_pinned(self, side: int, on_cpu: int, on_cuda: int) -> None:
        """Stored runs record it and refuse to go on with another."""
        assert forward_size(side * side, CPU) == on_cpu
        assert forward_size(side * side, torch.device("cuda")) == on_cuda


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_a_thread_that_a_library_pinned_counts_the_same_cores() -> None:
    def pinned() -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        assert len(os.sched_getaffinity(0)) == 1
        return cores()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(pinned).result() == cores()
