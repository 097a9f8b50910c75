"""smoothing/cluster_worker.py: tasks of several models in one process, without a cluster."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import SettingError
from denoised_smoothing.smoothing import cluster_worker
from denoised_smoothing.smoothing.cluster_worker import ClusterTask, choose_engine, count_votes
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask

IMAGE = np.full((1, 8, 8), 128 / 255, np.float32)
RANGES = [("image", Stage.ESTIMATION, range(50))]


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded; the object of a reference is the reference itself."""
    monkeypatch.setattr(cluster_worker, "_loaded", {})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference))


def far_from_grey(copies: Tensor) -> Tensor:
    return ((copies - 0.5).abs().mean((1, 2, 3)) > 0.2).long()  # all are, if sigma is large


def task(sigma: float, **changes: object) -> ClusterTask:
    model = PreparedPipeline(
        far_from_grey, None, sigma, Noise.GRID, EngineName.TORCH, Precision.FLOAT32,
        torch.device("cpu"),
    )  # fmt: skip
    return replace(ClusterTask(f"sigma {sigma}", [model], "cpu", EngineName.TORCH, 50), **changes)  # type: ignore[arg-type]


def test_votes_are_those_of_their_own_model() -> None:
    near, far = task(0.1), task(1.0)
    alone = {}
    for one in (near, far):
        cluster_worker._loaded.clear()
        alone[one.fingerprint] = count_votes(one, 0, RANGES, IMAGE)
    assert alone[near.fingerprint] != alone[far.fingerprint]
    for one in (near, far, near):
        assert count_votes(one, 0, RANGES, IMAGE) == alone[one.fingerprint]


def test_a_model_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    ray = SimpleNamespace(get=lambda reference: loads.append(reference) or reference)
    monkeypatch.setitem(sys.modules, "ray", ray)
    one = task(0.1)
    for _ in range(3):
        count_votes(one, 0, RANGES, IMAGE)
    assert len(loads) == 1


def test_a_task_that_is_refused_leaves_the_one_before_as_it_was() -> None:
    near, refused = task(0.1), task(1.0, identity={"engine": "another"})
    expected = count_votes(near, 0, RANGES, IMAGE)
    with pytest.raises(SettingError, match="The workers of the cluster differ"):
        count_votes(refused, 0, RANGES, IMAGE)
    assert count_votes(near, 0, RANGES, IMAGE) == expected


def test_a_size_that_is_chosen_for_later_does_not_take_that_of_the_first() -> None:
    first, other = task(0.1, forward=7), task(0.1, forward=None)
    expected = choose_engine(other, IMAGE).forward
    cluster_worker._loaded.clear()
    assert choose_engine(first, IMAGE).forward == 7
    assert choose_engine(other, IMAGE).forward == expected != 7


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_copies_and_keep_their_order(threads: int) -> None:
    ranges = [("image", Stage.ESTIMATION, range(start, start + 50)) for start in range(0, 250, 50)]
    images = [IMAGE] * len(ranges)
    expected = [count_votes(task(0.25), 0, [one], IMAGE)[0][0] for one in ranges]
    cluster_worker._loaded.clear()
    votes, (passes, copies) = count_votes(task(0.25, threads=threads), 0, ranges, *images)
    assert list(votes) == expected
    assert (passes, copies) == (2, 2 * (25 + 8))  # every other copy of a pass, and 8 known ones


@pytest.mark.parametrize(
    ("sizes", "groups", "expected"),
    [
        ([50, 50], 2, [[50], [50]]),
        ([50, 50, 50], 2, [[50, 50], [50]]),
        ([10, 10, 10], 2, [[10, 10, 10]]),  # one forward pass
        ([50, 50], 1, [[50, 50]]),
    ],
)
def test_copies_are_split_at_forward_passes(
    sizes: list[int], groups: int, expected: list[list[int]]
) -> None:
    image = ImageTask("run", "image", IMAGE)
    parts = [CopyRange(image, Stage.ESTIMATION, range(size)) for size in sizes]
    split = cluster_worker._split(parts, groups, forward=50)
    assert [[len(part.copies) for part in group] for group in split] == expected


@pytest.mark.parametrize(
    ("visible", "assigned", "expected"), [(None, [3], "cuda:3"), ("2,5", ["5"], "cuda:1")]
)
def test_a_task_uses_the_gpu_that_ray_assigned(
    visible: str | None, assigned: list[object], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_gpu_ids=lambda: assigned))
    monkeypatch.setattr(cluster_worker, "choose_device", torch.device)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert str(cluster_worker._assigned_device("cuda")) == expected
