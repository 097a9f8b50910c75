"""Ray tasks: functions that run in the processes of a cluster, which keep the model loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.engines.choice import EngineChoice
from denoised_smoothing.engines.engine import choose_device
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import SettingError
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask, Votes
from denoised_smoothing.smoothing.votes import VoteCounter


@dataclass(frozen=True)
class ClusterTask:
    """The model and the engine of a task, and the threads that count.

    ``model`` is a list of one reference to a :class:`PreparedPipeline`, so that a process fetches
    it once and not for each task; ``fingerprint`` identifies it. ``forward`` is None to choose it,
    and ``identity`` is what the engine must report. ``count`` identifies the count that it belongs
    to, whose first forward passes in each process are compared.
    """

    fingerprint: str
    model: list[Any]
    device: str
    engine: EngineName
    forward: int | None
    identity: Mapping[str, str] | None = None
    threads: int = 1
    count: str = ""


@dataclass(frozen=True)
class EngineRecord:
    """The :class:`EngineChoice` of a worker as plain values."""

    engine: EngineName
    forward: int
    identity: dict[str, str]
    notes: tuple[str, ...]


Range = tuple[str, Stage, range]
"""Image id, stage and copies of a copy range."""


@dataclass(frozen=True)
class _LoadedModel:
    fingerprint: str
    prepared: PreparedPipeline
    counter: VoteCounter
    threads: ThreadPoolExecutor
    counts: set[str] = field(default_factory=set)
    """The counts that it began."""


_loaded: dict[torch.device, _LoadedModel] = {}
"""The model of this process, by device: Ray may assign another GPU to each task."""


def choose_engine(task: ClusterTask, image: Float[np.ndarray, "c h w"]) -> EngineRecord:
    """Choose the engine for images of this size, and the copies of a forward pass."""
    _, choice = _load(task, image)
    return EngineRecord(choice.engine.name, choice.forward, choice.engine.identity(), choice.notes)


def count_votes(
    task: ClusterTask, seed: int, ranges: Sequence[Range], *images: Float[np.ndarray, "c h w"]
) -> tuple[Votes, tuple[int, int]]:
    """Count the votes of one copy range of each image.

    Returns:
        The votes; the forward passes and copies that were computed again and compared.
    """
    model, choice = _load(task, images[0])
    canaries = model.prepared.canaries
    if task.count not in model.counts:
        model.counts.add(task.count)
        canaries.restart()
    before = canaries.passes, canaries.copies
    parts = [
        CopyRange(ImageTask("", image_id, image), stage, copies)
        for image, (image_id, stage, copies) in zip(images, ranges, strict=True)
    ]

    def count(group: list[CopyRange]) -> Votes:
        torch.set_num_threads(choice.engine.threads or torch.get_num_threads())
        return model.counter.votes(group, choice, seed)

    groups = _split(parts, min(task.threads, choice.engine.workers), choice.forward)
    votes = [votes for counted in model.threads.map(count, groups) for votes in counted]
    return votes, (canaries.passes - before[0], canaries.copies - before[1])


def answer_copies(
    task: ClusterTask, copies: Float[np.ndarray, "b c h w"]
) -> Num[np.ndarray, "b ..."]:
    """Return the engine's answer to noisy copies."""
    _, choice = _load(task, copies[0])
    torch.set_num_threads(choice.engine.threads or torch.get_num_threads())
    answer = choice.engine.answer(torch.tensor(copies, device=choice.engine.device))
    return answer.cpu().numpy()


def _split(parts: Sequence[CopyRange], groups: int, forward: int) -> list[list[CopyRange]]:
    """Split copy ranges into at most ``groups`` of equally many forward passes."""
    size = forward * -(-sum(len(part.copies) for part in parts) // (groups * forward))
    split: list[list[CopyRange]] = [[]]
    for part in parts:
        if sum(len(other.copies) for other in split[-1]) >= size:
            split.append([])
        split[-1].append(part)
    return split


def _load(
    task: ClusterTask, image: Float[np.ndarray, "c h w"]
) -> tuple[_LoadedModel, EngineChoice]:
    """Return the model of a task and its engine for images of this size.

    An engine that differs from the one chosen on another node is refused.
    """
    device = _assigned_device(task.device)
    model = _loaded.get(device)
    if model is None or model.fingerprint != task.fingerprint:
        import ray

        if any(other.fingerprint != task.fingerprint for other in _loaded.values()):
            _loaded.clear()  # before the next model needs the memory
        prepared = ray.get(task.model[0]).on(device)
        model = _loaded[device] = _LoadedModel(
            task.fingerprint, prepared, VoteCounter(prepared), ThreadPoolExecutor(task.threads)
        )
    prepared = model.prepared
    if (prepared.engine, prepared.forward) != (task.engine, task.forward):
        prepared.use_engine(task.engine, task.forward)
    choice = prepared.engine_for(image)
    here = choice.engine.identity()
    if task.identity is not None and here != task.identity:
        differences = "; ".join(
            f"{key}: {here.get(key)} here, {value} elsewhere"
            for key, value in task.identity.items()
            if here.get(key) != value
        )
        raise SettingError(
            f"The workers of the cluster differ ({differences}), and so do the last bits of their "
            "answers. Use nodes of one kind with the same versions installed: select them by a "
            "resource that only they have (--worker-resources)."
        )
    return model, choice


def _assigned_device(name: str) -> torch.device:
    """Return the device of that name; of the GPUs of this node, the one assigned to this task."""
    if name != "cuda":
        return choose_device(name)
    import ray

    number, *_ = ray.get_gpu_ids()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return choose_device(f"cuda:{visible.split(',').index(str(number)) if visible else number}")
