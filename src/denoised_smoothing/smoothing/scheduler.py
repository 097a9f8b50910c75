"""The one loop that spends noisy copies: which image gets which copies next.

It asks the sampling plan of every unfinished image for its targets, fills batches with copies
of several images, keeps several batches on their way, adds the votes in the order in which the
copies were asked for, and ends an image when its plan says so. Who calls it chooses the executor
and what happens to a finished batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import ImageError

_FINISHED_AT_ONCE = 16
"""Images that want nothing and are taken before they are handed out, so that memory is bounded."""

Targets = Callable[[Mapping[Stage, LabelCounts]], Mapping[Stage, int]]
"""From the counts of an image so far to the copies wanted in each stage."""


@dataclass(eq=False)
class ImageTask:
    """An image [C, H, W] on its way to its counts, which may have begun in an earlier process."""

    run: str
    image_id: str
    image: Float[np.ndarray, "c h w"]
    counts: dict[Stage, LabelCounts] = field(default_factory=dict)
    seconds: float = 0.0
    issued: dict[Stage, int] = field(init=False)

    def __post_init__(self) -> None:
        self.issued = {stage: counts.n for stage, counts in self.counts.items()}

    @property
    def calls(self) -> int:
        """Copies counted so far."""
        return sum(counts.n for counts in self.counts.values())

    def next_part(self, targets: Mapping[Stage, int], room: int, chunk: int) -> CopyRange | None:
        """The next copies that are wanted, at most ``room`` and of one chunk of noise."""
        for stage, target in targets.items():
            start = self.issued.get(stage, 0)
            if start < target:
                stop = min(target, (start // chunk + 1) * chunk, start + room)
                self.issued[stage] = stop
                return CopyRange(self, stage, start, stop)
        return None

    def ends_with(self, targets: Mapping[Stage, int]) -> bool:
        """Whether it has what is wanted; a stage of which nothing is wanted has empty counts."""
        for stage, target in targets.items():
            if target == 0:
                self.counts.setdefault(stage, LabelCounts(self.run, self.image_id, stage))
        return all(s in self.counts and self.counts[s].n >= n for s, n in targets.items())

    def add(self, stage: Stage, votes: Sequence[int], failed: int) -> None:
        """Add the votes of further copies."""
        before = self.counts.get(stage, LabelCounts(self.run, self.image_id, stage))
        self.counts[stage] = before.with_votes(votes, failed)


@dataclass(frozen=True, slots=True)
class CopyRange:
    """Copies ``start`` to ``stop`` of one stage of one image."""

    task: ImageTask
    stage: Stage
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of copies."""
        return self.stop - self.start


Votes = Sequence[tuple[Sequence[int], int]]
"""Of each part of a batch: copies a label, and copies without a label."""


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """Where batches are counted: in threads of this process, or by workers elsewhere.

    ``submit`` starts a batch: its copies are made, classified and counted. ``batch`` is the most
    copies in one; with ``busy`` batches on their way nothing is idle, and there are never more
    than ``depth``.
    """

    submit: Callable[[Sequence[CopyRange]], Future[Votes]]
    batch: int
    busy: int = 1
    depth: int = 1


def schedule_batches(
    tasks: Iterable[ImageTask | None],
    targets: Targets,
    executor: BatchRunner,
    *,
    chunk: int,
    fair: bool = False,
    on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
) -> Iterator[ImageTask]:
    """Draw copies until every task has what its plan wants; yields tasks as they finish.

    An image never gets copies beyond its next decision, so that none is drawn that it does not
    want. Batches that are not full wait for more copies while others are on their way.

    Args:
        tasks: taken one by one as they are needed, so that memory does not grow with them. If
            ``fair``, each as soon as it is there: None says that none is there now, and where
            nothing is left to do, asking for the next one may wait.
        targets: the plan's.
        executor: counts the batches.
        chunk: copies of a chunk of noise; a part never spans two.
        fair: all unfinished tasks get copies in turn, a chunk at a time, instead of one after
            the other.
        on_batch: called after each batch with the tasks that got votes.
    """
    supply, batch = _OpenTasks(tasks, targets, chunk, fair=fair), executor.batch
    on_their_way: deque[tuple[list[CopyRange], Future[Votes]]] = deque()
    held: list[CopyRange] = []
    began = time.perf_counter()
    try:
        while True:
            while len(on_their_way) < executor.depth:
                held += supply.parts(batch - _copies(held))
                yield from supply.finished()
                if not held or (_copies(held) < batch and len(on_their_way) >= executor.busy):
                    break
                on_their_way.append((held, executor.submit(held)))
                held = []
            if not on_their_way:
                if supply.exhausted:
                    return
                continue
            parts, pending = on_their_way.popleft()
            votes = pending.result()
            now = time.perf_counter()
            served = supply.add(parts, votes, now - began)
            began = now
            if on_batch is not None:
                on_batch(served)
            yield from supply.finished()
    finally:
        for _, pending in on_their_way:
            pending.cancel()


_Task = TypeVar("_Task", ImageTask, ImageTask | None)


def same_shape(first: ImageTask, rest: Iterable[_Task]) -> Iterator[_Task]:
    """All tasks, refusing one that would not fit into a batch with the first.

    Raises:
        ImageError: its image has another shape.
    """
    for task in chain([first], rest):
        if task is not None and task.image.shape != first.image.shape:
            raise ImageError(
                f"image {task.image_id} has shape {list(task.image.shape)}, the first one "
                f"{list(first.image.shape)}; bring them to one size (a resolution)"
            )
        yield task


class _OpenTasks:
    """The unfinished tasks, and what each wants next."""

    def __init__(
        self, tasks: Iterable[ImageTask | None], targets: Targets, chunk: int, *, fair: bool
    ) -> None:
        self._source, self._targets, self._chunk = iter(tasks), targets, chunk
        self._fair = fair
        self._wanted: dict[ImageTask, Mapping[Stage, int]] = {}
        self._finished: list[ImageTask] = []
        self.exhausted = False

    def parts(self, room: int) -> list[CopyRange]:
        """Parts of the active tasks, then of new ones, of at most ``room`` copies."""
        if self._fair:
            return self._in_turn(room)
        parts: list[CopyRange] = []
        for task in self._active():
            while room and (part := task.next_part(self._wanted[task], room, self._chunk)):
                parts.append(part)
                room -= part.size
            if not room:
                break
        return parts

    def _in_turn(self, room: int) -> list[CopyRange]:
        """A chunk of each unfinished task in turn, beginning with those that waited longest."""
        while not self.exhausted and (task := self._take()) is not None:
            self._update(task)
        parts: list[CopyRange] = []
        turns, resting = deque(self._wanted), []
        while room and turns:
            task = turns.popleft()
            part = task.next_part(self._wanted[task], room, self._chunk)
            if part is None:
                resting.append(task)
                continue
            parts.append(part)
            room -= part.size
            turns.append(task)
        self._wanted = {task: self._wanted[task] for task in (*turns, *resting)}
        return parts

    def _take(self) -> ImageTask | None:
        """The next task of the source, None if there is none, now or at all."""
        try:
            return next(self._source)
        except StopIteration:
            self.exhausted = True
            return None

    def add(self, parts: Sequence[CopyRange], votes: Votes, seconds: float) -> list[ImageTask]:
        """Add the votes of a batch that took ``seconds``; returns the tasks that it served."""
        copies = _copies(parts)
        for part, (counts, failed) in zip(parts, votes, strict=True):
            part.task.add(part.stage, counts, failed)
            part.task.seconds += seconds * part.size / copies
        served = list(dict.fromkeys(part.task for part in parts))
        for task in served:
            self._update(task)
        return served

    def finished(self) -> list[ImageTask]:
        """The tasks that have finished since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def _active(self) -> Iterator[ImageTask]:
        yield from list(self._wanted)
        while len(self._finished) < _FINISHED_AT_ONCE:
            task = self._take()
            if task is None:
                return
            self._update(task)
            if task in self._wanted:
                yield task

    def _update(self, task: ImageTask) -> None:
        wanted = self._targets(task.counts)
        if task.ends_with(wanted):
            self._wanted.pop(task, None)
            self._finished.append(task)
        else:
            self._wanted[task] = wanted


def _copies(parts: Sequence[CopyRange]) -> int:
    return sum(part.size for part in parts)
