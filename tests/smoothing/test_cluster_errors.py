"""smoothing/cluster_errors.py: what each error of Ray means, and what to do."""

from __future__ import annotations

import pytest

from denoised_smoothing.errors import MemoryLackError, SettingError, WorkerError, lacks_memory
from denoised_smoothing.smoothing.cluster_connection import TRIES
from denoised_smoothing.smoothing.cluster_errors import error_of

exceptions = pytest.importorskip("ray.exceptions")
RESUME = "Counts so far are stored. Repeat the command to resume."


def of_task(cause: Exception) -> Exception:
    return error_of(exceptions.RayTaskError("count_votes", "trace", cause), closed=False)


def test_a_worker_that_ray_killed_for_its_memory() -> None:
    told = (
        "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.2) "
        "where the task was running was 15.2GB / 16GB (0.95), which exceeds the threshold."
    )
    message = str(error_of(exceptions.OutOfMemoryError(told), closed=False))
    assert message.startswith("A worker ran out of memory: Task was killed due to the node running")
    assert "15.2GB / 16GB" in message
    assert "Let fewer workers share a node (--worker-memory, --worker-cpus" in message
    assert message.endswith(RESUME)
    assert "\n" not in message


@pytest.mark.parametrize(
    "cause",
    [
        MemoryError("Unable to allocate 8 GiB"),
        MemoryLackError("The classifier failed with MemoryError"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate"
                     " memory: you tried to allocate 4503599627370496 bytes."),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("onnxruntime: bad allocation"),
    ],
)  # fmt: skip
def test_a_worker_whose_library_got_no_memory(cause: Exception) -> None:
    assert lacks_memory(cause)
    message = str(of_task(cause))
    assert message.startswith(f"A worker ran out of memory ({type(cause).__name__}: ")
    assert message.endswith(RESUME)


def test_other_errors_are_not_about_memory() -> None:
    for cause in (KeyError("out of memory"), RuntimeError("shapes differ"), OSError(2, "no file")):
        assert not lacks_memory(cause)
    assert "failed with KeyError: 'x'. Install the packages" in str(of_task(KeyError("x")))
    mine = SettingError("mine")
    assert of_task(mine) is mine


@pytest.mark.parametrize("name", ["ObjectStoreFullError", "OutOfDiskError"])
def test_an_object_without_room(name: str) -> None:
    full = getattr(exceptions, name)("Local disk is full")
    for error in (error_of(full, closed=False), of_task(full)):
        assert isinstance(error, WorkerError)
        assert f"no room for the model or an image ({name}: Local disk is full)" in str(error)
        assert "--object-store-memory" in str(error)


def test_lost_workers_and_closed_connections() -> None:
    lost = str(error_of(exceptions.WorkerCrashedError(), closed=False))
    assert lost.startswith(f"{TRIES} workers were lost over the same batch, the last one with Wor")
    assert "The system kills processes when memory is short." in lost
    closed = str(error_of(exceptions.WorkerCrashedError(), closed=True))
    assert closed == f"The connection to the cluster was lost (it was closed). {RESUME}"
