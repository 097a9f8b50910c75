"""Counting on a Ray cluster: tasks that load the model once a process and return votes."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.engines.choice import EngineChoice
from denoised_smoothing.engines.engine import Engine
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import SettingError, WorkerError
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.noise import chunk_size
from denoised_smoothing.smoothing.cluster_capacity import capacity_of, lack_of, nodes_of
from denoised_smoothing.smoothing.cluster_connection import TRIES, connect
from denoised_smoothing.smoothing.cluster_errors import error_of
from denoised_smoothing.smoothing.cluster_worker import (
    ClusterTask,
    EngineRecord,
    answer_copies,
    choose_engine,
    count_votes,
)
from denoised_smoothing.smoothing.scheduler import BatchRunner, CopyRange, ImageTask, Votes
from denoised_smoothing.smoothing.votes import Seed

CHECK = 10.0
"""Seconds after which a task without a result is checked: some node must be able to run it."""
PATIENCE = 1.0
"""Seconds after which a thread that waits for a task looks whether the cluster was closed."""
_OWN = {"CPU": "cpus", "GPU": "gpus", "memory": "memory", "object_store_memory": "memory"}
"""Resources that Ray counts itself, and the arguments that name them here."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class RayCluster:
    """Workers of a Ray cluster, which is started or joined when they are first needed.

    A worker is a Ray task, in a process that keeps the model. Ray repeats a task whose process is
    lost, on another node if necessary.

    Args:
        address: of the cluster, ``auto`` for the one that this machine belongs to, or None to
            start one here.
        workers: maximum number at once; None for as many as the cluster has capacity for.
        cpus, gpus: what each worker takes; fractions share a GPU.
        resources: custom resources that each worker takes, by name.
        passes: forward passes of a batch; more of them need fewer messages.
        memory: bytes that each worker takes, to limit the workers of a node; 0 for no limit.
        wait: seconds in which a cluster must accept this process, and after which it must have a
            node with capacity for a worker.

    Raises:
        SettingError: a number is out of range, or a resource is not a custom one.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    passes: int = 1
    memory: float = 0.0
    wait: float = 10.0
    _pool: ThreadPoolExecutor | None = field(default=None, init=False, repr=False)
    _remote: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)
    _running: set[Any] = field(default_factory=set, init=False, repr=False)
    _lacking: float | None = field(default=None, init=False, repr=False)
    """Since when no node has capacity for a worker, in seconds of the monotonic clock."""

    def __post_init__(self) -> None:
        minima = {"workers": 1, "passes": 1, "cpus": 0, "gpus": 0, "memory": 0, "wait": 0}
        for name, minimum in minima.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise SettingError(f"{name} must be at least {minimum}, got {value}")
        for name in self.resources:
            if name in _OWN:
                raise SettingError(
                    f"{name} is not a custom resource. Use {_OWN[name]} (--worker-{_OWN[name]})."
                )

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def threads(self) -> int:
        """Batches that a worker counts at once: one a core, or two to keep a GPU busy."""
        return 2 if self.gpus else max(1, int(self.cpus))

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        then: Callable[[Any], Any] = lambda result: result,
    ) -> Future[Any]:
        """Run a function as a task; the future raises WorkerError if the task was lost.

        ``then`` turns the result of the task into that of the future, here.

        Raises:
            MissingExtraError: Ray is not installed.
            WorkerError: the cluster is unreachable.
            SettingError: it has no capacity for a worker, or this process belongs to another one.
        """
        if self._pool is None:
            self._pool = self._open()
        pool = self._pool
        return pool.submit(lambda: then(self._run(pool, function, arguments)))

    def close(self) -> None:
        """Cancel all tasks; futures without a result fail."""
        if self._pool is None:
            return
        import ray

        pool, self._pool = self._pool, None
        pool.shutdown(wait=False)
        for reference in list(self._running):
            ray.cancel(reference, force=True)

    def _open(self) -> ThreadPoolExecutor:
        """Join the cluster; each thread of the pool waits for one task."""
        capacity = self._find_capacity(connect(self.address, self.wait))
        self.workers, self._lacking = self.workers or capacity, None
        # Ray reuses a process at once if a task waits for it. Where it has capacity for more
        # workers than requested, only the number of its tasks limits them.
        return ThreadPoolExecutor((2 if self.workers == capacity else 1) * self.workers, "ray")

    def _task(self, function: Callable[..., Any]) -> Any:
        if function not in self._remote:
            import ray

            # A process is reused for any GPU of its node, and CUDA reads only once which it sees.
            visible = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
            self._remote[function] = ray.remote(
                num_cpus=self.cpus, num_gpus=self.gpus, resources=dict(self.resources),
                memory=int(self.memory), max_retries=TRIES - 1, max_calls=0,
                runtime_env={"env_vars": visible} if self.gpus else {},
            )(function)  # fmt: skip
        return self._remote[function]

    def _run(
        self, pool: ThreadPoolExecutor, function: Callable[..., Any], arguments: Sequence[Any]
    ) -> Any:
        import ray
        from ray.exceptions import RayError

        reference = None
        try:
            if self._pool is not pool or not ray.is_initialized():  # Ray would start by itself
                raise ConnectionError("Ray was shut down")
            reference = self._task(function).remote(*arguments)
            self._running.add(reference)
            if self._pool is not pool:  # closed before it saw this reference
                ray.cancel(reference, force=True)
            return self._result(reference, pool)
        except (RayError, ConnectionError, SystemExit) as error:  # Ray ends waiting threads so
            raise error_of(error, closed=self._pool is not pool) from error
        finally:
            self._running.discard(reference)

    def _result(self, reference: Any, pool: ThreadPoolExecutor) -> Any:
        """Wait for a task as long as some node can run it.

        Raises:
            WorkerError: for ``wait`` seconds, and at least ``CHECK``, no node could.
            ConnectionError: the cluster was closed. Ray may not report all tasks it cancelled.
        """
        import ray
        from ray.exceptions import GetTimeoutError

        needs, checked = self._needs(), time.monotonic()
        while True:
            if self._pool is not pool or not ray.is_initialized():  # Ray would start by itself
                raise ConnectionError("Ray was shut down")
            try:
                return ray.get(reference, timeout=PATIENCE)
            except GetTimeoutError:
                now = time.monotonic()
            if now - checked < CHECK:
                continue
            checked, nodes = now, nodes_of(ray)
            if capacity_of(nodes, needs):
                self._lacking = None
            elif self._lacking is None:
                self._lacking = now
                _log.warning("%s Waiting for one that has.", lack_of(nodes, needs))
            elif now - self._lacking >= max(CHECK, self.wait):
                ray.cancel(reference, force=True)
                raise WorkerError(
                    f"{lack_of(nodes, needs)} Nodes were lost. Counts so far are stored. Start a "
                    "node, and repeat the command to resume."
                )

    def _find_capacity(self, ray: Any) -> int:
        """Return the number of workers that the cluster has capacity for, at least 1.

        Where nodes may come, waits for one with a task that needs it: clusters that grow on demand
        start nodes for tasks.
        """
        nodes, needs, waited = nodes_of(ray), self._needs(), ""
        if capacity := capacity_of(nodes, needs):
            return capacity
        lack = lack_of(nodes, needs)
        if self.address is not None and self.wait:
            _log.warning("%s Waiting %g seconds for one that has.", lack, self.wait)
            reference = self._task(_nothing).remote()
            if not ray.wait([reference], timeout=self.wait)[0]:
                ray.cancel(reference, force=True)
            if capacity := capacity_of(nodes_of(ray), needs):
                return capacity
            waited = f" None came within {self.wait:g} seconds; --ray-wait SECONDS waits longer."
        raise SettingError(f"{lack}{waited} Request less, or start a node that has it.")

    def _needs(self) -> dict[str, float]:
        """Return the resources of a worker by the names of Ray."""
        own = {"CPU": self.cpus, "GPU": self.gpus}
        return {**own, **({"memory": self.memory} if self.memory else {}), **self.resources}


def _nothing() -> None:
    """Do nothing: a task that needs a worker."""


def _put(value: object) -> Any:
    """Store an object in the cluster; return its reference.

    Raises:
        WorkerError: there is no room for it, or the cluster is lost.
    """
    import ray
    from ray.exceptions import RayError

    try:
        return ray.put(value)
    except RayError as error:
        raise error_of(error, closed=False) from error


class RayBackend:
    """Counts on the workers of a cluster, which also choose the engine.

    Args:
        prepared: the pipeline on the CPU of this process, which computes what is shown of it.
        cluster: where the workers are.
        device: that of each worker.
    """

    def __init__(
        self,
        prepared: PreparedPipeline,
        cluster: RayCluster,
        device: str | torch.device | Sequence[str | torch.device],
    ) -> None:
        self.prepared, self.cluster = prepared, cluster
        self._device = worker_device(device, cluster)
        self._sent: tuple[object, str, list[Any]] = (None, "", [])
        prepared.chooser = self._choose

    def _choose(self, image: Float[np.ndarray, "c h w"]) -> EngineChoice:
        """Have a worker choose the engine for images of this size."""
        if self.prepared.bundle_shape is not None:
            raise SettingError(
                "A cluster does not support exported bundles. Name the classifier and denoiser."
            )
        connect(self.cluster.address, self.cluster.wait)
        task = self.task(self.prepared.engine, self.prepared.forward)
        found: EngineRecord = self.cluster.submit(choose_engine, task, image).result()
        return EngineChoice(_ClusterEngine(self, found), found.forward, found.notes)

    @contextmanager
    def runner(
        self,
        image: Float[np.ndarray, "c h w"],
        seed: Seed,
        max_in_flight: int | None = None,
        choice: EngineChoice | None = None,
    ) -> Iterator[BatchRunner]:
        """Run batches of images of this size on the cluster.

        Arguments are those of :meth:`Devices.runner`, with one seed of all images. By default
        there are four batches a worker in flight, so that all work while one of them is late.
        """
        if not isinstance(seed, int):
            raise SettingError(
                "A cluster counts images of one seed. Omit ray to count images that join later."
            )
        choice, threads = choice or self.prepared.engine_for(image), self.cluster.threads
        task = self.task(choice.engine.name, choice.forward, choice.engine.identity())
        task = replace(task, count=uuid.uuid4().hex)
        sent: WeakKeyDictionary[ImageTask, Any] = WeakKeyDictionary()
        forward, chunk = choice.forward, chunk_size(image.shape)
        batch = forward * max(self.cluster.passes, -(-chunk // forward))
        batch *= threads if max_in_flight is None else max(1, min(threads, max_in_flight // batch))
        workers = self.cluster.workers or 1
        batches = 4 * workers if max_in_flight is None else max(1, max_in_flight // batch)

        def submit(parts: Sequence[CopyRange]) -> Future[Votes]:
            for part in parts:
                if part.task not in sent:
                    sent[part.task] = _put(part.task.image)
            images = [sent[part.task] for part in parts]
            ranges = [(part.task.image_id, part.stage, part.copies) for part in parts]
            return self.cluster.submit(count_votes, task, seed, ranges, *images, then=received)

        def received(counted: tuple[Votes, tuple[int, int]]) -> Votes:
            votes, compared = counted
            self.prepared.canaries.add(*compared)
            return votes

        yield BatchRunner(submit, batch, min(batches, workers), batches)

    def task(
        self, engine: EngineName, forward: int | None, identity: dict[str, str] | None = None
    ) -> ClusterTask:
        """Describe tasks of this engine; the model is stored in the cluster when it changes."""
        prepared, pipeline = self.prepared, self.prepared.pipeline
        state = (prepared.state, prepared.calibration)
        if self._sent[0] != state:
            parts = (pipeline.classifier, pipeline.denoiser, pipeline.sigma)
            settings = (prepared.calibration, prepared.precision.value, prepared.noise.value)
            self._sent = (state, fingerprint((parts, *settings)), [_put(prepared)])
        _, key, model = self._sent
        threads = self.cluster.threads
        return ClusterTask(key, model, self._device, engine, forward, identity, threads)


class _ClusterEngine(Engine):
    """An engine of the workers."""

    def __init__(self, backend: RayBackend, found: EngineRecord) -> None:
        self._backend, self._found, self.name = backend, found, found.engine
        self.device, self.precision = backend.prepared.device, backend.prepared.precision
        self.workers = backend.cluster.workers or 1

    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        task = self._backend.task(self.name, self._found.forward, self.identity())
        future = self._backend.cluster.submit(answer_copies, task, copies.numpy())
        return torch.tensor(future.result())

    def identity(self) -> dict[str, str]:
        return self._found.identity

    @classmethod
    def version(cls) -> str:
        import ray

        return str(ray.__version__)


def worker_device(
    name: str | torch.device | Sequence[str | torch.device], cluster: RayCluster
) -> str:
    """Return the kind of device of a worker; ``auto`` is a GPU if a worker takes a part of one.

    Raises:
        SettingError: several are named, or a GPU that workers do not take.
    """
    if not isinstance(name, (str, torch.device)) or "," in str(name):
        raise SettingError(
            f"A worker of a cluster has one device, got {name}. Name one, and set the number of "
            "workers with --workers."
        )
    kind = torch.device(name).type if str(name) != "auto" else "cuda" if cluster.gpus else "cpu"
    if kind == "cuda" and not cluster.gpus:
        raise SettingError(
            "A worker sees only the GPUs that it takes. Assign one, or a fraction, with "
            "--worker-gpus."
        )
    return kind  # Ray assigns the GPU of each task
