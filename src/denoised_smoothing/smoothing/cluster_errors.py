"""Errors of Ray as errors of this package, which say what to do."""

from __future__ import annotations

from typing import Any

from denoised_smoothing.errors import DenoisedSmoothingError, WorkerError, first_line, lacks_memory
from denoised_smoothing.smoothing.cluster_connection import TRIES

LONGEST = 400
"""Characters that are shown of what Ray says about memory."""
_RESUME = "Counts so far are stored. Repeat the command to resume."
_LESS_MEMORY = (
    "Let fewer workers share a node (--worker-memory, --worker-cpus, --workers), send less per "
    "task (--passes), or use nodes with more memory."
)


def error_of(error: Any, *, closed: bool) -> Exception:
    """Return the error of a task or a stored object: as a worker raised it, or a WorkerError.

    Args:
        error: of Ray, or of the connection to it.
        closed: this process closed the connection itself.
    """
    from ray.exceptions import (
        NodeDiedError,
        ObjectStoreFullError,
        OutOfDiskError,
        OutOfMemoryError,
        RayTaskError,
        WorkerCrashedError,
    )

    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else error
    if isinstance(cause, (ObjectStoreFullError, OutOfDiskError)):
        return WorkerError(
            f"Ray has no room for the model or an image ({type(cause).__name__}: "
            f"{first_line(cause)}). Free disk space in its temporary folder (/tmp/ray), or start "
            f"it with a larger --object-store-memory. {_RESUME}"
        )
    if isinstance(cause, OutOfMemoryError):
        return WorkerError(
            f"A worker ran out of memory: {' '.join(str(cause).split())[:LONGEST]} {_LESS_MEMORY} "
            f"{_RESUME}"
        )
    if isinstance(error, RayTaskError):
        reason = f"{type(cause).__name__}: {cause}"
        if cause is not None and lacks_memory(cause):
            return WorkerError(
                f"A worker ran out of memory ({' '.join(reason.split())[:LONGEST]}). "
                f"{_LESS_MEMORY} {_RESUME}"
            )
        if isinstance(cause, DenoisedSmoothingError):
            return cause
        return WorkerError(
            f"A worker of the cluster failed with {reason}. Install the packages and modules that "
            "make the classifier on every node."
        )
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    lost = f"The connection to the cluster was lost ({'it was closed' if closed else reason})."
    if not closed and isinstance(error, (NodeDiedError, WorkerCrashedError)):
        lost = (
            f"{TRIES} workers were lost over the same batch, the last one with {reason} The system "
            f"kills processes when memory is short. {_LESS_MEMORY}"
        )
    return WorkerError(f"{lost} {_RESUME}")
