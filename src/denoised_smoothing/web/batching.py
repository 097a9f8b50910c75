"""One thread for each smoothed classifier; images that join it share batches."""

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
    """An image whose copies a batcher counts.

    The batcher's thread calls ``on_counts`` after each batch with votes for the image. It calls
    ``on_end`` once: with None when the image has its targets or was cancelled, or with the error.
    """

    name: str
    image_id: str
    image: Float[np.ndarray, "c h w"]
    seed: int
    first: Stage
    targets: Targets
    on_counts: Callable[[Counts], None]
    on_end: Callable[[Counts, Exception | None], None]
    counts: Counts = field(default_factory=dict)
    cancelled: bool = False
    alone: bool = False
    task: ImageTask | None = None

    def begin(self) -> ImageTask:
        """Make the task; its counts hold the name by which its targets are looked up."""
        empty = {self.first: LabelCounts(self.name, self.image_id, self.first)}
        self.task = ImageTask(self.name, self.image_id, self.image, {**empty, **self.counts})
        return self.task


class Batcher:
    """Counts the copies of all its pending images together, in batches that they share.

    An error of a batch does not name the image that caused it. All images in flight are then
    counted again one by one, and only one that fails alone gets the error. Noise is keyed, so
    this gives the same counts.

    Args:
        smoothed: classifies the copies.
        name: of the thread.
        ready: an event; nothing is counted before it is set.
    """

    def __init__(self, smoothed: SmoothedClassifier, name: str, ready: threading.Event) -> None:
        self.smoothed, self._ready = smoothed, ready
        self._waiting: deque[PendingImage] = deque()
        self._running: dict[str, PendingImage] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"batcher {name}", daemon=True)
        self._thread.start()

    def add(self, pending: PendingImage) -> None:
        """Count the copies of an image."""
        with self._changed:
            self._waiting.append(pending)
            self._changed.notify()

    def close(self) -> None:
        """End all images with the counts that they have; wait for the batches in flight."""
        with self._changed:
            self._closed = True
            for pending in (*self._waiting, *self._running.values()):
                pending.cancelled = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        self._ready.wait()
        while not self._closed or self._waiting:
            try:
                for task in self.smoothed.count_as_they_come(
                    self._tasks(), self._targets, self._seed, on_batch=self._report
                ):
                    self._running.pop(task.run).on_end(task.counts, None)
            except Exception as error:
                self._recover(error)

    def _tasks(self) -> Iterator[ImageTask | None]:
        """Yield images that joined meanwhile; wait for one if nothing else is left to do."""
        while True:
            with self._changed:
                while not self._waiting and not self._running and not self._closed:
                    self._changed.wait()
                pending = self._take()
                if pending is None and not self._running and self._closed:
                    return
            yield None if pending is None else pending.begin()

    def _take(self) -> PendingImage | None:
        """Take the next image, if it may run together with those that run."""
        if not self._waiting or any(pending.alone for pending in self._running.values()):
            return None
        if self._waiting[0].alone and self._running:
            return None
        pending = self._waiting.popleft()
        self._running[pending.name] = pending
        return pending

    def _targets(self, counts: Counts) -> Mapping[Stage, int]:
        pending = self._running[next(iter(counts.values())).run]
        if pending.cancelled and pending.task is not None:  # copies in flight come back, no more
            return dict(pending.task.issued)
        return pending.targets(counts)

    def _seed(self, task: ImageTask) -> int:
        return self._running[task.run].seed

    def _report(self, tasks: Sequence[ImageTask]) -> None:
        for task in tasks:
            self._running[task.run].on_counts(task.counts)

    def _recover(self, error: Exception) -> None:
        running, self._running = list(self._running.values()), {}
        _log.warning("a batch of %d requests failed", len(running), exc_info=error)
        for pending in running:
            if pending.task is not None:
                pending.counts = dict(pending.task.counts)
            if pending.alone or not isinstance(error, ClassifierError) or pending.cancelled:
                pending.on_end(pending.counts, error)
                continue
            pending.alone = True
            with self._changed:
                self._waiting.append(pending)
