"""What runs in the processes of a Ray cluster: a worker that holds a model and counts votes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.engines import EngineChoice, choose_device, limit_threads
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import SettingError
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask, Votes
from denoised_smoothing.smoothing.votes import VoteCounter


@dataclass(frozen=True)
class ClusterTask:
    """What is to be executed.

    ``model`` is a list of one reference to an :class:`PreparedPipeline`, so that it is fetched once
    by a worker and not with each call; ``fingerprint`` says which. ``engine`` and ``forward``
    (None: to be chosen) are its settings, ``identity`` what the engine must say of itself.
    """

    fingerprint: str
    model: list[Any]
    device: str
    engine: EngineName
    forward: int | None
    identity: Mapping[str, str] | None = None


@dataclass(frozen=True)
class EngineRecord:
    """What a worker chose for a job: all that :class:`EngineChoice` says, as plain values."""

    engine: EngineName
    forward: int
    identity: dict[str, str]
    notes: tuple[str, ...]


Cut = tuple[str, Stage, int, int]
"""Of a part: image id, stage, first copy, and the one after the last."""


@dataclass(frozen=True)
class _Ready:
    """All that counts a job; ``turns`` are those of the engine's workers."""

    job: ClusterTask
    execution: PreparedPipeline
    voting: VoteCounter
    choice: EngineChoice
    turns: threading.Semaphore


class Worker:
    """Holds the model of the job that it was last called for."""

    def __init__(self) -> None:
        self._setting_up = threading.Lock()
        self._held: _Ready | None = None

    def ready(self) -> None:
        """Answers when the worker is there."""

    def choose(self, job: ClusterTask, image: Float[np.ndarray, "c h w"]) -> EngineRecord:
        """The engine for images of this size, and the copies of a forward pass."""
        choice = self._ready_for(job, image).choice
        return EngineRecord(
            choice.engine.name, choice.forward, choice.engine.identity(), choice.notes
        )

    def votes(
        self, job: ClusterTask, seed: int, cuts: Sequence[Cut], *images: Float[np.ndarray, "c h w"]
    ) -> Votes:
        """The votes of a part of each of the images."""
        ready = self._ready_for(job, images[0])
        parts = [
            CopyRange(ImageTask("", image_id, image), stage, start, stop)
            for image, (image_id, stage, start, stop) in zip(images, cuts, strict=True)
        ]
        with ready.turns:
            limit_threads(ready.choice.engine)
            return ready.voting.votes(parts, ready.choice, seed)

    def answer(
        self, job: ClusterTask, copies: Float[np.ndarray, "b c h w"]
    ) -> Num[np.ndarray, "b ..."]:
        """The engine's answer on noisy copies."""
        ready = self._ready_for(job, copies[0])
        engine = ready.choice.engine
        with ready.turns:
            return engine.answer(torch.tensor(copies, device=engine.device)).cpu().numpy()

    def _ready_for(self, job: ClusterTask, image: Float[np.ndarray, "c h w"]) -> _Ready:
        """What counts this job, whatever other calls set up meanwhile.

        Raises:
            SettingError: the engine that the job asks for is here not what it was elsewhere.
        """
        with self._setting_up:
            held = self._held
            if held is not None and held.job == job:
                return replace(held, choice=held.execution.choice(image))
            self._held = None  # a setting up that fails leaves nothing that is of two jobs
            self._held = self._set_up(job, image, held)
            return self._held

    def _set_up(
        self, job: ClusterTask, image: Float[np.ndarray, "c h w"], held: _Ready | None
    ) -> _Ready:
        if held is not None and held.job.fingerprint == job.fingerprint:
            execution, voting = held.execution, held.voting
        else:
            import ray

            device = choose_device(job.device)
            execution = ray.get(job.model[0]).on(device)
            voting = VoteCounter(execution.pipeline.sigma, execution.noise, device)
        execution.adopt(job.engine, job.forward)
        choice = execution.choice(image)
        self._check(job, choice)
        turns = threading.Semaphore(choice.engine.workers)
        return _Ready(job, execution, voting, choice, turns)

    def _check(self, job: ClusterTask, choice: EngineChoice) -> None:
        found = choice.engine.identity()
        if job.identity is not None and found != job.identity:
            differs = "; ".join(
                f"{key}: {found.get(key)} here, {value} elsewhere"
                for key, value in job.identity.items()
                if found.get(key) != value
            )
            raise SettingError(
                f"the workers of the cluster are not alike ({differs}), and the last bits of their "
                "answers differ; take nodes of one kind, by a resource that only those have "
                "(--worker-resources), with the same versions installed"
            )
