"""Both schedulers, whatever the order in which answers arrive, against one copy after another."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
from greenlet import getcurrent, greenlet
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from denoised_smoothing.certificates import prediction
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget, fixed
from denoised_smoothing.certificates.prediction import PredictionBudget
from denoised_smoothing.errors import AnswerMissingError
from denoised_smoothing.smoothing import query_scheduler
from denoised_smoothing.smoothing.query_scheduler import schedule_queries
from denoised_smoothing.smoothing.scheduler import (
    BatchRunner,
    CopyRange,
    ImageTask,
    Targets,
    Votes,
    schedule_batches,
)

from ..certificates.samples import setting_of

Counts = Mapping[Stage, LabelCounts]
Copy = tuple[str, Stage, int]
PARAMETERS = setting_of(alpha=0.2)
PLANS = [
    FixedBudget(4, 23),
    FixedBudget(4, 23, two_sided=True),
    FixedBudget(4, 3),
    Anytime((0.05, 0.15), max_n=30, n0=4, every=3, more=5),
    Anytime((0.05, 0.15), max_n=30, n0=0, every=3),
    Anytime((9.0,), max_n=30),
    RadiusTarget(of_n=24, n0=6),
    PredictionBudget(23),
]
LABELS = [(-1,), (0,), (0, 0, 0, 0, 0, 1), (0, 1, -1), (-1, -1, -1, -1, 0)]
"""What the copies of an image are labelled, -1 for no label."""
machine_settings = settings(
    derandomize=True, deadline=None, max_examples=100, stateful_step_count=25
)


@pytest.fixture(scope="module", autouse=True)
def _small_steps_without_waiting() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (fixed, prediction):
            patch.setattr(module, "checkpoint_step", lambda n: min(n, 5))
        patch.setattr(query_scheduler, "GATHER_SECONDS", 0.0)
        patch.setattr(query_scheduler, "REPORT_SECONDS", 0.0)
        yield


class Lockstep:
    """A loop that goes on, up to where it would wait, when the test says so."""

    def __init__(self, loop: Callable[[], None]) -> None:
        self._loop, self.error = greenlet(self._run), None
        self._test, self._inner = getcurrent(), loop

    def _run(self) -> None:
        try:
            self._inner()
        except Exception as error:
            self.error = error

    @property
    def ended(self) -> bool:
        return self._loop.dead

    def step(self) -> None:
        """Let the loop run until it waits for something, or ends."""
        if not self.ended:
            self._loop.switch()

    def wait(self) -> None:
        """Where the loop would wait: return to the test until its next step."""
        self._test.switch()


class Reference:
    """An image whose plan is asked after every copy, as far as its labels are known."""

    def __init__(self, image_id: str, targets: Targets) -> None:
        self.counts: dict[Stage, LabelCounts] = {}
        self.complete = False
        self._image_id, self._targets = image_id, targets

    def advance(self, known: Mapping[Copy, int]) -> None:
        while not self.complete:
            wanted = self._targets(self.counts)
            had = {stage: self.counts[stage].n if stage in self.counts else 0 for stage in wanted}
            stage = next((stage for stage, n in wanted.items() if had[stage] < n), None)
            if stage is None:
                self.complete = True
                break
            label = known.get((self._image_id, stage, had[stage]))
            if label is None:
                break
            one = LabelCounts("run", self._image_id, stage, *votes_of([label]))
            self.counts[stage] = self.counts[stage] + one if had[stage] else one


def votes_of(labels: Sequence[int]) -> tuple[Counter[int], int]:
    votes = Counter(labels)
    return votes, votes.pop(-1, 0)


def not_empty(counts: Counts) -> Counts:
    return {stage: votes for stage, votes in counts.items() if votes.n}


@dataclass(eq=False)
class Source:
    """Tasks that join; the end once it is closed."""

    idle: Callable[[], bool]
    wait: Callable[[], None]
    joined: deque[ImageTask] = field(default_factory=deque)
    closed: bool = False

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> ImageTask | None:
        while not self.joined and not self.closed and self.idle():
            self.wait()
        if self.joined:
            return self.joined.popleft()
        if self.closed:
            raise StopIteration
        return None


class Machine(RuleBasedStateMachine):
    """Images are started, answers arrive and the loop goes on, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, ImageTask] = {}
        self.references: dict[str, Reference] = {}
        self.labels: dict[str, Sequence[int]] = {}
        self.known: dict[Copy, int] = {}  # labels that the loop has received
        self.asked: set[Copy] = set()
        self.yielded: list[str] = []
        self.reported: dict[str, dict[Stage, LabelCounts]] = {}
        self.errors: list[Exception] = []
        self.source = Source(self.is_idle, lambda: self.loop.wait())
        self.loop: Any = None

    def begin(self, plan: Any, schedule: Callable[[Targets], Iterator[ImageTask]]) -> None:
        self.targets: Targets = partial(plan.targets, parameters=PARAMETERS)

        def run() -> None:
            for task in schedule(self.targets):
                assert task.ends_with(self.targets(task.counts))
                self.yielded.append(task.image_id)

        self.loop = Lockstep(run)
        self.loop.step()

    @precondition(lambda self: not self.loop.ended)
    @rule(labels=st.sampled_from(LABELS))
    def start(self, labels: Sequence[int]) -> None:
        name = str(len(self.tasks))
        self.labels[name], self.references[name] = labels, Reference(name, self.targets)
        self.tasks[name] = ImageTask("run", name, np.zeros((1, 2, 2), np.float32))
        self.source.joined.append(self.tasks[name])

    @rule()
    def go_on(self) -> None:
        self.loop.step()
        self.check()

    def label(self, copy: Copy) -> int:
        image_id, stage, number = copy
        return Random(f"{image_id}{stage}{number}").choice(self.labels[image_id])

    def ask(self, ranges: Sequence[CopyRange]) -> list[Copy]:
        copies = [(p.task.image_id, p.stage, n) for p in ranges for n in p.copies]
        for image_id, stage, number in copies:
            assert number < self.targets(self.tasks[image_id].counts)[stage]
        assert self.asked.isdisjoint(copies), "every copy is asked once"
        assert len(set(copies)) == len(copies)
        self.asked.update(copies)
        return copies

    def report(self, tasks: Sequence[ImageTask]) -> None:
        assert tasks
        for task in tasks:
            assert task.image_id not in self.yielded
            self.reported[task.image_id] = dict(task.counts)

    def check(self) -> None:
        """Counts are those of one copy after another, and complete images are yielded once."""
        if self.loop.error is not None:
            assert self.loop.error in self.errors
        for name, reference in self.references.items():
            reference.advance(self.known)
            assert not_empty(self.tasks[name].counts) == not_empty(reference.counts)
            assert not_empty(self.reported.get(name, {})) == not_empty(reference.counts)
            started = self.tasks[name] not in self.source.joined
            assert self.yielded.count(name) <= (reference.complete and started)
            if reference.complete and self.known.keys() & {(name, s, 0) for s in Stage}:
                assert self.yielded.count(name) == 1

    def teardown(self) -> None:
        """All the rest is answered: then nothing is left, except what lacks an answer."""
        if self.loop is None:
            return
        self.source.closed = True
        self.go_on()
        while self.answer_all() or not self.loop.ended:
            self.go_on()
        if self.errors:
            assert self.loop.error in self.errors
            return
        complete = [name for name, reference in self.references.items() if reference.complete]
        assert sorted(self.yielded) == sorted(complete)
        assert self.may_lack_answers or len(complete) == len(self.tasks)

    may_lack_answers = False

    @abstractmethod
    def is_idle(self) -> bool:
        """Return whether nothing is in flight."""

    @abstractmethod
    def answer_all(self) -> bool:
        """Answer all in flight; return whether there was something."""


class Inbox(deque[Any]):
    """A queue whose reader waits in lockstep."""

    waiting: Callable[[], None]

    put = deque.append

    def empty(self) -> bool:
        return not self

    def get(self) -> Any:
        while not self:
            Inbox.waiting()
        return self.popleft()


@dataclass
class Dispatcher(query_scheduler._Dispatcher):
    _arrived: Any = field(default_factory=Inbox)


class Queries(Machine):
    """Single queries: answers with a label, without one, missing ones and errors."""

    @initialize(
        plan=st.sampled_from(PLANS), chunk=st.integers(1, 9), forward=st.integers(1, 5),
        more=st.integers(0, 40), images=st.lists(st.sampled_from(LABELS), min_size=1, max_size=4),
    )  # fmt: skip
    def begins(
        self, plan: Any, chunk: int, forward: int, more: int, images: list[Sequence[int]]
    ) -> None:
        self.in_flight: dict[Copy, Future[int]] = {}
        self.most = forward + more
        Inbox.waiting = staticmethod(lambda: self.loop.wait())
        self.targets = partial(plan.targets, parameters=PARAMETERS)
        for labels in images:
            self.start(labels)
        self.source.closed = True
        self.begin(
            plan,
            lambda targets: schedule_queries(
                self.source, targets, self.send, chunk=chunk, forward=forward, capacity=more,
                on_batch=self.report,
            ),
        )  # fmt: skip

    def send(self, ranges: Sequence[CopyRange]) -> list[list[Future[int]]]:
        assert not self.errors or not self.seen_error, "nothing is sent after an error"
        copies = iter(self.ask(ranges))
        answers = [[(next(copies), Future[int]()) for _ in part.copies] for part in ranges]
        for pairs in answers:
            self.in_flight.update(pairs)
        assert len(self.in_flight) <= self.most
        return [[future for _, future in pairs] for pairs in answers]

    seen_error = False

    def is_idle(self) -> bool:
        return not self.in_flight

    @precondition(lambda self: self.in_flight)
    @rule(chosen=st.data(), failed=st.booleans())
    def one_arrives(self, chosen: st.DataObject, failed: bool) -> None:
        copy = chosen.draw(st.sampled_from(list(self.in_flight)))
        self.known[copy] = -1 if failed else self.label(copy)
        self.in_flight.pop(copy).set_result(self.known[copy])

    @precondition(lambda self: self.in_flight)
    @rule(order=st.randoms(use_true_random=False), share=st.floats(0.0, 1.0))
    def many_arrive(self, order: Random, share: float) -> None:
        copies = list(self.in_flight)
        order.shuffle(copies)
        for copy in copies[: round(share * len(copies))]:
            self.known[copy] = self.label(copy)
            self.in_flight.pop(copy).set_result(self.known[copy])

    @precondition(lambda self: self.in_flight and len(self.known) % 5 == 4)
    @rule(chosen=st.data())
    def one_is_missing(self, chosen: st.DataObject) -> None:
        self.may_lack_answers = True
        copy = chosen.draw(st.sampled_from(list(self.in_flight)))
        self.in_flight.pop(copy).set_exception(AnswerMissingError("not in the log"))

    @precondition(lambda self: self.in_flight and len(self.known) % 7 == 6)
    @rule(chosen=st.data())
    def one_fails(self, chosen: st.DataObject) -> None:
        copy = chosen.draw(st.sampled_from(list(self.in_flight)))
        self.errors.append(OSError(f"no answer for {copy}"))
        self.in_flight.pop(copy).set_exception(self.errors[-1])

    def answer_all(self) -> bool:
        copies = list(self.in_flight)
        self.many_arrive(Random(0), 1.0)
        return bool(copies)

    @rule()
    def go_on(self) -> None:
        self.seen_error = bool(self.errors)
        super().go_on()


class Pending(Future[Votes]):
    """A batch whose reader waits in lockstep."""

    def __init__(self, machine: Batches, copies: Sequence[Copy], sizes: Sequence[int]) -> None:
        super().__init__()
        self.machine, self.copies, self.sizes = machine, copies, sizes

    def arrive(self) -> None:
        labels = iter([self.machine.label(copy) for copy in self.copies])
        self.set_result([votes_of([next(labels) for _ in range(size)]) for size in self.sizes])

    def result(self, timeout: float | None = None) -> Votes:
        while not self.done():
            self.machine.loop.wait()
        self.machine.batches.remove(self)
        if self.exception() is None:
            self.machine.known |= {copy: self.machine.label(copy) for copy in self.copies}
        return super().result()


class Batches(Machine):
    """Batches, in turn or not, with images that join later."""

    @initialize(
        plan=st.sampled_from(PLANS), chunk=st.integers(1, 9), batch=st.integers(1, 12),
        in_flight=st.tuples(st.integers(1, 3), st.integers(1, 6)), in_turn=st.booleans(),
    )  # fmt: skip
    def begins(
        self, plan: Any, chunk: int, batch: int, in_flight: tuple[int, int], in_turn: bool
    ) -> None:
        self.batches: list[Pending] = []
        self.batch, self.most = batch, in_flight[1]
        runner = BatchRunner(self.submit, batch, *in_flight)
        self.begin(
            plan,
            lambda targets: schedule_batches(
                self.source, targets, runner, chunk=chunk, in_turn=in_turn, on_batch=self.report
            ),
        )

    def submit(self, ranges: Sequence[CopyRange]) -> Future[Votes]:
        self.batches.append(Pending(self, self.ask(ranges), [len(p.copies) for p in ranges]))
        assert 0 < sum(self.batches[-1].sizes) <= self.batch
        assert len(self.batches) <= self.most
        return self.batches[-1]

    def is_idle(self) -> bool:
        return not self.batches

    @property
    def in_flight(self) -> list[Pending]:
        return [batch for batch in self.batches if not batch.done()]

    @precondition(lambda self: self.in_flight)
    @rule(chosen=st.data())
    def one_arrives(self, chosen: st.DataObject) -> None:
        chosen.draw(st.sampled_from(self.in_flight)).arrive()

    @precondition(lambda self: self.in_flight and len(self.asked) % 5 == 4)
    @rule(chosen=st.data())
    def one_fails(self, chosen: st.DataObject) -> None:
        self.errors.append(OSError("a worker was lost"))
        chosen.draw(st.sampled_from(self.in_flight)).set_exception(self.errors[-1])

    def answer_all(self) -> bool:
        batches = self.in_flight
        for batch in batches:
            batch.arrive()
        return bool(batches)


@pytest.fixture(scope="module", autouse=True)
def _dispatch_in_lockstep() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query_scheduler, "_Dispatcher", Dispatcher)
        yield


class TestQueries(Queries.TestCase):
    settings = machine_settings


class TestBatches(Batches.TestCase):
    settings = machine_settings
