"""On a Ray cluster: workers that hold the model, and hand back counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.engines import Engine, EngineChoice
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import MissingExtraError, SettingError, WorkerError
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.noise import chunk_size
from denoised_smoothing.smoothing.cluster_worker import ClusterTask, EngineRecord, Worker
from denoised_smoothing.smoothing.crew import Crew
from denoised_smoothing.smoothing.scheduler import BatchRunner, CopyRange, ImageTask, Votes

_log = logging.getLogger(__name__)
_joined: tuple[str, str] | None = None
"""The address by which this process joined a cluster, and that cluster's own."""


@dataclass(eq=False)
class RayCluster:
    """Workers of a Ray cluster, which are started when they are first needed.

    Args:
        address: of the cluster, ``auto`` for the one that this machine belongs to, or None to
            start one here.
        workers: how many; None for as many as the cluster has room for.
        cpus, gpus: what each worker takes; fractions share a GPU.
        resources: custom resources that each worker takes, by name.
        passes: forward passes of a batch: more of them are fewer messages.

    Raises:
        SettingError: a number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    passes: int = 1
    _crew: Crew | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("passes", 1), ("cpus", 0), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingError(f"{name} must be at least {least}, got {value}")

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def threads(self) -> int:
        """Batches that a worker counts at once: one a core, or two to keep a GPU busy."""
        return 2 if self.gpus else max(1, int(self.cpus))

    @property
    def crew(self) -> Crew:
        """The workers.

        Raises:
            MissingExtraError: Ray is not installed.
            WorkerError: the cluster cannot be reached.
            SettingError: it has no room for a worker, or this process belongs to another one.
        """
        if self._crew is None:
            ray = _connect(self.address)
            kind = ray.remote(Worker).options(
                num_cpus=self.cpus, num_gpus=self.gpus, resources=dict(self.resources),
                max_restarts=-1, max_concurrency=self.threads,
            )  # fmt: skip
            room = self._room([node["Resources"] for node in ray.nodes() if node["Alive"]])
            self.workers = self.workers or room
            # One call more than it has threads for, so that none waits for a message.
            self._crew = Crew([kind.remote() for _ in range(self.workers)], self.threads + 1)
        return self._crew

    def close(self) -> None:
        """Let the workers go."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def _room(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Workers that nodes with these resources can hold; those of a given number may wait."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        room = sum(
            min(
                (int(node.get(name, 0) / each + 1e-9) for name, each in wanted.items() if each),
                default=1,
            )
            for node in nodes
        )
        if room:
            return room
        asked = ", ".join(f"{name} {each:g}" for name, each in wanted.items() if each)
        totals = {name: sum(node.get(name, 0) for node in nodes) for name in wanted}
        there = ", ".join(f"{name} {total:g}" for name, total in totals.items())
        lack = f"no node of the cluster has room for a worker ({asked}): all have {there}"
        if self.workers is None:
            raise SettingError(
                f"{lack}; ask for less, or say how many workers to wait for (--workers)"
            )
        _log.warning("%s; waiting for one that has", lack)
        return room


class RayBackend(PreparedPipeline):
    """An execution by the workers of a cluster; what is shown of it is computed here, on the CPU.

    Args:
        classifier, denoiser, sigma, noise, engine, precision: as of :class:`PreparedPipeline`.
        cluster: where the workers are.
        device: that of each worker.
    """

    def __init__(
        self,
        classifier: Classifier,
        denoiser: Callable[..., Tensor] | None,
        sigma: float,
        noise: Noise,
        engine: EngineName,
        precision: Precision,
        cluster: RayCluster,
        device: str,
    ) -> None:
        cpu = torch.device("cpu")
        super().__init__(classifier, denoiser, sigma, noise, engine, precision, cpu)
        self.cluster, self._name, self.devices = cluster, device, (cpu,)
        self._sent: tuple[object, str, list[Any]] = (None, "", [])

    def choice(self, image: Float[np.ndarray, "c h w"]) -> EngineChoice:
        if self.fixed is not None or self.needs_calibration:
            raise SettingError(
                "a bundle is not sent to a cluster; name its classifier and denoiser"
                if self.fixed is not None
                else "int8 needs calibration images; give some with --calibration"
            )
        state, held = self.pipeline.state(), self._choices.get(image.shape)
        if held is None or held[0] != state:
            crew, job = self.cluster.crew, self._job(self.engine, self._forward)
            found = crew.submit(lambda worker: worker.choose.remote(job, image)).result()
            engine = _Elsewhere(self, found)
            held = self._choices[image.shape] = (
                state, EngineChoice(engine, found.forward, found.notes),
            )  # fmt: skip
        return held[1]

    @contextmanager
    def executor(
        self, image: Float[np.ndarray, "c h w"], seed: int, most: int | None = None
    ) -> Iterator[BatchRunner]:
        """The cluster, for images of this size.

        Args:
            image: one of them.
            seed: of the noise.
            most: copies on their way, if more than a batch; None for as many as keep workers busy
                while one of them is late.
        """
        choice, cluster = self.choice(image), self.cluster
        job = self.job(choice)
        sent: WeakKeyDictionary[ImageTask, Any] = WeakKeyDictionary()
        forward, chunk = choice.forward, chunk_size(image.shape)
        batch = forward * max(cluster.passes, -(-chunk // forward))
        busy = choice.engine.workers
        depth = 4 * busy if most is None else max(1, most // batch)

        def submit(parts: Sequence[CopyRange]) -> Future[Votes]:
            images = [_put(sent, part.task) for part in parts]
            cuts = [(part.task.image_id, part.stage, part.start, part.stop) for part in parts]
            return cluster.crew.submit(lambda worker: worker.votes.remote(job, seed, cuts, *images))

        yield BatchRunner(submit, batch, min(depth, busy), depth)

    def job(self, choice: EngineChoice) -> ClusterTask:
        """What workers are told, once the engine is chosen."""
        return self._job(choice.engine.name, choice.forward, choice.engine.identity())

    def _job(
        self, engine: EngineName, forward: int | None, identity: dict[str, str] | None = None
    ) -> ClusterTask:
        """The model goes into the object store of the cluster once, and again if it changes."""
        state = (self.pipeline.state(), self.calibration)
        if self._sent[0] != state:
            import ray

            made_of = (self.pipeline.classifier, self.pipeline.denoiser, self.pipeline.sigma)
            key = fingerprint((made_of, self.calibration, self.precision.value, self.noise.value))
            self._sent = (state, key, [ray.put(self.on(self.device))])
        _, key, model = self._sent
        return ClusterTask(key, model, self._name, engine, forward, identity)


class _Elsewhere(Engine):
    """An engine of the workers."""

    def __init__(self, execution: RayBackend, found: EngineRecord) -> None:
        self._execution, self._found = execution, found
        self.device, self.precision = execution.device, execution.precision
        cluster = execution.cluster
        self.workers = (cluster.workers or 1) * cluster.threads

    @property
    def name(self) -> EngineName:  # type: ignore[override]  # of each instance, not of the class
        return self._found.engine

    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        job = self._execution._job(self.name, self._found.forward, self.identity())
        crew, array = self._execution.cluster.crew, copies.numpy()
        return torch.tensor(crew.submit(lambda worker: worker.answer.remote(job, array)).result())

    def identity(self) -> dict[str, str]:
        return self._found.identity

    @classmethod
    def version(cls) -> str:
        import ray

        return str(ray.__version__)


def worker_device(
    name: str | torch.device | Sequence[str | torch.device], cluster: RayCluster
) -> str:
    """The device of each worker: ``auto`` is a GPU where each takes a part of one.

    Raises:
        SettingError: several are named.
    """
    if not isinstance(name, (str, torch.device)) or "," in str(name):
        raise SettingError(
            f"a worker of a cluster has one device, got {name}; name one, and say how many workers "
            "there are to be (--workers)"
        )
    kind = torch.device(name).type if str(name) != "auto" else "cuda" if cluster.gpus else "cpu"
    if kind == "cuda" and not cluster.gpus:
        raise SettingError(
            "a worker sees only the GPUs that it takes; give each one, or a fraction, with "
            "--worker-gpus"
        )
    return kind  # Ray numbers anew what each worker sees


def _put(sent: WeakKeyDictionary[ImageTask, Any], task: ImageTask) -> Any:
    """The reference of an image, which is sent once however many batches it is in."""
    if task not in sent:
        import ray

        sent[task] = ray.put(task.image)
    return sent[task]


def _connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "a cluster") from error
    global _joined
    if not ray.is_initialized():
        try:
            ray.init(
                address or "local", include_dashboard=False if address is None else None,
                logging_level=logging.ERROR, log_to_driver=False,
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise WorkerError(
                f"there is no Ray cluster at {address!r} ({error}); start one (ray start --head), "
                "or leave the address out to start one here"
            ) from error
        _joined = (address or "", ray.get_runtime_context().gcs_address)
    here = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", here) and _joined != (address, here):
        raise SettingError(
            f"this process belongs to the Ray cluster at {here} and cannot join another at "
            f"{address!r}; leave the address out, or take another process"
        )
    return ray
