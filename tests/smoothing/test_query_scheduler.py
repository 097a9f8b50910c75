"""The loop for copies that are bought: whatever the order of answers, prefixes are counted."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import AnswerMissingError
from denoised_smoothing.smoothing.query_scheduler import schedule_queries
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask

Counts = Mapping[Stage, LabelCounts]


def vote(image_id: str, stage: Stage, number: int) -> int:
    """A label of 0 to 2, or -1, that the key decides."""
    return random.Random(f"{image_id}{stage}{number}").choice([0, 0, 0, 1, 2, -1])


def task_of(image_id: str) -> ImageTask:
    return ImageTask("run", image_id, np.zeros((1, 2, 2), dtype=np.float32))


def expected(image_id: str, stage: Stage, n: int) -> LabelCounts:
    votes = [vote(image_id, stage, number) for number in range(n)]
    counts = tuple(votes.count(label) for label in range(max(votes) + 1))
    return LabelCounts("run", image_id, stage, counts, votes.count(-1))


def always(n0: int, n: int) -> object:
    return lambda counts: {Stage.SELECTION: n0, Stage.ESTIMATION: n}


class Answers:
    """Answers from another thread, some at a time, in random order; some fail."""

    def __init__(self, seed: int = 0, failing: Sequence[tuple[str, int]] = ()) -> None:
        self.source, self.failing = random.Random(seed), set(failing)
        self.asked: list[tuple[str, Stage, int]] = []
        self.waiting: list[tuple[tuple[str, Stage, int], Future[int]]] = []
        self.most = 0
        self.lock, self.more = threading.Lock(), threading.Event()
        self.ended = False
        threading.Thread(target=self.answer, daemon=True).start()

    def __call__(self, parts: Sequence[CopyRange]) -> list[list[Future[int]]]:
        with self.lock:
            asked = []
            for part in parts:
                keys = [(part.task.image_id, part.stage, n) for n in part.copies]
                pairs = [(key, Future[int]()) for key in keys]
                self.asked += keys
                self.waiting += pairs
                asked.append([future for _, future in pairs])
            self.most = max(self.most, len(self.waiting))
        self.more.set()
        return asked

    def answer(self) -> None:
        while not self.ended:
            self.more.wait(0.01)
            with self.lock:
                self.source.shuffle(self.waiting)
                count = self.source.randint(0, len(self.waiting))
                now, self.waiting = self.waiting[:count], self.waiting[count:]
            for (image_id, stage, number), future in now:
                if (image_id, number) in self.failing and stage is Stage.ESTIMATION:
                    future.set_exception(self.error())
                else:
                    future.set_result(vote(image_id, stage, number))

    def error(self) -> Exception:
        return OSError("the wire broke")


@pytest.fixture
def images() -> list[ImageTask]:
    return [task_of(name) for name in "abcde"]


@pytest.mark.parametrize("seed", range(3))
def test_counts_do_not_depend_on_the_order_of_answers(seed: int, images: list[ImageTask]) -> None:
    answers = Answers(seed)
    done = list(
        schedule_queries(images, always(20, 130), answers, chunk=50, forward=25, capacity=60)  # type: ignore[arg-type]
    )
    answers.ended = True
    assert {task.image_id for task in done} == set("abcde")
    for task in images:
        for stage, n in ((Stage.SELECTION, 20), (Stage.ESTIMATION, 130)):
            assert task.counts[stage] == expected(task.image_id, stage, n)
    assert len(answers.asked) == len(set(answers.asked)) == 5 * 150
    assert answers.most <= 60 + 25


def test_a_plan_sees_whole_prefixes_and_nothing_is_asked_beyond_what_it_wants(
    images: list[ImageTask],
) -> None:
    answers = Answers(1)

    def targets(counts: Counts) -> dict[Stage, int]:
        """Ten copies at a time, until 20 have the label 0."""
        held = counts.get(Stage.ESTIMATION)
        if held is not None:
            assert held == expected(held.image_id, Stage.ESTIMATION, held.n)
        enough = held is not None and held.of(0) >= 20 and held.n % 10 == 0
        had = 0 if held is None else held.n
        return {Stage.ESTIMATION: had if enough else had + 10 - had % 10}

    for task in schedule_queries(images, targets, answers, chunk=50, forward=25, capacity=60):
        asked = sum(key[0] == task.image_id for key in answers.asked)
        assert task.counts[Stage.ESTIMATION].n == asked
    answers.ended = True


def test_an_error_stops_it_when_all_on_their_way_are_counted(images: list[ImageTask]) -> None:
    answers, told = Answers(2, failing=[("b", 30)]), list[str]()
    with pytest.raises(OSError, match="the wire broke"):
        for _ in schedule_queries(
            images, always(10, 100), answers, chunk=50, forward=25, capacity=60,  # type: ignore[arg-type]
            on_batch=lambda tasks: told.extend(task.image_id for task in tasks),
        ):  # fmt: skip
            pass
    answers.ended = True
    assert not answers.waiting
    for task in images:
        for stage, counts in task.counts.items():
            assert counts == expected(task.image_id, stage, counts.n)
    failed = images[1].counts[Stage.ESTIMATION]
    assert failed.n == 30  # never past the copy that has no vote
    assert "b" in told


def test_a_missing_answer_leaves_its_image_and_goes_on_with_others(
    images: list[ImageTask],
) -> None:
    class Incomplete(Answers):
        def error(self) -> Exception:
            return AnswerMissingError("not in the log")

    answers = Incomplete(3, failing=[("b", 30), ("d", 0)])
    done = list(
        schedule_queries(images, always(10, 1000), answers, chunk=50, forward=25, capacity=60)  # type: ignore[arg-type]
    )
    answers.ended = True
    assert {task.image_id for task in done} == {"a", "c", "e"}
    assert images[1].counts[Stage.ESTIMATION].n == 30
    assert Stage.ESTIMATION not in images[3].counts
    asked = Counter(image_id for image_id, _, _ in answers.asked)
    assert asked["a"] == 1010
    assert max(asked["b"], asked["d"]) < 800  # none after the first that is missing


def test_tasks_are_taken_when_there_is_room() -> None:
    taken = []

    def source() -> Iterator[ImageTask]:
        for number in range(100):
            taken.append(number)
            yield task_of(str(number))

    answers = Answers(4)
    loop = schedule_queries(source(), always(1, 30), answers, chunk=50, forward=25, capacity=60)  # type: ignore[arg-type]
    next(loop)
    assert len(taken) < 15
    assert len(list(loop)) == 99
    answers.ended = True


def test_a_task_that_wants_nothing_is_finished() -> None:
    task = task_of("a")
    nothing = {Stage.ESTIMATION: 0}
    (done,) = schedule_queries([task], lambda _: nothing, Answers(), chunk=5, forward=5, capacity=5)
    assert done.counts[Stage.ESTIMATION].n == 0
