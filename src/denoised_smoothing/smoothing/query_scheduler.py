"""The loop that schedules single queries, many in flight at once: for a remote classifier.

Like :func:`~denoised_smoothing.smoothing.scheduler.schedule_batches`, but nothing waits for a
batch to end. Answers come in any order and are counted in the order of the copies, as that
contract says. Paid answers that are not counted are in the query log and the spending, too.
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

import torch

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.engines.choice import EngineChoice
from denoised_smoothing.errors import AnswerMissingError
from denoised_smoothing.remote.protocol import CopySession
from denoised_smoothing.remote.records import CopyKey
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask, Targets, other_shape
from denoised_smoothing.smoothing.votes import Seed, VoteCounter

ASK_EVERY = 10
"""Copies after which a plan is asked again; also when it has all that it wanted."""
GATHER_SECONDS = 0.01
"""Seconds between two countings of answers."""
REPORT_SECONDS = 0.05
"""Seconds between two calls of a listener."""

Ask = Callable[[Sequence[CopyRange]], Sequence[Sequence[Future[int]]]]
"""From copy ranges to the future labels of their copies, -1 for no class."""


def count_by_queries(
    tasks: Iterable[ImageTask],
    targets: Targets,
    counter: VoteCounter,
    choice: EngineChoice | None,
    seed: Seed,
    session: CopySession,
    *,
    chunk: int,
    on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
) -> Iterator[ImageTask]:
    """Count until each task has its targets, by a classifier that answers single queries.

    Args:
        tasks, targets, chunk, on_batch: as of :func:`schedule_queries`.
        counter, seed: draw the copies.
        choice: the engine that denoises them; None where the classifier sees the noisy copies.
        session: an open session of the classifier.
    """
    threads = torch.get_num_threads()
    if choice is None:  # sharing the work takes longer than one thread needs for the noise
        torch.set_num_threads(1)
    ask = partial(_ask, session, counter, choice, seed)
    forward = chunk if choice is None else choice.forward
    try:
        yield from schedule_queries(
            tasks, targets, ask, chunk=chunk, forward=forward, capacity=session.capacity,
            on_batch=on_batch,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)


def _ask(
    session: CopySession,
    counter: VoteCounter,
    choice: EngineChoice | None,
    seed: Seed,
    ranges: Sequence[CopyRange],
) -> list[list[Future[int]]]:
    """Have the copies of each range classified one by one; known answers need no copy."""
    keys = [[CopyKey(part.task.image_id, part.stage, n) for n in part.copies] for part in ranges]
    known = [[session.known(key) for key in of_part] for of_part in keys]
    incomplete = [part for part, answers in zip(ranges, known, strict=True) if None in answers]
    copies = iter(counter.pixels(incomplete, choice, seed) if incomplete else ())
    asked: list[list[Future[int]]] = []
    for of_part, answers in zip(keys, known, strict=True):
        missing = [i for i, answer in enumerate(answers) if answer is None]
        new: Iterator[Future[int]] = iter(())
        if missing:
            new = iter(session.ask([of_part[i] for i in missing], next(copies)[missing]))
        asked.append([answer or next(new) for answer in answers])
    return asked


def schedule_queries(
    tasks: Iterable[ImageTask],
    targets: Targets,
    ask: Ask,
    *,
    chunk: int,
    forward: int,
    capacity: int,
    on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
) -> Iterator[ImageTask]:
    """Have copies classified until every task has what its plan wants; yield tasks as they finish.

    No copy is sent that the plan does not want. A task is left unfinished if one of its copies
    has no stored answer and none may be paid for (:class:`AnswerMissingError`).

    Args:
        tasks: taken one by one as they are needed.
        targets: the plan's.
        ask: makes copies and has them classified.
        chunk: copies of a chunk of noise; a copy range never spans two.
        forward: maximum number of copies handed to ``ask`` at once.
        capacity: copies in flight at once, and up to ``forward`` more.
        on_batch: called now and then with the tasks that got votes, and at the end.

    Raises:
        Exception: that of an answer or of ``ask``, after all in flight came back and were counted.
    """
    loop = _Dispatcher(iter(tasks), targets, ask, chunk, forward, capacity + forward)
    new: dict[ImageTask, None] = {}  # tasks with votes that were not reported
    reported = time.perf_counter()
    while True:
        began = time.perf_counter()
        if loop.failure is None:
            try:
                loop.send()
            except Exception as error:  # of the denoiser: answers in flight are paid for
                loop.failure = error
        pending = loop.in_flight > 0
        counted = {image: image.collect() for image in loop.receive()} if pending else {}
        now, copies = time.perf_counter(), sum(counted.values())
        for image, count in counted.items():
            image.task.seconds += (now - began) * count / max(copies, 1)
            if count:
                new[image.task] = None
        # A task may want nothing at all from the start.
        ended = [image.task for image in list(loop.images) if loop.finished(image)]
        if new and (ended or not pending or now - reported >= REPORT_SECONDS):
            if on_batch is not None:
                on_batch(list(new))
            new, reported = {}, time.perf_counter()
        yield from ended
        if not pending and not ended:
            break
    if loop.failure is not None:
        raise loop.failure


@dataclass(eq=False)
class _OpenImage:
    """An image with copies in flight: futures by stage, in the order of the copies."""

    task: ImageTask
    targets: Targets
    wanted: Mapping[Stage, int]
    futures: dict[Stage, deque[Future[int]]] = field(default_factory=dict)
    given_up: bool = False
    """An answer is missing, which only stops this image."""
    new: int = 0
    """Copies counted since the plan was asked."""

    def collect(self) -> int:
        """Count the answers up to the first that is missing; return how many."""
        before = self.task.calls
        while (stage := self.task.next_stage(self.wanted)) is not None:
            futures, votes = self.futures.get(stage, ()), Counter[int]()
            while futures and futures[0].done() and futures[0].exception() is None:
                votes[futures.popleft().result()] += 1
            if not votes:
                break
            self.new += votes.total()
            failed = votes.pop(-1, 0)
            self.task.add(stage, votes, failed)
            if self.new >= ASK_EVERY or self.task.next_stage(self.wanted) is not stage:
                self.wanted, self.new = self.targets(self.task.counts), 0
        return self.task.calls - before


@dataclass
class _Dispatcher:
    """Sends copies of open images and receives their answers."""

    source: Iterator[ImageTask]
    targets: Targets
    ask: Ask
    chunk: int
    forward: int
    capacity: int
    images: list[_OpenImage] = field(default_factory=list)
    in_flight: int = 0
    failure: BaseException | None = None
    shape: tuple[int, ...] | None = None
    _arrived: SimpleQueue[tuple[_OpenImage, Future[int]]] = field(default_factory=SimpleQueue)
    _received: float = 0.0

    def send(self) -> None:
        """Ask for copies until the capacity is used, or none is wanted.

        Whole forward passes at a time: a pass for one copy costs as much, and so does its noise.
        """
        while self.capacity - self.in_flight >= self.forward and (batch := self._gather()):
            asked = self.ask([part for _, part in batch])
            for (image, part), futures in zip(batch, asked, strict=True):
                self.in_flight += len(futures)
                image.futures.setdefault(part.stage, deque()).extend(futures)
                for future in futures:
                    future.add_done_callback(partial(self._arrive, image))

    def _arrive(self, image: _OpenImage, answer: Future[int]) -> None:
        self._arrived.put((image, answer))

    def receive(self) -> dict[_OpenImage, None]:
        """Wait for an answer; return the images with answers. Note what stops everything."""
        arrived = [self._arrived.get()]
        time.sleep(max(0.0, self._received + GATHER_SECONDS - time.monotonic()))
        while not self._arrived.empty():
            arrived.append(self._arrived.get())
        self._received = time.monotonic()
        self.in_flight -= len(arrived)
        for image, answer in arrived:
            if (error := answer.exception()) is not None:
                image.given_up = True
                if not isinstance(error, AnswerMissingError):
                    self.failure = self.failure or error
        return dict.fromkeys(image for image, _ in arrived)

    def finished(self, image: _OpenImage) -> bool:
        """Return whether an image has all copies wanted; then it is not open any more."""
        ends = image.task.ends_with(image.wanted)
        if ends:
            self.images.remove(image)
        return ends

    def _gather(self) -> list[tuple[_OpenImage, CopyRange]]:
        batch: list[tuple[_OpenImage, CopyRange]] = []
        room = self.forward
        for image in chain(list(self.images), self._new()):
            while room and not image.given_up:
                part = image.task.next_range(image.wanted, room, self.chunk)
                if part is None:
                    break
                batch.append((image, part))
                room -= len(part.copies)
            if not room:
                break
        return batch

    def _new(self) -> Iterator[_OpenImage]:
        for task in self.source:
            self.shape = self.shape or task.image.shape
            if task.image.shape != self.shape:
                raise other_shape(task, self.shape)
            image = _OpenImage(task, self.targets, self.targets(task.counts))
            self.images.append(image)
            yield image
