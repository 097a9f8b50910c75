"""scheduler.py, with votes that are known in advance instead of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.smoothing import scheduler as scheduling
from denoised_smoothing.smoothing.scheduler import BatchRunner, CopyRange, ImageTask, Targets, Votes

IMAGE = np.zeros((1, 2, 2), np.float32)
CLASSES = 3
Counts = dict[Stage, LabelCounts]
Copy = tuple[str, Stage, int]
reproducible = settings(derandomize=True, deadline=None, max_examples=150)
sizes = {
    "chunk": st.integers(1, 12),
    "batch": st.integers(1, 40),
    "min_in_flight": st.integers(1, 3),
    "max_in_flight": st.integers(1, 6),
}


def vote(image_id: str, stage: Stage, number: int) -> int:
    """The label of a copy, which depends on nothing else; -1 for some."""
    return (7 * number + 3 * len(stage) + 5 * int(image_id)) % (CLASSES + 1) - 1


def counts_of(image_id: str, **copies: int) -> Counts:
    """Counts of the first copies of each stage."""
    counts = {}
    for name, n in copies.items():
        stage = Stage(name)
        votes = Counter(vote(image_id, stage, number) for number in range(n))
        by_label = tuple(votes[label] for label in range(CLASSES))
        counts[stage] = LabelCounts("run", image_id, stage, by_label, votes[-1])
    return counts


def task_of(image_id: str, **copies: int) -> ImageTask:
    return ImageTask("run", image_id, IMAGE, counts_of(image_id, **copies))


@dataclass
class FakeDraw:
    """Votes of copies; records the batches. Takes ``pace`` seconds a copy of its own clock."""

    pace: float = 0.0
    now: float = 0.0
    batches: list[list[CopyRange]] = field(default_factory=list)

    def __call__(self, parts: Sequence[CopyRange]) -> Future[Votes]:
        future: Future[Votes] = Future()
        future.set_result(self.votes(parts))
        return future

    def votes(self, parts: Sequence[CopyRange]) -> Votes:
        assert parts, "drawing nothing is no work"
        self.batches.append(list(parts))
        self.now += self.pace * self.sizes[-1]
        answer = []
        for part in parts:
            votes = Counter(vote(part.task.image_id, part.stage, number) for number in part.copies)
            failed = votes.pop(-1, 0)
            answer.append((votes, failed))
        return answer

    @property
    def sizes(self) -> list[int]:
        return [sum(len(part.copies) for part in batch) for batch in self.batches]

    @property
    def copies(self) -> list[Copy]:
        return [
            (part.task.image_id, part.stage, number)
            for batch in self.batches
            for part in batch
            for number in part.copies
        ]

    def images(self, batch: int) -> list[str]:
        return [part.task.image_id for part in self.batches[batch]]


def always(n0: int, n: int) -> Targets:
    """The targets of a plan that draws so many copies whatever their labels."""
    return lambda counts: {Stage.SELECTION: n0, Stage.ESTIMATION: n}


def spend(
    tasks: Iterable[ImageTask], targets: Targets, submit: Any, *, chunk: int, **options: Any
) -> Iterator[ImageTask]:
    passed = {name: options.pop(name) for name in ("on_batch", "in_turn") if name in options}
    return scheduling.schedule_batches(
        tasks, targets, BatchRunner(submit, **options), chunk=chunk, **passed
    )


def run(
    tasks: Iterable[ImageTask], draw: FakeDraw, n0: int = 5, n: int = 20, **options: Any
) -> list[ImageTask]:
    options = {"chunk": 10, "batch": 16, **options}
    return list(spend(tasks, always(n0, n), draw, **options))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeDraw:
    """A draw whose clock is the scheduler's."""
    draw = FakeDraw(pace=0.01)
    clock = SimpleNamespace(perf_counter=lambda: draw.now)
    monkeypatch.setattr(scheduling, "time", clock)
    return draw


class TestEveryCopyIsCountedOnce:
    @reproducible
    @given(images=st.integers(1, 5), n0=st.integers(1, 15), n=st.integers(1, 50), **sizes)
    def test_whatever_the_sizes(self, images: int, n0: int, n: int, **options: int) -> None:
        draw = FakeDraw()
        done = run((task_of(str(i)) for i in range(images)), draw, n0, n, **options)
        stages = {Stage.SELECTION: n0, Stage.ESTIMATION: n}
        assert Counter(draw.copies) == Counter(
            (str(i), stage, number)
            for i in range(images)
            for stage, copies in stages.items()
            for number in range(copies)
        )
        assert [task.counts for task in done] == [
            counts_of(str(i), selection=n0, estimation=n) for i in range(images)
        ]
        assert {task.calls for task in done} == {n0 + n}

    @reproducible
    @given(
        images=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 35)), min_size=1, max_size=5),
        **sizes,
    )
    def test_resumed_from_any_counts(self, images: list[tuple[int, int]], **options: int) -> None:
        draw = FakeDraw()
        tasks = [
            task_of(str(i), selection=had[0], estimation=had[1]) for i, had in enumerate(images)
        ]
        done = run(tasks, draw, n0=9, n=35, **options)
        assert {task.image_id: task.counts for task in done} == {
            str(i): counts_of(str(i), selection=9, estimation=35) for i in range(len(images))
        }
        assert len(draw.copies) == sum(9 - n0 + 35 - n for n0, n in images)
        assert len(set(draw.copies)) == len(draw.copies)

    @pytest.mark.parametrize("killed_after", range(1, 8))
    def test_a_killed_run_goes_on_from_its_finished_batches(self, killed_after: int) -> None:
        stored: dict[str, Counts] = {}
        batches = 0

        def save(tasks: Sequence[ImageTask]) -> None:
            nonlocal batches
            stored.update({task.image_id: dict(task.counts) for task in tasks})
            batches += 1
            if batches == killed_after:
                raise KeyboardInterrupt

        options = {"chunk": 10, "batch": 8}
        with pytest.raises(KeyboardInterrupt):
            run([task_of(str(i)) for i in range(3)], FakeDraw(), **options, on_batch=save)
        resumed = [ImageTask("run", str(i), IMAGE, stored.get(str(i), {})) for i in range(3)]
        done = run(resumed, FakeDraw(), **options)
        assert {task.image_id: task.counts for task in done} == {
            str(i): counts_of(str(i), selection=5, estimation=20) for i in range(3)
        }

    @reproducible
    @given(**sizes)
    def test_of_a_plan_whose_targets_grow(self, **options: int) -> None:
        def targets(counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
            """10 copies, and 10 more whenever they are there, until 12 are labelled 0."""
            had = counts.get(Stage.ESTIMATION, LabelCounts("run", "0", Stage.ESTIMATION))
            return {Stage.ESTIMATION: had.n if had.of(0) >= 12 else (had.n // 10 + 1) * 10}

        def until_enough() -> int:
            labels = [vote("0", Stage.ESTIMATION, number) for number in range(100)]
            return next(n for n in range(10, 100, 10) if labels[:n].count(0) >= 12)

        draw = FakeDraw()
        options["chunk"], options["batch"] = 10, 10  # the plan looks at whole tens
        [task] = spend([ImageTask("run", "0", IMAGE)], targets, draw, **options)
        assert task.counts == counts_of("0", estimation=until_enough())
        assert draw.copies == [("0", Stage.ESTIMATION, number) for number in range(task.calls)]

    def test_a_finished_task_is_yielded_without_drawing(self) -> None:
        draw = FakeDraw()
        finished, fresh = task_of("0", selection=5, estimation=20), task_of("1")
        assert run([finished, fresh], draw) == [finished, fresh]
        assert {image_id for image_id, *_ in draw.copies} == {"1"}

    def test_a_stage_of_which_nothing_is_wanted_ends_with_empty_counts(self) -> None:
        draw = FakeDraw()
        [task] = run([ImageTask("run", "0", IMAGE)], draw, n0=0, n=0)
        assert task.counts == {
            stage: LabelCounts("run", "0", stage) for stage in (Stage.SELECTION, Stage.ESTIMATION)
        }
        assert (task.calls, draw.batches) == (0, [])

    def test_no_tasks_are_no_work(self) -> None:
        draw = FakeDraw()
        assert run([], draw) == []
        assert draw.batches == []


class TestBatches:
    @reproducible
    @given(images=st.integers(1, 5), n0=st.integers(1, 15), n=st.integers(1, 50), **sizes)
    def test_are_full_but_for_the_last_when_one_is_on_its_way_at_a_time(
        self, images: int, n0: int, n: int, **options: int
    ) -> None:
        draw = FakeDraw()
        options |= {"max_in_flight": 1, "min_in_flight": 1}
        run([task_of(str(i)) for i in range(images)], draw, n0, n, **options)
        assert set(draw.sizes[:-1]) <= {options["batch"]}
        assert draw.sizes[-1] <= options["batch"]

    @reproducible
    @given(n=st.integers(1, 50), **sizes)
    def test_a_part_never_spans_two_chunks(self, n: int, **options: int) -> None:
        draw = FakeDraw()
        run([task_of("0"), task_of("1")], draw, n=n, **options)
        for part in (part for batch in draw.batches for part in batch):
            first, last = part.copies[0], part.copies[-1]
            assert first // options["chunk"] == last // options["chunk"]

    def test_are_shared_by_several_images(self) -> None:
        draw = FakeDraw()
        run([task_of(str(i)) for i in range(4)], draw, n0=2, n=8, batch=20)
        assert [set(draw.images(batch)) for batch in range(2)] == [{"0", "1"}, {"2", "3"}]

    def test_seconds_are_shared_by_copies(self, clock: FakeDraw) -> None:
        tasks = run([task_of("0"), task_of("1", selection=5, estimation=10)], clock)
        assert [task.seconds for task in tasks] == pytest.approx([25 * 0.01, 10 * 0.01])


class TestTasks:
    def test_are_pulled_only_when_there_is_room(self) -> None:
        pulled: list[str] = []

        def source() -> Iterator[ImageTask]:
            for i in range(100):
                pulled.append(str(i))
                yield task_of(str(i))

        draw = FakeDraw()
        going = spend(source(), always(5, 20), draw, chunk=10, batch=8)
        assert pulled == []
        for done in range(1, 5):
            assert next(going).image_id == str(done - 1)
            assert len(pulled) == len({image_id for image_id, *_ in draw.copies}) <= done + 1

    def test_finish_in_the_order_in_which_they_come(self) -> None:
        done = run([task_of(str(i)) for i in (3, 1, 2)], FakeDraw(), batch=40)
        assert [task.image_id for task in done] == ["3", "1", "2"]

    def test_of_a_batch_are_told_once_each_with_their_new_counts(self) -> None:
        draw, told = FakeDraw(), []

        def listen(tasks: Sequence[ImageTask]) -> None:
            assert [task.image_id for task in tasks] == list(
                dict.fromkeys(draw.images(len(draw.batches) - 1))
            )
            told.append({task.image_id: task.calls for task in tasks})

        run([task_of(str(i)) for i in range(3)], draw, on_batch=listen)
        assert len(told) == len(draw.batches)
        for number, calls in enumerate(told):
            so_far = FakeDraw(batches=draw.batches[: number + 1])
            counted = Counter(image_id for image_id, *_ in so_far.copies)
            assert calls == {image_id: counted[image_id] for image_id in calls}

    def test_that_got_nothing_from_a_batch_are_not_told(self) -> None:
        told: list[str] = []

        def targets(counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
            return {Stage.ESTIMATION: 12 if counts else 2}

        def listen(tasks: Sequence[ImageTask]) -> None:
            told.append("".join(task.image_id for task in tasks))

        tasks = [ImageTask("run", name, IMAGE) for name in "01"]
        options = {"chunk": 12, "batch": 4}
        assert list(spend(tasks, targets, FakeDraw(), **options, on_batch=listen)) == tasks
        assert told == ["01", "0", "0", "01", "1", "1"]

    def test_keep_their_counts_when_a_draw_fails(self) -> None:
        def failing(_: Sequence[CopyRange]) -> Future[Votes]:
            future: Future[Votes] = Future()
            future.set_exception(ConnectionError("no answer"))
            return future

        task = task_of("0", selection=3)
        with pytest.raises(ConnectionError, match="no answer"):
            run([task], failing)  # type: ignore[arg-type]
        assert task.counts == counts_of("0", selection=3)

    def test_whose_votes_were_lost_are_never_called_finished(self) -> None:
        def forgetful(parts: Sequence[CopyRange]) -> Future[Votes]:
            future: Future[Votes] = Future()
            future.set_result([({}, 0) for _ in parts])
            return future

        assert run([task_of("0")], forgetful) == []  # type: ignore[arg-type]


class Pending:
    """Batches whose votes come when they are asked for, in any order."""

    def __init__(self) -> None:
        self.draw, self.futures = FakeDraw(), list[Future[Votes]]()
        self.most = 0

    def __call__(self, parts: Sequence[CopyRange]) -> Future[Votes]:
        votes = self.draw.votes(parts)

        class Late(Future[Votes]):
            def result(self, timeout: float | None = None) -> Votes:
                self.set_result(votes)
                return super().result(timeout)

        self.futures.append(Late())
        self.most = max(self.most, sum(not future.done() for future in self.futures))
        return self.futures[-1]


class TestOnTheirWay:
    @reproducible
    @given(images=st.integers(1, 6), n=st.integers(1, 50), **sizes)
    def test_are_at_most_so_many_batches(self, images: int, n: int, **options: int) -> None:
        pending = Pending()
        run([task_of(str(i)) for i in range(images)], pending, n=n, **options)
        assert 1 <= pending.most <= options["max_in_flight"]

    def test_are_as_many_as_allowed_where_there_is_work(self) -> None:
        pending = Pending()
        run([task_of("0")], pending, n0=10, n=90, batch=10, min_in_flight=2, max_in_flight=4)
        assert pending.most == 4

    def test_none_is_beyond_the_next_decision(self) -> None:
        """A plan that decides at every ten copies gets no more than it asked for."""
        pending, asked = Pending(), list[int]()

        def targets(counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
            had = counts.get(Stage.ESTIMATION, LabelCounts("run", "0", Stage.ESTIMATION)).n
            asked.append(min(had // 10 * 10 + 10, 40))
            return {Stage.ESTIMATION: asked[-1]}

        def submit(parts: Sequence[CopyRange]) -> Future[Votes]:
            assert all(part.copies.stop <= max(asked) for part in parts)
            return pending(parts)

        [task] = spend(
            [ImageTask("run", "0", IMAGE)], targets, submit, chunk=5, batch=5, max_in_flight=9
        )
        assert task.counts == counts_of("0", estimation=40)
        assert pending.most == 2  # those up to the next decision

    def test_a_batch_that_is_not_full_waits_while_others_keep_the_device_busy(self) -> None:
        def sizes_with(enough: int) -> list[int]:
            pending = Pending()
            tasks = [ImageTask("run", str(i), IMAGE) for i in range(2)]

            def targets(counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
                return {Stage.ESTIMATION: 12 if counts else 6}

            list(
                spend(
                    tasks,
                    targets,
                    pending,
                    chunk=12,
                    batch=8,
                    min_in_flight=enough,
                    max_in_flight=4,
                )
            )
            return pending.draw.sizes

        assert sizes_with(enough=1) == [8, 8, 8]  # the second waited for what the first brought
        assert sizes_with(enough=2) == [8, 4, 8, 4]  # half of the device would have been idle

    def test_and_those_that_wait_are_dropped_when_their_image_ends(self) -> None:
        """The selection shows that the estimation, which had begun, is not needed."""
        pending = Pending()

        def targets(counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
            return {Stage.SELECTION: 4, Stage.ESTIMATION: 0 if counts else 5}

        options = {"chunk": 9, "batch": 6, "min_in_flight": 1, "max_in_flight": 2}
        [task] = spend([ImageTask("run", "0", IMAGE)], targets, pending, **options)
        assert (task.calls, task.counts[Stage.ESTIMATION].n) == (4, 0)
        assert pending.draw.sizes == [6], "three more copies waited for a full batch"

    def test_are_called_off_when_nobody_wants_them_any_more(self) -> None:
        pending = Pending()
        tasks = [task_of("0", selection=5, estimation=18), task_of("1")]
        going = spend(tasks, always(5, 20), pending, chunk=10, batch=4, max_in_flight=3)
        assert next(going).image_id == "0"
        going.close()
        assert [future.cancelled() for future in pending.futures] == [False, True, True]

    def test_images_that_want_nothing_are_handed_out_before_many_are_held(self) -> None:
        taken = 0

        def source() -> Iterator[ImageTask]:
            nonlocal taken
            for number in range(1000):
                taken += 1
                yield task_of(str(number), selection=5, estimation=20)

        going = spend(source(), always(5, 20), FakeDraw(), chunk=10, batch=4)
        next(going)
        assert taken < 50
        assert len(list(going)) == 999


class TestFair:
    """Tasks that come while others are counted."""

    def test_counts_are_the_same_in_turn(self) -> None:
        draw, tasks = FakeDraw(), [task_of(str(number)) for number in range(7)]
        targets = {Stage.SELECTION: 5, Stage.ESTIMATION: 33}
        done = list(
            spend(tasks, lambda _: targets, draw, chunk=4, batch=10, max_in_flight=2, in_turn=True)
        )
        assert sorted(task.image_id for task in done) == [str(number) for number in range(7)]
        for task in done:
            assert task.counts == counts_of(task.image_id, selection=5, estimation=33)

    def test_one_that_comes_late_does_not_wait_for_the_others(self) -> None:
        draw, early, late = FakeDraw(), task_of("1"), task_of("2")

        def source() -> Iterator[ImageTask | None]:
            yield early
            while len(draw.batches) < 3:
                yield None
            yield late
            while not late.counts.get(Stage.ESTIMATION):
                yield None

        sizes = {"1": 400, "2": 20}
        targets = {Stage.ESTIMATION: 0}

        def wanted(counts: Mapping[Stage, LabelCounts]) -> Mapping[Stage, int]:
            who = next(iter(counts.values())).image_id
            return {**targets, Stage.ESTIMATION: sizes[who]}

        for task in (early, late):
            task.counts[Stage.SELECTION] = LabelCounts("run", task.image_id, Stage.SELECTION)
        done = list(spend(source(), wanted, draw, chunk=5, batch=10, in_turn=True))
        assert [task.image_id for task in done] == ["2", "1"]
        in_turn = [part.task.image_id for batch in draw.batches[3:6] for part in batch]
        assert in_turn.count("1") == in_turn.count("2")
