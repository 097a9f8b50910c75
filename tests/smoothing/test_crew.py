"""executors/crew.py, with actors that are lost on demand."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from denoised_smoothing.errors import SettingError, WorkerError
from denoised_smoothing.smoothing.crew import TRIES, Crew

exceptions = pytest.importorskip("ray.exceptions")
WAIT = 10


class Reference:
    """Of a result that comes when it is said to."""

    def __init__(self) -> None:
        self.result: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.result


class Actor:
    """Holds its calls until they are answered; is there, lost or gone for good."""

    def __init__(self, *, there: bool = True) -> None:
        self.there = there
        self.calls: list[Reference] = []
        self.waited: list[Reference] = []
        self.ready = self

    def options(self, *, max_task_retries: int) -> Actor:
        assert max_task_retries == -1, "it must be waited for, however often it is lost"
        return self

    def remote(self) -> Reference:
        reference = Reference()
        self.waited.append(reference)
        if self.there:
            reference.result.set_result(None)
        return reference

    def call(self) -> Reference:
        self.calls.append(Reference())
        return self.calls[-1]

    def lose(self, *, for_good: bool = False) -> None:
        self.there = False
        for reference in self.calls:
            if not reference.result.done():
                reference.result.set_exception(exceptions.ActorUnavailableError("gone", None))
        if for_good:
            for reference in self.waited:
                if not reference.result.done():
                    reference.result.set_exception(exceptions.ActorDiedError())

    def come_back(self) -> None:
        self.there = True
        self.waited[-1].result.set_result(None)


@pytest.fixture
def actors() -> list[Actor]:
    return [Actor(), Actor()]


@pytest.fixture
def crew(actors: list[Actor]) -> Iterator[Crew]:
    crew = Crew(actors, slots=1)
    yield crew
    crew.close()


def settle(crew: Crew) -> None:
    """Wait until the crew has dealt with all that happened so far."""
    done: Future[None] = Future()
    crew._events.put(lambda: done.set_result(None))
    done.result(WAIT)
    done = Future()
    crew._events.put(lambda: done.set_result(None))
    done.result(WAIT)


def start(actor: Actor) -> Reference:
    return actor.call()


def test_whoever_is_free_takes_the_next_call(crew: Crew, actors: list[Actor]) -> None:
    futures = [crew.submit(start) for _ in range(4)]
    settle(crew)
    one, two = actors
    assert (len(one.calls), len(two.calls)) == (1, 1)
    for result in "abc":
        two.calls[-1].result.set_result(result)
        settle(crew)
    assert [future.done() for future in futures] == [False, True, True, True]
    assert [future.result() for future in futures[1:]] == list("abc")
    one.calls[0].result.set_result("late")
    assert futures[0].result(WAIT) == "late"


def test_a_call_that_was_not_begun_can_be_cancelled(crew: Crew, actors: list[Actor]) -> None:
    futures = [crew.submit(start) for _ in range(3)]
    settle(crew)
    assert futures[2].cancel()
    assert not futures[0].cancel()
    actors[0].calls[0].result.set_result(1)
    settle(crew)
    assert len(actors[0].calls) == 1


def test_the_call_of_a_lost_actor_goes_to_another(crew: Crew, actors: list[Actor]) -> None:
    first, second = crew.submit(start), crew.submit(start)
    settle(crew)
    actors[0].lose()
    settle(crew)
    third = crew.submit(start)
    actors[1].calls[0].result.set_result("second")
    settle(crew)
    actors[1].calls[1].result.set_result("first")
    settle(crew)
    assert (first.result(WAIT), second.result(WAIT)) == ("first", "second")
    assert not third.done()
    actors[0].come_back()
    settle(crew)
    assert len(actors[0].calls) + len(actors[1].calls) == 4
    (actors[1].calls[2:] or actors[0].calls[1:])[0].result.set_result("third")
    assert third.result(WAIT) == "third"


def test_a_call_that_takes_several_actors_with_it_is_given_up() -> None:
    actors = [Actor() for _ in range(TRIES)]
    crew = Crew(actors, slots=1)
    future = crew.submit(start)
    for _ in actors:
        settle(crew)
        assert not future.done()
        next(actor for actor in actors if actor.calls and actor.there).lose()
    with pytest.raises(WorkerError, match=rf"{TRIES} workers were lost over the same.*goes on"):
        future.result(WAIT)
    crew.close()


def test_when_all_are_gone_for_good_nothing_waits(crew: Crew, actors: list[Actor]) -> None:
    future = crew.submit(start)
    settle(crew)
    for actor in actors:
        actor.lose()
        settle(crew)
    assert not future.done()
    for actor in actors:
        actor.lose(for_good=True)
    with pytest.raises(WorkerError, match="every worker of the cluster has ended for good"):
        future.result(WAIT)


def test_errors_of_the_package_arrive_as_they_are(crew: Crew, actors: list[Actor]) -> None:
    mine, other = crew.submit(start), crew.submit(start)
    settle(crew)
    for actor, cause in zip(actors, (SettingError("mine"), KeyError("x")), strict=True):
        actor.calls[0].result.set_exception(exceptions.RayTaskError("votes", "trace", cause))
    with pytest.raises(SettingError, match="mine"):
        mine.result(WAIT)
    with pytest.raises(WorkerError, match=r"failed with KeyError: 'x'; packages .* every node"):
        other.result(WAIT)


def test_a_connection_that_is_lost_leaves_nobody_waiting(crew: Crew, actors: list[Actor]) -> None:
    calls = [crew.submit(start) for _ in range(3)]  # one more than there are actors
    settle(crew)

    def unreachable(**options: int) -> Actor:
        raise ConnectionError("Ray has not been started yet")

    actors[0].options = unreachable  # type: ignore[method-assign]
    actors[0].lose()
    for call in [*calls, crew.submit(start)]:
        with pytest.raises(WorkerError, match=r"was lost \(ConnectionError: Ray has not.*goes on"):
            call.result(WAIT)
    with pytest.raises(WorkerError, match="was lost"):
        crew.submit(start).result(WAIT)


def test_closing_leaves_nobody_waiting(crew: Crew) -> None:
    calls = [crew.submit(start) for _ in range(3)]
    crew.close()
    for call in [*calls, crew.submit(start)]:
        with pytest.raises(WorkerError, match=r"was lost \(it was closed\); .* goes on"):
            call.result(WAIT)


def test_what_cannot_be_sent_fails_by_itself(crew: Crew, actors: list[Actor]) -> None:
    def unsendable(actor: Actor) -> Reference:
        raise TypeError("cannot pickle")

    with pytest.raises(TypeError, match="cannot pickle"):
        crew.submit(unsendable).result(WAIT)
    future = crew.submit(start)
    settle(crew)
    next(actor for actor in actors if actor.calls).calls[0].result.set_result(1)
    assert future.result(WAIT) == 1
