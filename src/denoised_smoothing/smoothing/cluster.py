"""Counting on a Ray cluster: tasks that load the model once a process and return votes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from denoised_smoothing.errors import (
    DenoisedSmoothingError,
    MissingExtraError,
    SettingError,
    WorkerError,
)
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.noise import chunk_size
from denoised_smoothing.smoothing.cluster_worker import (
    ClusterTask,
    EngineRecord,
    answer_copies,
    choose_engine,
    count_votes,
)
from denoised_smoothing.smoothing.scheduler import BatchRunner, CopyRange, ImageTask, Votes

TRIES = 5
"""Times that Ray starts a task whose process is lost."""

_log = logging.getLogger(__name__)
_joined: tuple[str, str] | None = None
"""The address by which this process joined a cluster, and that cluster's own."""


@dataclass(eq=False)
class RayCluster:
    """Workers of a Ray cluster, which is started or joined when they are first needed.

    A worker is a Ray task: it counts ``threads`` batches in a process that keeps the model. Ray
    repeats a task whose process is lost, on another node if necessary.

    Args:
        address: of the cluster, ``auto`` for the one that this machine belongs to, or None to
            start one here.
        workers: maximum number at once; None for as many as the cluster has capacity for.
        cpus, gpus: what each worker takes; fractions share a GPU.
        resources: custom resources that each worker takes, by name.
        passes: forward passes of a batch; more of them need fewer messages.

    Raises:
        SettingError: a number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    passes: int = 1
    _pool: ThreadPoolExecutor | None = field(default=None, init=False, repr=False)
    _remote: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)
    _running: set[Any] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, minimum in (("workers", 1), ("passes", 1), ("cpus", 0), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise SettingError(f"{name} must be at least {minimum}, got {value}")

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def threads(self) -> int:
        """Batches that a worker counts at once: one a core, or two to keep a GPU busy."""
        return 2 if self.gpus else max(1, int(self.cpus))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a function of a module as a task, after those submitted before.

        Its future raises WorkerError if several processes or the connection were lost.

        Raises:
            MissingExtraError: Ray is not installed.
            WorkerError: the cluster is unreachable.
            SettingError: it has no capacity for a worker, or this process belongs to another one.
        """
        if self._pool is None:
            self._pool = self._open()
        return self._pool.submit(self._run, self._pool, function, arguments)

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
        ray = _connect(self.address)
        capacity = self._capacity([node["Resources"] for node in ray.nodes() if node["Alive"]])
        self.workers = self.workers or capacity
        # Ray reuses a process at once if a task waits. A cluster with capacity for more workers
        # starts those that wait, so there each must be started by a result.
        return ThreadPoolExecutor((2 if self.workers == capacity else 1) * self.workers, "ray")

    def _task(self, function: Callable[..., Any]) -> Any:
        if function not in self._remote:
            import ray

            # A process is reused for any GPU, and CUDA reads only once which are visible.
            visible = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
            self._remote[function] = ray.remote(
                num_cpus=self.cpus, num_gpus=self.gpus, resources=dict(self.resources),
                max_retries=TRIES - 1, max_calls=0,
                runtime_env={"env_vars": visible} if self.gpus else {},
            )(function)  # fmt: skip
        return self._remote[function]

    def _run(
        self, pool: ThreadPoolExecutor, function: Callable[..., Any], arguments: Sequence[Any]
    ) -> Any:
        import ray
        from ray.exceptions import RayError, RayTaskError

        reference = None
        try:
            if self._pool is not pool or not ray.is_initialized():  # Ray would start by itself
                raise ConnectionError("Ray was shut down")
            reference = self._task(function).remote(*arguments)
            self._running.add(reference)
            if self._pool is not pool:  # closed before it saw this reference
                ray.cancel(reference, force=True)
            return ray.get(reference)
        except RayTaskError as error:
            raise _as_raised(error) from error
        except (RayError, ConnectionError, SystemExit) as error:  # Ray ends waiting threads so
            raise _as_lost(error, closed=self._pool is not pool) from error
        finally:
            self._running.discard(reference)

    def _capacity(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Count the workers that fit on nodes with these resources; a given number may wait."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        capacity = sum(
            min(
                (int(node.get(name, 0) / each + 1e-9) for name, each in wanted.items() if each),
                default=1,
            )
            for node in nodes
        )
        if capacity:
            return capacity
        asked = ", ".join(f"{name} {each:g}" for name, each in wanted.items() if each)
        totals = {name: sum(node.get(name, 0) for node in nodes) for name in wanted}
        there = ", ".join(f"{name} {total:g}" for name, total in totals.items())
        lack = f"No node of the cluster has capacity for a worker ({asked}): all have {there}."
        if self.workers is None:
            raise SettingError(
                f"{lack} Request less, or wait for a number of workers with --workers."
            )
        _log.warning("%s Waiting for one that has.", lack)
        return capacity


class RayBackend(PreparedPipeline):
    """Counts on the workers of a cluster; what is shown of it is computed here, on the CPU.

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
                "A cluster does not support exported bundles. Name the classifier and denoiser."
                if self.fixed is not None
                else "int8 needs calibration images. Add some with --calibration."
            )
        state, held = self.pipeline.state(), self._choices.get(image.shape)
        if held is None or held[0] != state:
            _connect(self.cluster.address)
            task = self.task(self.engine, self._forward)
            found: EngineRecord = self.cluster.submit(choose_engine, task, image).result()
            choice = EngineChoice(_ClusterEngine(self, found), found.forward, found.notes)
            held = self._choices[image.shape] = (state, choice)
        return held[1]

    @contextmanager
    def executor(
        self, image: Float[np.ndarray, "c h w"], seed: int, most: int | None = None
    ) -> Iterator[BatchRunner]:
        """Run batches of images of this size on the cluster.

        Args:
            image: one of them.
            seed: of the noise.
            most: copies in flight, if more than a batch; None for enough to keep workers busy
                while one of them is late.
        """
        choice, threads = self.choice(image), self.cluster.threads
        task = self.task(choice.engine.name, choice.forward, choice.engine.identity())
        sent: WeakKeyDictionary[ImageTask, Any] = WeakKeyDictionary()
        forward, chunk = choice.forward, chunk_size(image.shape)
        batch = forward * max(self.cluster.passes, -(-chunk // forward))
        batch *= threads if most is None else max(1, min(threads, most // batch))
        workers = self.cluster.workers or 1
        depth = 4 * workers if most is None else max(1, most // batch)

        def submit(parts: Sequence[CopyRange]) -> Future[Votes]:
            images = [_put(sent, part.task) for part in parts]
            ranges = [(part.task.image_id, part.stage, part.start, part.stop) for part in parts]
            return self.cluster.submit(count_votes, task, seed, ranges, *images)

        yield BatchRunner(submit, batch, min(depth, workers), depth)

    def task(
        self, engine: EngineName, forward: int | None, identity: dict[str, str] | None = None
    ) -> ClusterTask:
        """Describe tasks of this engine; the model is stored in the cluster when it changes."""
        state = (self.pipeline.state(), self.calibration)
        if self._sent[0] != state:
            import ray

            made_of = (self.pipeline.classifier, self.pipeline.denoiser, self.pipeline.sigma)
            key = fingerprint((made_of, self.calibration, self.precision.value, self.noise.value))
            self._sent = (state, key, [ray.put(self.on(self.device))])
        _, key, model = self._sent
        return ClusterTask(key, model, self._name, engine, forward, identity, self.cluster.threads)


class _ClusterEngine(Engine):
    """An engine of the workers."""

    def __init__(self, backend: RayBackend, found: EngineRecord) -> None:
        self._backend, self._found = backend, found
        self.device, self.precision = backend.device, backend.precision
        self.workers = backend.cluster.workers or 1

    @property
    def name(self) -> EngineName:  # type: ignore[override]  # of each instance, not of the class
        return self._found.engine

    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        task = self._backend.task(self.name, self._found.forward, self.identity())
        return torch.tensor(
            self._backend.cluster.submit(answer_copies, task, copies.numpy()).result()
        )

    def identity(self) -> dict[str, str]:
        return self._found.identity

    @classmethod
    def version(cls) -> str:
        import ray

        return str(ray.__version__)


def _as_lost(error: BaseException, *, closed: bool) -> WorkerError:
    """Return the error of a task without a result."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    if not closed and isinstance(error, (NodeDiedError, OutOfMemoryError, WorkerCrashedError)):
        what = (
            f"{TRIES} workers were lost over the same batch, the last one with {reason} Check that "
            "their memory holds the model."
        )
    else:
        lost = "it was closed" if closed else reason
        what = f"The connection to the cluster was lost ({lost})."
    return WorkerError(f"{what} Counts so far are stored. Repeat the command to resume.")


def _as_raised(error: Any) -> Exception:
    """Return the error that a worker raised; one of another package with advice."""
    if isinstance(error.cause, DenoisedSmoothingError):
        return error.cause
    return WorkerError(
        f"A worker of the cluster failed with {type(error.cause).__name__}: {error.cause}. "
        "Install the packages and modules that make the classifier on every node."
    )


def worker_device(
    name: str | torch.device | Sequence[str | torch.device], cluster: RayCluster
) -> str:
    """Return the device of each worker; ``auto`` is a GPU if each takes a part of one.

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


def _put(sent: WeakKeyDictionary[ImageTask, Any], task: ImageTask) -> Any:
    """Return the reference of an image; it is sent once for all its batches."""
    if task not in sent:
        import ray

        sent[task] = ray.put(task.image)
    return sent[task]


def _connect(address: str | None) -> Any:
    # Ray reads this on import. By default it never gives up a task that lacks memory.
    os.environ.setdefault("RAY_task_oom_retries", str(TRIES - 1))
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
                f"Found no Ray cluster at {address!r} ({error}). Start one (ray start --head), or "
                "omit the address to start one here."
            ) from error
        _joined = (address or "", ray.get_runtime_context().gcs_address)
    here = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", here) and _joined != (address, here):
        raise SettingError(
            f"This process belongs to the Ray cluster at {here} and cannot join another at "
            f"{address!r}. Omit the address, or use another process."
        )
    return ray
