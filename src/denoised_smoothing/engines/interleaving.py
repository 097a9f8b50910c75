"""Two calls of a pipeline that take turns, and what its modules keep between calls."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from denoised_smoothing.engines.pipeline import Pipeline

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
    """Two threads that run one after the other, and change places when one is ahead.

    Args:
        order: the events of one call by itself, in which both count how far they are.
    """

    def __init__(self, order: Mapping[Hashable, int]) -> None:
        self._changed, self._turn, self._running = threading.Condition(), 0, {0, 1}
        self._order, self._reached = order, [-1, -1]
        self.threads: list[threading.Thread] = []
        self.stuck = False

    def arrive(self, me: int, event: Hashable) -> None:
        """Let the other thread run unless it is ahead, and wait until it is, ends or is stuck."""
        self._reached[me] = max(self._reached[me], self._order.get(event, -1))
        with self._changed:
            if len(self._running) == 2 and self._reached[me] >= self._reached[1 - me]:
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

    def __init__(self, call: Callable[[Hashable], None]) -> None:
        super().__init__()
        self._call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._call(func)
        return func(*args, **(kwargs or {}))


@contextmanager
def _at_each_event(arrive: Callable[[Hashable], None]) -> Iterator[None]:
    """Call a function before operations of torch and lines of Python outside of libraries.

    It gets the operation or the line, and how often that was met.
    """
    seen: Counter[Hashable] = Counter()

    def count(event: Hashable) -> None:
        seen[event] += 1
        arrive((event, seen[event]))

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_TRACED:
            return None
        if event == "line":
            count((frame.f_code, frame.f_lineno))
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        with _BeforeEachOperation(count):
            yield
    finally:
        sys.settrace(outer)


def _order(call: Callable[[], object]) -> dict[Hashable, int]:
    """Return the number of each event of a call: of the first time that a line runs, the second."""
    events: list[Hashable] = []
    with _at_each_event(events.append):
        call()
    return {event: number for number, event in enumerate(events)}


def interleaved(
    calls: Sequence[Callable[[], _T]], held: Sequence[Sized] = ()
) -> tuple[list[_T], bool]:
    """Return the results of two calls in two threads, which take turns.

    Return also whether the length of a container among ``held`` changed meanwhile: a queue gives
    each call its own value as long as they take turns.

    They change places at every operation of torch and at every line of Python outside of
    libraries. A value that a call keeps outside of its own variables, from one line to a later
    one, is overwritten by the other call, always and not by chance: the call that is behind runs
    first, also where one does more than the other in between, such as more turns of a loop or a
    collection of garbage. What lies behind is told by a third call, which runs by itself before.

    Raises:
        StuckError: a call waited for a lock of the other one.
        Exception: that of a call.
    """
    turns = _Turns(_order(calls[0]))
    results: dict[int, _T] = {}
    errors: list[BaseException] = []
    lengths, resized = [len(container) for container in held], [False]

    def arrive(me: int, event: Hashable) -> None:
        resized[0] |= lengths != [len(container) for container in held]
        turns.arrive(me, event)

    def run(me: int) -> None:
        try:
            turns.wait(me)
            with _at_each_event(partial(arrive, me)):
                results[me] = calls[me]()
        except BaseException as error:
            errors.append(error)
        finally:
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
    return [results[0], results[1]], resized[0]


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


def containers(pipeline: Pipeline) -> list[Sized]:
    """Return the lists, dictionaries, sets and queues that calls of the pipeline can reach.

    They are attributes of modules and of their classes, or closures and globals of their methods.
    """
    found: dict[int, Sized] = {}
    for part in (*pipeline.modules(), pipeline.classifier, pipeline.denoiser):
        if isinstance(part, FunctionType):
            _collect(_reached(part), found, _DEPTH)
        kept = {
            name: value for name, value in _attributes_of(part).items() if name not in _OF_MODULES
        }
        _collect(list(kept.values()), found, _DEPTH)
        for kind in type(part).__mro__:
            if kind.__module__.partition(".")[0] not in _NOT_TRACED:
                for member in vars(kind).values():
                    reached = _reached(member) if isinstance(member, FunctionType) else [member]
                    _collect(reached, found, _DEPTH)
    return list(found.values())


def _attributes_of(value: object) -> dict[str, object]:
    slots = getattr(type(value), "__slots__", ())
    names = [slots] if isinstance(slots, str) else slots
    return {
        **{name: getattr(value, name, None) for name in names},
        **getattr(value, "__dict__", {}),
    }


def _reached(function: FunctionType) -> list[object]:
    """Return the values of a function's closure, and the globals that it names."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    names = function.__code__.co_names
    return cells + [function.__globals__[name] for name in names if name in function.__globals__]


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


class _Queue:
    """The length of a queue that is implemented in C."""

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        self.queue = queue

    def __len__(self) -> int:
        return self.queue.qsize()


def _collect(values: Sequence[object], found: dict[int, Sized], depth: int) -> None:
    """Add the containers among values and within them."""
    for value in values:
        if id(value) in found or not depth:
            continue
        if isinstance(value, SimpleQueue):
            found[id(value)] = _Queue(value)
        elif isinstance(value, (list, dict, set, deque)):
            found[id(value)] = value
            _collect(list(value.values() if isinstance(value, dict) else value), found, depth - 1)
        elif isinstance(value, tuple):
            _collect(value, found, depth - 1)
        elif not isinstance(
            value, (nn.Module, Tensor, np.ndarray, type, FunctionType, ModuleType)
        ) and type(value).__module__.partition(".")[0] not in _NOT_TRACED - {"queue"}:
            _collect(list(_attributes_of(value).values()), found, depth - 1)


def differing_module(
    pipeline: nn.Module,
    first: Callable[[], object],
    second: Callable[[], object],
    rows: Tensor,
    differs: Callable[[Tensor, Tensor], bool],
) -> tuple[str, nn.Module] | None:
    """Return the first module that gives other outputs for equal inputs in some rows.

    Args:
        first, second: two calls of the pipeline.
        rows: the rows that hold equal copies: bool [B].
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


def _rows(value: object, rows: Tensor) -> list[Tensor]:
    """Return these rows of all tensors among some values."""
    if isinstance(value, Tensor):
        of_batch = value.ndim and len(value) == len(rows)
        return [value[rows].detach().clone()] if of_batch else []
    if isinstance(value, (list, tuple)):
        return [row for part in value for row in _rows(part, rows)]
    return []
