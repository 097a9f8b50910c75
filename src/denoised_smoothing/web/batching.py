"""Requests that share batches: one thread for each smoothed classifier, which images join."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import ClassifierError
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.scheduler import ImageTask, Targets

_log = logging.getLogger(__name__)
Counts = Mapping[Stage, LabelCounts]


@dataclass(eq=False)
class PendingImage:
    """An image in a lane, what it wants, and whom to tell.

    ``on_counts`` is called after each batch with votes for it, ``on_end`` once: with None when
    it has all it wants or was cancelled, or with what went wrong. Both are called by the lane's
    thread.
    """

    name: str
    image_id: str
    image: Float[np.ndarray, "c h w"]
    seed: int
    first: Stage
    targets: Targets
    on_counts: Callable[[Counts], None]
    on_end: Callable[[Counts, Exception | None], None]
    counts: dict[Stage, LabelCounts] = field(default_factory=dict)
    cancelled: bool = False
    alone: bool = False
    task: ImageTask | None = None

    def begin(self) -> ImageTask:
        """The task, whose counts so far name it, so that its targets are found from them."""
        empty = {self.first: LabelCounts(self.name, self.image_id, self.first)}
        self.task = ImageTask(self.name, self.image_id, self.image, {**empty, **self.counts})
        return self.task


class Batcher:
    """Counts the copies of all its tickets together, in batches that they share.

    A batch that fails does not say whose image it was: then those on their way are counted once
    more one by one, and only the one that fails by itself gets the error. As noise is keyed, this
    gives the same counts.

    Args:
        smoothed: what answers.
        name: of the thread.
        ready: nothing is counted before it is set.
    """

    def __init__(self, smoothed: SmoothedClassifier, name: str, ready: threading.Event) -> None:
        self.smoothed, self._ready = smoothed, ready
        self._waiting: deque[PendingImage] = deque()
        self._running: dict[str, PendingImage] = {}
        self._news = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"lane {name}", daemon=True)
        self._thread.start()

    def add(self, ticket: PendingImage) -> None:
        """Have the copies of a ticket counted."""
        with self._news:
            self._waiting.append(ticket)
            self._news.notify()

    def close(self) -> None:
        """End all tickets with the counts that they have, and wait for the batches on their way."""
        with self._news:
            self._closed = True
            for ticket in (*self._waiting, *self._running.values()):
                ticket.cancelled = True
            self._news.notify()
        self._thread.join()

    def _work(self) -> None:
        self._ready.wait()
        while not self._closed or self._waiting:
            try:
                for task in self.smoothed.count_as_they_come(
                    self._tasks(), self._targets, self._seed, on_batch=self._counted
                ):
                    ticket = self._running.pop(task.run, None)
                    if ticket is not None:
                        ticket.on_end(task.counts, None)
            except Exception as error:
                self._recover(error)

    def _tasks(self) -> Iterator[ImageTask | None]:
        """Tickets that came meanwhile; waits for one if there is nothing else to do."""
        while True:
            with self._news:
                while not self._waiting and not self._running and not self._closed:
                    self._news.wait()
                ticket = self._take()
                if ticket is None and not self._running and self._closed:
                    return
            yield None if ticket is None else ticket.begin()

    def _take(self) -> PendingImage | None:
        """The next ticket, if it may run beside those that do."""
        if not self._waiting or any(ticket.alone for ticket in self._running.values()):
            return None
        if self._waiting[0].alone and self._running:
            return None
        ticket = self._waiting.popleft()
        self._running[ticket.name] = ticket
        return ticket

    def _targets(self, counts: Counts) -> Mapping[Stage, int]:
        ticket = self._running.get(next(iter(counts.values())).run)
        if ticket is None or ticket.cancelled:  # what is on its way comes back, and no more
            task = None if ticket is None else ticket.task
            return (
                {stage: votes.n for stage, votes in counts.items()}
                if task is None
                else dict(task.issued)
            )
        return ticket.targets(counts)

    def _seed(self, task: ImageTask) -> int:
        return self._running[task.run].seed

    def _counted(self, tasks: Sequence[ImageTask]) -> None:
        for task in tasks:
            if (ticket := self._running.get(task.run)) is not None:
                ticket.on_counts(task.counts)

    def _recover(self, error: Exception) -> None:
        running, self._running = list(self._running.values()), {}
        _log.warning("a batch of %d requests failed", len(running), exc_info=error)
        for ticket in running:
            counts = ticket.counts if ticket.task is None else ticket.task.counts
            if ticket.alone or not isinstance(error, ClassifierError) or ticket.cancelled:
                ticket.on_end(counts, error)
                continue
            ticket.alone, ticket.counts = True, dict(counts)
            with self._news:
                self._waiting.append(ticket)
