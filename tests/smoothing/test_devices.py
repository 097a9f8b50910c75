"""devices.py: one device or several give the same counts."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.smoothing.devices import Devices, choose_devices

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8)).astype(np.float32) / 255


class Linear(nn.Module):
    """Random weights; notes which of its copies was asked by which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        asked.add((id(self), threading.get_ident()))
        time.sleep(0.02)  # so that the next batch goes to another thread
        return images.flatten(1) @ self.weights.T


asked: set[tuple[int, int]] = set()


def counts(device: str, module: nn.Module | None = None) -> list[object]:
    smoothed = SmoothedClassifier(module or Linear(), 0.5, device=device)
    plan = Anytime((0.25, 0.5), max_n=1000)
    return [c.counts for c in smoothed.certify_batch(IMAGES, plan=plan, seed=3)]


def test_two_devices_count_as_one_does() -> None:
    expected = counts("cpu")
    asked.clear()
    assert counts("cpu,cpu") == expected
    assert len({module for module, _ in asked}) == 2, "each device has a copy of its own"


def test_weights_that_change_are_seen_by_every_device() -> None:
    module = Linear()
    smoothed = SmoothedClassifier(module, 0.5, device="cpu,cpu")
    before = smoothed.certify(IMAGES[0], n=1000, seed=3).counts
    with torch.no_grad():
        module.weights.neg_()
    after = smoothed.certify(IMAGES[0], n=1000, seed=3).counts
    assert after != before
    assert after == SmoothedClassifier(module, 0.5, device="cpu").certify(
        IMAGES[0], n=1000, seed=3
    ).counts  # fmt: skip


def test_devices_of_several_kinds_are_refused() -> None:
    prepared = SmoothedClassifier(Linear(), 0.5, device="cpu").prepared
    devices = [torch.device("cpu"), torch.device("meta")]
    with pytest.raises(SettingError, match=r"cpu, meta are of several kinds .*of one kind"):
        Devices(prepared, devices)


def test_a_function_cannot_be_copied_to_devices() -> None:
    with pytest.raises(SettingError, match=r"no torch module.*Name one device"):
        SmoothedClassifier(lambda images: images.flatten(1), 0.5, device="cpu,cpu")


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="device 'cuda:77' is not available here"):
        choose_devices("cpu, cuda:77")


def test_answers_that_are_bought_stay_on_one_device() -> None:
    from denoised_smoothing.models.catalogue import load_classifier

    remote = load_classifier("simulated")
    assert isinstance(remote, RemoteClassifier)
    with pytest.raises(SettingError, match=r"sent by threads of this process.*Omit --ray"):
        SmoothedClassifier(remote, 0.5, device="cpu,cpu")
