"""What runs in the processes of a Ray cluster: a worker that holds a model and counts votes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.setting import EngineName
from denoised_smoothing.engines import Choice, choose_device, limit_threads
from denoised_smoothing.errors import SettingError
from denoised_smoothing.execution import Execution
from denoised_smoothing.scheduling import ImageTask, Part, Votes
from denoised_smoothing.voting import Voting


@dataclass(frozen=True)
class Job:
    """What is to be executed.

    ``model`` is a list of one reference to an :class:`Execution`, so that it is fetched once
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
class Found:
    """What a worker chose for a job: all that :class:`Choice` says, as plain values."""

    engine: EngineName
    forward: int
    identity: dict[str, str]
    notes: tuple[str, ...]


Cut = tuple[str, Stage, int, int]
"""Of a part: image id, stage, first copy, and the one after the last."""


class Worker:
    """Holds the model of the job that it was last called for."""

    def __init__(self) -> None:
        self._setting_up = threading.Lock()
        self._job: Job | None = None
        self._execution: Execution
        self._voting: Voting
        self._turns = threading.Semaphore()

    def ready(self) -> None:
        """Answers when the worker is there."""

    def choose(self, job: Job, image: Float[np.ndarray, "c h w"]) -> Found:
        """The engine for images of this size, and the copies of a forward pass."""
        choice = self._choice(job, image)
        return Found(choice.engine.name, choice.forward, choice.engine.identity(), choice.notes)

    def votes(
        self, job: Job, seed: int, cuts: Sequence[Cut], *images: Float[np.ndarray, "c h w"]
    ) -> Votes:
        """The votes of a part of each of the images."""
        choice = self._choice(job, images[0])
        parts = [
            Part(ImageTask("", image_id, image), stage, start, stop)
            for image, (image_id, stage, start, stop) in zip(images, cuts, strict=True)
        ]
        with self._turns:
            limit_threads(choice.engine)
            return self._voting.votes(parts, choice, seed)

    def answer(self, job: Job, copies: Float[np.ndarray, "b c h w"]) -> Num[np.ndarray, "b ..."]:
        """The engine's answer on noisy copies."""
        choice = self._choice(job, copies[0])
        with self._turns:
            return choice.engine.answer(
                torch.tensor(copies, device=choice.engine.device)
            ).cpu().numpy()  # fmt: skip

    def _choice(self, job: Job, image: Float[np.ndarray, "c h w"]) -> Choice:
        """The engine that the job asks for, if it is here what it was elsewhere."""
        with self._setting_up:
            if self._job != job:
                self._set_up(job)
            choice = self._execution.choice(image)
            if self._job != job:
                self._check(job, choice)
                self._turns, self._job = threading.Semaphore(choice.engine.workers), job
        return choice

    def _set_up(self, job: Job) -> None:
        if self._job is None or self._job.fingerprint != job.fingerprint:
            import ray

            device = choose_device(job.device)
            self._execution = ray.get(job.model[0]).on(device)
            self._voting = Voting(self._execution.pipeline.sigma, self._execution.noise, device)
        if job.forward is not None:
            self._execution.adopt(job.engine, job.forward)

    def _check(self, job: Job, choice: Choice) -> None:
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
