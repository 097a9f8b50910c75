"""Where a pipeline keeps state: calls in turn, attributes that change, modules that differ."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, FunctionType, ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

PATIENCE = 0.5
"""Seconds without work after which a call is taken to wait for a lock that the other one has."""

_T = TypeVar("_T")
_OF_MODULES = vars(nn.Module()).keys() - {"_parameters", "_buffers"}
_NOT_TRACED = (sys.stdlib_module_names - {"__main__"}) | {
    *("denoised_smoothing", "jaxtyping", "numpy", "torch"),
}
"""Packages within whose functions calls do not change places."""
_DEPTH = 5
"""How far attributes of attributes are compared."""


class StuckError(RuntimeError):
    """A call waited for a lock of the other one, so that they could not take turns."""


class _Turns:
    """Two threads that run one after the other, and change places when one says so."""

    def __init__(self) -> None:
        self._changed, self._turn, self._running = threading.Condition(), 0, {0, 1}
        self.threads: list[threading.Thread] = []
        self.stuck = False

    def hand_over(self, me: int) -> None:
        """Let the other thread run, and wait until it hands over, ends or is stuck."""
        with self._changed:
            if len(self._running) == 2:
                self._turn = 1 - me
                self._changed.notify_all()
            self.wait(me)

    def end(self, me: int) -> None:
        """Leave; the other thread runs freely from here on."""
        with self._changed:
            self._running.discard(me)
            self._changed.notify_all()

    def wait(self, me: int) -> None:
        """Wait for the turn of this thread."""
        with self._changed:
            used, idle = -1.0, 0.0
            while not self._changed.wait_for(
                lambda: self._turn == me or len(self._running) < 2, timeout=PATIENCE / 10
            ):
                before, used = used, _seconds_used(self.threads[1 - me])
                idle = 0.0 if used != before else idle + PATIENCE / 10
                if idle >= PATIENCE:
                    self.stuck = True
                    self.end(me)


def _seconds_used(thread: threading.Thread) -> float:
    """Return the processor time of a thread, which does not grow while it waits for a lock."""
    if thread.ident is None or not thread.is_alive() or not hasattr(time, "pthread_getcpuclockid"):
        return 0.0
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


class _BeforeEachOperation(TorchFunctionMode):
    """Calls a function before each operation of torch in this thread."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._call()
        return func(*args, **(kwargs or {}))


def interleaved(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Return the results of two calls in two threads, which take turns.

    They change places at every operation of torch and at every line of Python outside of
    libraries. A value that a call keeps outside of its own variables, from one line to a later
    one, is overwritten by the other call, always and not by chance.

    Raises:
        StuckError: a call waited for a lock of the other one.
        Exception: that of a call.
    """
    turns = _Turns()
    results: dict[int, _T] = {}
    errors: list[BaseException] = []

    def run(me: int) -> None:
        def trace(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_TRACED:
                return None
            if event == "line":
                turns.hand_over(me)
            return trace

        try:
            turns.wait(me)
            sys.settrace(trace)
            with _BeforeEachOperation(lambda: turns.hand_over(me)):
                results[me] = calls[me]()
        except BaseException as error:
            errors.append(error)
        finally:
            sys.settrace(None)
            turns.end(me)

    turns.threads = threads = [
        threading.Thread(target=run, args=(me,), name=f"interleaved {me}") for me in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    if turns.stuck:
        raise StuckError("A call waited for the other one.")
    return [results[0], results[1]]


def attributes(pipeline: nn.Module) -> dict[str, object]:
    """Return a token of each attribute, buffer and parameter, which changes with its value."""
    found: dict[str, object] = {}
    for path, module in pipeline.named_modules():
        held = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
        for tensors in (held.pop("_buffers", {}), held.pop("_parameters", {})):
            held |= dict(tensors)
        for name, value in held.items():
            found[f"{path}.{name}" if path else name] = _token(value, _DEPTH)
    return found


@dataclass(frozen=True, eq=False)
class _Same:
    """A value that equals itself alone. It is held, so that no other gets its place in memory."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


def _token(value: object, depth: int) -> object:
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return value
    if isinstance(value, (nn.Module, type, FunctionType, ModuleType)) or not depth:
        return _Same(value)
    if isinstance(value, Tensor):
        content = value.detach().cpu().numpy().tobytes() if value.is_inference() else value._version
        return _Same(value), content
    if isinstance(value, np.ndarray):
        return _Same(value), value.tobytes()
    parts: list[object] = list(getattr(value, "__dict__", {}).values())
    slots = getattr(type(value), "__slots__", ())
    parts += [getattr(value, name, None) for name in ([slots] if isinstance(slots, str) else slots)]
    if isinstance(value, Mapping):
        parts += [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        parts += value
    tokens = tuple(_token(part, depth - 1) for part in parts)
    # Equal tuples are equal values, also if each call makes another one.
    return tokens if isinstance(value, tuple) else (_Same(value), tokens)


def differing_module(
    pipeline: nn.Module,
    first: Callable[[], object],
    second: Callable[[], object],
    rows: int,
    differs: Callable[[Tensor, Tensor], bool],
) -> tuple[str, nn.Module] | None:
    """Return the first module that gives other outputs for equal inputs in the first ``rows``.

    Args:
        first, second: two calls of the pipeline, with equal copies in their first ``rows``.
        differs: whether two tensors differ by more than rounding.
    """
    calls: list[list[tuple[str, list[Tensor], list[Tensor]]]] = []
    for call in (first, second):
        seen: list[tuple[str, list[Tensor], list[Tensor]]] = []

        def keep(path: str, inputs: object, output: object, seen: Any = seen) -> None:
            seen.append((path, _rows(inputs, rows), _rows(output, rows)))

        hooks = [
            module.register_forward_hook(
                lambda _, inputs, output, path=path: keep(path, inputs, output)
            )
            for path, module in pipeline.named_modules()
            if path and not isinstance(module, torch.jit.ScriptModule)
        ]
        try:
            call()
        finally:
            for hook in hooks:
                hook.remove()
        calls.append(seen)
    for (path, inputs, output), (other, inputs_2, output_2) in zip(*calls, strict=False):
        if path != other or len(output) != len(output_2):
            return None
        same = all(not differs(a, b) for a, b in zip(inputs, inputs_2, strict=False))
        if same and any(differs(a, b) for a, b in zip(output, output_2, strict=True)):
            return path, pipeline.get_submodule(path)
    return None


def _rows(value: object, count: int) -> list[Tensor]:
    """Return the first rows of all tensors among some values."""
    if isinstance(value, Tensor):
        return [value[:count].detach().clone()] if value.ndim else []
    if isinstance(value, (list, tuple)):
        return [row for part in value for row in _rows(part, count)]
    return []
