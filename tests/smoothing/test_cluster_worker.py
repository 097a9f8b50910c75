"""executors/workers.py: calls of several jobs to one worker, without a cluster."""

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
from denoised_smoothing.smoothing import cluster_worker as workers
from denoised_smoothing.smoothing.cluster_worker import ClusterTask, Worker

IMAGE = np.full((1, 8, 8), 128 / 255, np.float32)
CUTS = [("image", Stage.ESTIMATION, 0, 50)]


@pytest.fixture(autouse=True)
def _store_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reference, that which it refers to."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference))


def far_from_grey(copies: Tensor) -> Tensor:
    return ((copies - 0.5).abs().mean((1, 2, 3)) > 0.2).long()  # all are, if sigma is large


def job(sigma: float, **changes: object) -> ClusterTask:
    model = PreparedPipeline(
        far_from_grey, None, sigma, Noise.GRID, EngineName.TORCH, Precision.FLOAT32,
        torch.device("cpu"),
    )  # fmt: skip
    return replace(ClusterTask(f"sigma {sigma}", [model], "cpu", EngineName.TORCH, 50), **changes)  # type: ignore[arg-type]


def test_votes_are_of_their_own_job_whatever_else_is_set_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, far = job(0.1), job(1.0)
    alone = [Worker().votes(one, 0, CUTS, IMAGE) for one in (near, far)]
    assert alone[0] != alone[1]
    worker = Worker()
    # Another thread's call comes in between the set-up and the votes.
    monkeypatch.setattr(workers, "limit_threads", lambda engine: worker.choose(far, IMAGE))
    assert worker.votes(near, 0, CUTS, IMAGE) == alone[0]


def test_a_job_that_is_refused_leaves_the_one_before_as_it_was() -> None:
    near, refused = job(0.1), job(1.0, identity={"engine": "another"})
    worker = Worker()
    expected = worker.votes(near, 0, CUTS, IMAGE)
    with pytest.raises(SettingError, match="the workers of the cluster are not alike"):
        worker.votes(refused, 0, CUTS, IMAGE)
    assert worker.votes(near, 0, CUTS, IMAGE) == expected


def test_a_size_that_is_chosen_for_later_does_not_take_that_of_the_first() -> None:
    first, other = job(0.1, forward=7), job(0.1, forward=None)
    expected = Worker().choose(other, IMAGE).forward
    worker = Worker()
    assert worker.choose(first, IMAGE).forward == 7
    assert worker.choose(other, IMAGE).forward == expected != 7
