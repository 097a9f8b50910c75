"""The one loop that spends noisy copies: which image gets which copies next.

It asks the sampling plan of every unfinished image for its targets, fills batches with copies
of several images, adds the votes as they come back and ends an image when its plan says so.
Who calls it chooses how votes are drawn and what happens to a finished batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.counts import LabelCounts, Stage

BATCH_SECONDS = 0.5
"""A batch is kept to about this long, so that a killed run loses little."""

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

    def next_part(self, targets: Mapping[Stage, int], room: int, chunk: int) -> Part | None:
        """The next copies that are wanted, at most ``room`` and of one chunk of noise."""
        for stage, target in targets.items():
            start = self.issued.get(stage, 0)
            if start < target:
                stop = min(target, (start // chunk + 1) * chunk, start + room)
                self.issued[stage] = stop
                return Part(self, stage, start, stop)
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
class Part:
    """Copies ``start`` to ``stop`` of one stage of one image."""

    task: ImageTask
    stage: Stage
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of copies."""
        return self.stop - self.start


Draw = Callable[[Sequence[Part]], Sequence[tuple[Sequence[int], int]]]
"""From parts to the votes of each: copies a label, and copies without a label."""


def spend(
    tasks: Iterable[ImageTask],
    targets: Targets,
    draw: Draw,
    *,
    chunk: int,
    forward: int,
    batch_size: int,
    on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
) -> Iterator[ImageTask]:
    """Draw copies until every task has what its plan wants; yields tasks as they finish.

    Args:
        tasks: taken one by one as they are needed, so that memory does not grow with them.
        targets: the plan's.
        draw: makes, classifies and counts copies.
        chunk: copies of a chunk of noise; a part never spans two.
        forward: copies of a forward pass; batches are whole multiples of it.
        batch_size: the most copies in a batch.
        on_batch: called after each batch with the tasks that got votes.
    """
    source, active, rate = iter(tasks), list[ImageTask](), 0.0
    while True:
        passes = min(batch_size, int(rate * BATCH_SECONDS)) // forward
        batch = _gather(active, source, targets, chunk, room=max(1, passes) * forward)
        began = time.perf_counter()
        votes = draw(batch) if batch else []
        seconds = time.perf_counter() - began
        copies = sum(part.size for part in batch)
        rate = copies / max(seconds, 1e-6)
        for part, (counts, failed) in zip(batch, votes, strict=True):
            part.task.add(part.stage, counts, failed)
            part.task.seconds += seconds * part.size / copies
        if on_batch is not None and batch:
            on_batch(list(dict.fromkeys(part.task for part in batch)))
        finished = [task for task in active if task.ends_with(targets(task.counts))]
        active = [task for task in active if task not in finished]
        yield from finished
        if not batch:
            return


def _gather(
    active: list[ImageTask], source: Iterator[ImageTask], targets: Targets, chunk: int, room: int
) -> list[Part]:
    """Parts of the active tasks, then of new ones, until there is no room left."""
    batch: list[Part] = []
    for task in chain(list(active), _activated(source, active)):
        wanted = targets(task.counts)
        while room and (part := task.next_part(wanted, room, chunk)):
            batch.append(part)
            room -= part.size
        if not room:
            break
    return batch


def _activated(source: Iterator[ImageTask], active: list[ImageTask]) -> Iterator[ImageTask]:
    for task in source:
        active.append(task)
        yield task
