"""The loop that spends copies one by one, many on their way at once: for answers that are bought.

Like :func:`~denoised_smoothing.smoothing.scheduler.spend`, but nothing waits for a batch to end.
Answers come in any order. Votes are added in the order of the copies, so a plan always sees the
first N copies of a stage, whichever failed or are late.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from queue import SimpleQueue

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import AnswerMissingError
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask, Targets

ASK_EVERY = 10
"""A plan is asked after so many copies, or when all that it wanted are there."""
GATHER_SECONDS = 0.01
"""Answers are counted about so often."""
TELL_SECONDS = 0.05
"""Listeners hear of votes about so often."""

Ask = Callable[[Sequence[CopyRange]], Sequence[Sequence[Future[int]]]]
"""From parts to the future labels of their copies, -1 for no class."""


@dataclass(eq=False)
class _OpenImage:
    """An image whose copies are on their way: futures by stage, in the order of the copies."""

    task: ImageTask
    wanted: Mapping[Stage, int]
    futures: dict[Stage, deque[Future[int]]] = field(default_factory=dict)
    given_up: bool = False
    """An answer is missing, which only stops this image."""
    unasked: int = 0
    """Copies counted since the plan was asked."""

    @property
    def waiting(self) -> bool:
        return any(self.futures.values())

    def collect(self) -> int:
        """Count what has come in without a gap; returns how many copies."""
        counted = 0
        for stage, futures in self.futures.items():
            votes: Counter[int] = Counter()
            while futures and futures[0].done() and futures[0].exception() is None:
                votes[futures.popleft().result()] += 1
            if votes:
                failed = votes.pop(-1, 0)
                counts = [votes[label] for label in range(max(votes, default=-1) + 1)]
                self.task.add(stage, counts, failed)
                counted += sum(counts) + failed
        self.unasked += counted
        return counted


class _Dispatcher:
    def __init__(
        self,
        tasks: Iterable[ImageTask],
        targets: Targets,
        ask: Ask,
        chunk: int,
        forward: int,
        room: int,
    ) -> None:
        self._source, self._targets, self._ask = iter(tasks), targets, ask
        self._chunk, self._forward, self._room = chunk, forward, room
        self.lines: list[_OpenImage] = []
        self.on_way = 0
        self.failure: BaseException | None = None
        self._arrived: SimpleQueue[tuple[_OpenImage, Future[int]]] = SimpleQueue()
        self._received = 0.0

    def send(self) -> None:
        """Ask for copies until there is no room, or none is wanted.

        Whole forward passes at a time: a pass for one copy costs as much, and so does its noise.
        """
        while self._room - self.on_way >= self._forward and (batch := self._gather()):
            asked = self._ask([part for _, part in batch])
            for (line, part), futures in zip(batch, asked, strict=True):
                self.on_way += len(futures)
                line.futures.setdefault(part.stage, deque()).extend(futures)
                for future in futures:
                    future.add_done_callback(partial(self._arrive, line))

    def _arrive(self, line: _OpenImage, answer: Future[int]) -> None:
        self._arrived.put((line, answer))

    def receive(self) -> dict[_OpenImage, None]:
        """Wait for an answer; lines with answers. Notes what stops everything."""
        arrived = [self._arrived.get()]
        time.sleep(max(0.0, self._received + GATHER_SECONDS - time.monotonic()))
        while not self._arrived.empty():
            arrived.append(self._arrived.get())
        self._received = time.monotonic()
        self.on_way -= len(arrived)
        for line, answer in arrived:
            if (error := answer.exception()) is not None:
                line.given_up = True
                if not isinstance(error, AnswerMissingError):
                    self.failure = self.failure or error
        return dict.fromkeys(line for line, _ in arrived)

    def finished(self, line: _OpenImage) -> bool:
        """Whether a line has all that its plan wants, which is asked now and then."""
        if line.unasked < ASK_EVERY and not line.task.ends_with(line.wanted):
            return False
        line.wanted, line.unasked = self._targets(line.task.counts), 0
        return line.task.ends_with(line.wanted)

    def _gather(self) -> list[tuple[_OpenImage, CopyRange]]:
        batch: list[tuple[_OpenImage, CopyRange]] = []
        room = self._forward
        for line in chain(list(self.lines), self._new()):
            while room and not line.given_up:
                part = line.task.next_part(line.wanted, room, self._chunk)
                if part is None:
                    break
                batch.append((line, part))
                room -= part.size
            if not room:
                break
        return batch

    def _new(self) -> Iterator[_OpenImage]:
        for task in self._source:
            line = _OpenImage(task, self._targets(task.counts))
            self.lines.append(line)
            yield line


def schedule_queries(
    tasks: Iterable[ImageTask],
    targets: Targets,
    ask: Ask,
    *,
    chunk: int,
    forward: int,
    room: int,
    on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
) -> Iterator[ImageTask]:
    """Have copies answered until every task has what its plan wants; yields tasks as they finish.

    No copy is asked for that the plan does not want. A task with a copy that has no stored
    answer, where none may be bought (:class:`AnswerMissingError`), is left unfinished.

    Args:
        tasks: taken one by one as they are needed.
        targets: the plan's.
        ask: makes copies and has them classified.
        chunk: copies of a chunk of noise; a part never spans two.
        forward: the most copies handed to ``ask`` at once.
        room: copies on their way at once, and up to ``forward`` more.
        on_batch: called now and then with the tasks that got votes, and at the end.

    Raises:
        Exception: that of an answer, once all on their way are in and counted as far as they go.
    """
    loop = _Dispatcher(tasks, targets, ask, chunk, forward, room + forward)
    told = _ProgressThrottle(on_batch)
    while True:
        began = time.perf_counter()
        if loop.failure is None:
            loop.send()
        # A task may want nothing at all from the start.
        for line in [line for line in loop.lines if not line.waiting]:
            if loop.finished(line):
                loop.lines.remove(line)
                told.now()
                yield line.task
        if not loop.on_way:
            break
        arrived = loop.receive()
        counted = {line: line.collect() for line in arrived}
        seconds, copies = time.perf_counter() - began, sum(counted.values())
        for line, count in counted.items():
            line.task.seconds += seconds * count / max(copies, 1)
        told.later(line.task for line, count in counted.items() if count)
        for line, count in counted.items():
            if count and loop.finished(line):
                loop.lines.remove(line)
                told.now()
                yield line.task
    told.now()
    if loop.failure is not None:
        raise loop.failure


class _ProgressThrottle:
    """Tells a listener of tasks with new votes, not of every single one."""

    def __init__(self, listener: Callable[[Sequence[ImageTask]], None] | None) -> None:
        self._listener = listener
        self._tasks: dict[ImageTask, None] = {}
        self._last = time.perf_counter()

    def later(self, tasks: Iterable[ImageTask]) -> None:
        self._tasks.update(dict.fromkeys(tasks))
        if time.perf_counter() - self._last >= TELL_SECONDS:
            self.now()

    def now(self) -> None:
        if self._listener is not None and self._tasks:
            self._listener(list(self._tasks))
        self._tasks, self._last = {}, time.perf_counter()
