"""Locks around what belongs to the whole process: flags of CUDA, and the tracing of modules."""

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
    def __call__(self, device: torch.device) -> Iterator[None]:
        """No TensorFloat-32, the default of convolutions on CUDA, and fixed algorithms."""
        if device.type != "cuda":
            yield
            return
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


class _Tracing:
    """Tracing a module changes ``nn.Module`` for the whole process: nothing else may run meanwhile.

    Who runs modules holds ``shared``, who traces one ``alone``, which waits for the others. It is
    not fair: who runs is let in though a tracer waits, as one that runs may call another.
    """

    def __init__(self) -> None:
        self._change, self._running, self._traced = threading.Condition(), 0, 0
        self._mine = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While modules are run."""
        with self._change:
            self._change.wait_for(lambda: not self._traced or self._is_mine())
            self._running += 1
        try:
            yield
        finally:
            with self._change:
                self._running -= 1
                self._change.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While a module is traced."""
        with self._change:
            self._change.wait_for(lambda: self._is_mine() or not (self._traced or self._running))
            self._traced += 1
            self._mine.traces = True
        try:
            yield
        finally:
            with self._change:
                self._traced -= 1
                self._mine.traces = self._traced > 0
                self._change.notify_all()

    def _is_mine(self) -> bool:
        return getattr(self._mine, "traces", False)


tracing = _Tracing()
