"""One thread for each smoothed classifier; images that join it share batches."""

from __future__ import annotations

import logging
import secrets
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import ClassifierError
from denoised_smoothing.images import digest
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.scheduler import ImageTask

_log = logging.getLogger(__name__)
Counts = Mapping[Stage, LabelCounts]


@dataclass(eq=False, kw_only=True)
class PendingImage(ABC):
    """An image [C, H, W] whose copies a batcher counts, and its counts so far.

    The seed is fresh entropy: a client, who chooses the image, does not know the noise.
    """

    image: Float[np.ndarray, "c h w"]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    seed: int = field(default_factory=lambda: secrets.randbits(128))
    counts: Counts = field(default_factory=dict)
    cancelled: bool = False
    """Draw no more copies than those in flight."""
    alone: bool = False
    task: ImageTask | None = None

    first: ClassVar[Stage]

    @property
    def image_id(self) -> str:
        """The digest of the image, by which its noise is keyed."""
        return digest(self.image)

    def begin(self) -> ImageTask:
        """Return the task, whose counts hold the name by which its image is found."""
        empty = {self.first: LabelCounts(self.id, self.image_id, self.first)}
        self.task = ImageTask(self.id, self.image_id, self.image, {**empty, **self.counts})
        return self.task

    @abstractmethod
    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        """Return the copies wanted in each stage, given the counts so far."""


_Image = TypeVar("_Image", bound=PendingImage)


class Batcher(Generic[_Image]):
    """Counts the copies of all its pending images together, in batches that they share.

    An error of a batch does not name the image that caused it. All images in flight are then
    counted again one by one, and only one that fails alone gets the error. Noise is keyed, so
    this gives the same counts.

    Args:
        name: of the thread, which calls the two functions.
        ready: an event; nothing is counted before it is set.
        on_counts: called with an image after each batch with votes for it.
        on_end: called once for each image: with None when it has its targets or was cancelled,
            or with the error.
    """

    def __init__(
        self,
        smoothed: SmoothedClassifier,
        name: str,
        ready: threading.Event,
        on_counts: Callable[[_Image], None],
        on_end: Callable[[_Image, Exception | None], None],
    ) -> None:
        self.smoothed, self._ready = smoothed, ready
        self._on_counts, self._on_end = on_counts, on_end
        self._waiting: deque[_Image] = deque()
        self._running: dict[str, _Image] = {}
        self._seeds = WeakKeyDictionary[ImageTask, int]()  # also of ended ones, until copies return
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"batcher {name}", daemon=True)
        self._thread.start()

    def add(self, pending: _Image) -> None:
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
                for task in self.smoothed.count_labels(
                    self._tasks(), self._targets, self._seed, in_turn=True, on_batch=self._report
                ):
                    pending = self._running.pop(task.run)
                    pending.counts = dict(task.counts)
                    self._on_end(pending, None)
            except Exception as error:
                self._recover(error)

    def _tasks(self) -> Iterator[ImageTask | None]:
        """Yield images that joined meanwhile; wait for one if nothing else is left to do."""
        while True:
            with self._changed:
                while not self._waiting and not self._running and not self._closed:
                    self._changed.wait()
                if not self._waiting and not self._running:
                    return
                joins = self._waiting and not (
                    self._running
                    and any(image.alone for image in (self._waiting[0], *self._running.values()))
                )
                pending = self._waiting.popleft() if joins else None
                if pending is not None:
                    self._running[pending.id] = pending
            task = None if pending is None else pending.begin()
            if pending is not None and task is not None:
                self._seeds[task] = pending.seed
            yield task

    def _targets(self, counts: Counts) -> Mapping[Stage, int]:
        pending = self._running[next(iter(counts.values())).run]
        if pending.cancelled and pending.task is not None:  # copies in flight come back, no more
            return dict(pending.task.issued)
        return pending.targets(counts)

    def _seed(self, task: ImageTask) -> int:
        return self._seeds[task]

    def _report(self, tasks: Sequence[ImageTask]) -> None:
        for task in tasks:
            pending = self._running[task.run]
            pending.counts = dict(task.counts)
            self._on_counts(pending)

    def _recover(self, error: Exception) -> None:
        running, self._running = list(self._running.values()), {}
        _log.warning("a batch of %d requests failed", len(running), exc_info=error)
        for pending in running:
            if pending.alone or not isinstance(error, ClassifierError) or pending.cancelled:
                self._on_end(pending, error)
                continue
            pending.alone = True
            with self._changed:
                self._waiting.append(pending)
