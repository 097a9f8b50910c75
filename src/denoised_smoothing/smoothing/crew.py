"""Calls to Ray actors: whichever is free takes the next, and what a lost one held goes again."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from denoised_smoothing.errors import DenoisedSmoothingError, WorkerError

TRIES = 5
"""Workers that may be lost over one call."""


@dataclass(eq=False)
class _Call:
    start: Callable[[Any], Any]
    """From an actor to the reference of the result."""
    future: Future[Any] = field(default_factory=Future)
    tries: int = 0


class Crew:
    """Actors that have a method ``ready``, and calls that wait for one of them.

    Ray restarts an actor that is lost, on another node where it must. Its calls are not left to
    wait for that: an actor that is free takes them. One thread decides all this; Ray's own
    threads only put down what has happened.

    Args:
        actors: they need not have started yet.
        slots: calls that an actor gets at once.
    """

    def __init__(self, actors: Sequence[Any], slots: int) -> None:
        self._free: deque[Any] = deque()
        self._waiting: deque[_Call] = deque()
        self._gone, self._size = 0, len(actors) * slots
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ending, self._over = threading.Lock(), ""
        self._unanswered: set[Future[Any]] = set()
        for _ in range(slots):
            for actor in actors:
                self._events.put(partial(self._await, actor))
        threading.Thread(target=self._work, name="ray", daemon=True).start()

    def submit(self, start: Callable[[Any], Any]) -> Future[Any]:
        """Call ``start`` with an actor as soon as one is free; the future has its result.

        It may have WorkerError: the call took several workers with it, or none is left.
        """
        call = _Call(start)
        with self._ending:
            if self._over:
                call.future.set_exception(_lost(self._over))
                return call.future
            self._unanswered.add(call.future)
        call.future.add_done_callback(self._unanswered.discard)
        self._events.put(partial(self._waiting.append, call))
        return call.future

    def close(self) -> None:
        """Start no more calls; those without a result fail."""
        self._events.put(None)

    def _work(self) -> None:
        """Serve until it is closed, or fails; then nobody waits for a result that cannot come."""
        why, cause = "it was closed", None
        try:
            self._serve()
        except Exception as error:
            why, cause = f"{type(error).__name__}: {error}", error
        with self._ending:
            self._over = why
        for future in list(self._unanswered):
            with suppress(InvalidStateError):  # it was cancelled meanwhile
                future.set_exception(_lost(why, cause))

    def _serve(self) -> None:
        while (event := self._events.get()) is not None:
            event()
            while self._waiting and self._free:
                call = self._waiting.popleft()
                if call.tries or call.future.set_running_or_notify_cancel():
                    self._start(call, self._free.popleft())
            while self._waiting and self._gone == self._size:
                self._waiting.popleft().future.set_exception(
                    WorkerError("every worker of the cluster has ended for good; see Ray's logs")
                )

    def _start(self, call: _Call, actor: Any) -> None:
        try:
            reference = call.start(actor)
        except Exception as error:  # what cannot be sent
            call.future.set_exception(error)
            self._free.append(actor)
            return
        reference.future().add_done_callback(
            lambda done: self._events.put(partial(self._done, call, actor, done))
        )

    def _done(self, call: _Call, actor: Any, done: Future[Any]) -> None:
        from ray.exceptions import RayTaskError

        error = done.exception()
        if error is None or isinstance(error, RayTaskError):
            self._free.append(actor)
            if error is None:
                call.future.set_result(done.result())
            else:
                call.future.set_exception(_told(error))
            return
        self._await(actor)
        call.tries += 1
        if call.tries < TRIES:
            self._waiting.appendleft(call)
            return
        lost = WorkerError(
            f"{TRIES} workers were lost over the same batch, the last one with: "
            f"{str(error).strip().partition(chr(10))[0]}; does their memory hold the model? "
            "Everything counted is kept: the same command goes on"
        )
        lost.__cause__ = error
        call.future.set_exception(lost)

    def _await(self, actor: Any) -> None:
        """Take the actor when it answers, after as many restarts as that takes."""
        reference = actor.ready.options(max_task_retries=-1).remote()
        reference.future().add_done_callback(
            lambda done: self._events.put(partial(self._arrived, actor, done))
        )

    def _arrived(self, actor: Any, done: Future[Any]) -> None:
        if done.exception() is None:
            self._free.append(actor)
        else:
            self._gone += 1


def _lost(why: str, cause: Exception | None = None) -> WorkerError:
    lost = WorkerError(
        f"the connection to the cluster was lost ({why}); everything counted is kept: the same "
        "command goes on"
    )
    lost.__cause__ = cause
    return lost


def _told(error: Any) -> Exception:
    """What a worker raised, as the error that it is, or as one that says where it was raised."""
    if isinstance(error.cause, DenoisedSmoothingError):
        return error.cause
    told = WorkerError(
        f"a worker of the cluster failed with {type(error.cause).__name__}: {error.cause}; "
        "packages and modules that make the classifier must be installed on every node"
    )
    told.__cause__ = error
    return told
