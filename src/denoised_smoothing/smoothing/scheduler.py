"""The loop that schedules batches of noisy copies: which image gets which copies next.

It asks the sampling plan of every unfinished image for its targets, fills batches with copies
of several images and keeps several batches in flight.

The contract of this loop and of :mod:`~denoised_smoothing.smoothing.query_scheduler`: an image is
yielded exactly once, when its plan wants no more copies. Its counts are those of one copy after
another, whatever the order of the answers: stages in the order of the targets, and the copies of
a stage by their numbers. Copies in flight when it ends are not counted; there are some only where
a stage shows that the next one, which had begun, is not needed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import ImageError
from denoised_smoothing.noise import Levels, levels_of

_FINISHED_AT_ONCE = 16
"""Images that want nothing and are taken before they are yielded, so that memory is bounded."""

Targets = Callable[[Mapping[Stage, LabelCounts]], Mapping[Stage, int]]
"""From the counts of an image so far to the copies wanted in each stage."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a count: images finished and in all, copies counted, seconds since its start."""

    images_done: int
    images: int
    calls: int
    seconds: float


@dataclass(eq=False)
class ImageTask:
    """An image [C, H, W] and its counts so far, which may come from an earlier process."""

    run: str
    image_id: str
    image: Float[np.ndarray, "c h w"]
    counts: dict[Stage, LabelCounts] = field(default_factory=dict)
    seconds: float = 0.0
    issued: dict[Stage, int] = field(default_factory=dict, init=False)
    """Copies scheduled so far, of each stage of which this process has scheduled some."""

    @cached_property
    def levels(self) -> Levels:
        """The image in steps of 1/255."""
        return levels_of(torch.tensor(self.image))

    @property
    def calls(self) -> int:
        """Copies counted so far."""
        return sum(counts.n for counts in self.counts.values())

    def next_range(self, targets: Mapping[Stage, int], room: int, chunk: int) -> CopyRange | None:
        """Return the next copies wanted, at most ``room`` and of one chunk of noise."""
        for stage, target in targets.items():
            counted = self.counts.get(stage)
            start = self.issued.get(stage, counted.n if counted else 0)
            if start < target:
                stop = min(target, (start // chunk + 1) * chunk, start + room)
                self.issued[stage] = stop
                return CopyRange(self, stage, range(start, stop))
        return None

    def next_stage(self, targets: Mapping[Stage, int]) -> Stage | None:
        """Return the first stage that lacks counted copies."""
        had = {stage: counts.n for stage, counts in self.counts.items()}
        return next((s for s, target in targets.items() if had.get(s, 0) < target), None)

    def ends_with(self, targets: Mapping[Stage, int]) -> bool:
        """Return whether it has all copies wanted; then a stage without any gets empty counts."""
        if self.next_stage(targets) is not None:
            return False
        for stage in targets:
            self.counts.setdefault(stage, LabelCounts(self.run, self.image_id, stage))
        return True

    def add(self, stage: Stage, votes: Mapping[int, int], failed: int) -> None:
        """Add the votes of further copies."""
        more = LabelCounts(self.run, self.image_id, stage, votes, failed)
        self.counts[stage] = self.counts[stage] + more if stage in self.counts else more


@dataclass(frozen=True, slots=True)
class CopyRange:
    """Copies of one stage of one image, by their numbers."""

    task: ImageTask
    stage: Stage
    copies: range


Votes = Sequence[tuple[Mapping[int, int], int]]
"""Of each copy range of a batch: votes by label, and copies without a label."""


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """Counts batches, in threads of this process or by workers elsewhere.

    ``submit`` starts a batch: its copies are made, classified and counted. A batch has at most
    ``batch`` copies. ``min_in_flight`` batches keep every thread busy, and there are never more
    than ``max_in_flight``.
    """

    submit: Callable[[Sequence[CopyRange]], Future[Votes]]
    batch: int
    min_in_flight: int = 1
    max_in_flight: int = 1


def schedule_batches(
    tasks: Iterable[ImageTask | None],
    targets: Targets,
    runner: BatchRunner,
    *,
    chunk: int,
    in_turn: bool = False,
    on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
) -> Iterator[ImageTask]:
    """Draw copies until every task has what its plan wants; yield tasks as they finish.

    An image never gets copies beyond its next decision, so that none is drawn that it does not
    want. Batches that are not full wait for more copies while others are in flight.

    Args:
        tasks: taken one by one when they are needed, so that memory does not grow with them. If
            ``in_turn``, each is taken as soon as it is there. None says that there is none now;
            where nothing is left to do, asking for the next one may wait.
        targets: the plan's.
        chunk: copies of a chunk of noise; a copy range never spans two.
        in_turn: all unfinished tasks get copies in turn, a chunk at a time, instead of one after
            the other.
        on_batch: called after each batch with the tasks that got votes.

    Raises:
        ImageError: an image has another shape than the first.
    """
    open_tasks = _OpenTasks(iter(tasks), targets, chunk, in_turn)
    in_flight: deque[tuple[list[CopyRange], Future[Votes]]] = deque()
    held: list[CopyRange] = []
    began = time.perf_counter()
    try:
        while True:
            while len(in_flight) < runner.max_in_flight:
                room = runner.batch - sum(len(part.copies) for part in held)
                new = open_tasks.ranges(room)
                held += new
                while open_tasks.finished:
                    yield open_tasks.finished.popleft()
                full = sum(len(part.copies) for part in new) == room
                if not held or not (full or len(in_flight) < runner.min_in_flight):
                    break
                in_flight.append((held, runner.submit(held)))
                held = []
            if not in_flight:
                if open_tasks.exhausted:
                    return
                continue
            ranges, pending = in_flight.popleft()
            votes = pending.result()
            now = time.perf_counter()
            share = (now - began) / sum(len(part.copies) for part in ranges)
            began = now
            served = dict[ImageTask, None]()
            for part, (counts, failed) in zip(ranges, votes, strict=True):
                if part.task in open_tasks.wanted:
                    part.task.add(part.stage, counts, failed)
                    part.task.seconds += share * len(part.copies)
                    open_tasks.update(part.task)
                    served[part.task] = None
            held = [part for part in held if part.task in open_tasks.wanted]
            if on_batch is not None and served:
                on_batch(list(served))
            while open_tasks.finished:
                yield open_tasks.finished.popleft()
    finally:
        for _, pending in in_flight:
            pending.cancel()


def other_shape(task: ImageTask, shape: tuple[int, ...]) -> ImageError:
    """Return the error for an image that does not fit into a batch with the first."""
    return ImageError(
        f"Image {task.image_id} has shape {list(task.image.shape)}, the first one {list(shape)}. "
        "Resize all to one size (a resolution)."
    )


_END = object()
"""The end of a source of tasks, where None only says that there is none now."""


@dataclass
class _OpenTasks:
    """The unfinished tasks with what each wants, and those that finished."""

    source: Iterator[ImageTask | None]
    targets: Targets
    chunk: int
    in_turn: bool
    exhausted: bool = False
    shape: tuple[int, ...] | None = None
    wanted: dict[ImageTask, Mapping[Stage, int]] = field(default_factory=dict)
    finished: deque[ImageTask] = field(default_factory=deque)

    def ranges(self, room: int) -> list[CopyRange]:
        """Return at most ``room`` copies of the open tasks, and then of new ones.

        In turn: a chunk of each open task, beginning with those that waited longest.
        """
        ranges: list[CopyRange] = []
        turns, idle, more = deque(self.wanted), list[ImageTask](), True
        while room and (turns or more):
            if more and (self.in_turn or not turns):
                task = next(self.source, _END)
                self.exhausted, more = task is _END, False
                if isinstance(task, ImageTask):
                    self.shape = self.shape or task.image.shape
                    if task.image.shape != self.shape:
                        raise other_shape(task, self.shape)
                    self.update(task)
                    turns.extend({task} & self.wanted.keys())
                    more = self.in_turn or len(self.finished) < _FINISHED_AT_ONCE
                continue
            part = turns[0].next_range(self.wanted[turns[0]], room, self.chunk)
            if part is None:
                idle.append(turns.popleft())
                continue
            ranges.append(part)
            room -= len(part.copies)
            if self.in_turn:
                turns.rotate(-1)
        if self.in_turn:
            self.wanted = {task: self.wanted[task] for task in (*turns, *idle)}
        return ranges

    def update(self, task: ImageTask) -> None:
        """Ask the plan what the task wants next, and whether it is finished."""
        wanted = self.targets(task.counts)
        if task.ends_with(wanted):
            self.wanted.pop(task, None)
            self.finished.append(task)
        else:
            self.wanted[task] = wanted
