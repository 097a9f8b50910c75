"""Locks around the state of the whole process: flags of CUDA, and the tracing of modules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class _Exact:
    """The flags of CUDA belong to the process: the first thread sets them, the last restores."""

    def __init__(self) -> None:
        self._lock, self._inside, self._flags = threading.Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """No TensorFloat-32, the default of convolutions on CUDA, and fixed algorithms."""
        with self._lock:
            if self._inside == 0:
                self._flags.enter_context(
                    torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
                )
                precision = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
                self._flags.callback(torch.set_float32_matmul_precision, precision)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._flags.close()


exact_float32 = _Exact()


class ReadersWriterLock:
    """Held by several threads at once, or by one alone.

    The thread that holds it alone may enter it again. The lock is not fair: threads that share
    it enter although another waits to be alone, since one that shares may wait for another.
    """

    def __init__(self) -> None:
        self._changed, self._inside = threading.Condition(), 0
        self._owner: int | None = None

    @contextmanager
    def __call__(self, *, alone: bool = False) -> Iterator[None]:
        """Hold the lock, together with other threads or ``alone``."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(
                lambda: self._owner == me or not (self._owner or (alone and self._inside))
            )
            before, self._owner = self._owner, me if alone else self._owner
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._owner = before
                self._inside -= 1
                self._changed.notify_all()


single_caller = threading.RLock()
"""Held by the one thread that runs a pipeline which no two threads may run at once."""
tracing = ReadersWriterLock()
"""Shared by threads that run modules. A thread that traces one holds it alone, since tracing
changes ``nn.Module`` for the whole process."""
