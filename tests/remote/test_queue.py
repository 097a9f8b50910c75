"""The request queue with a clock of the test: pauses, and what is stored of failed answers."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import MemoryLog
from denoised_smoothing.remote.queue import LONGEST_ANSWER, Copy, RequestQueue
from denoised_smoothing.remote.records import CopyKey, Outcome
from denoised_smoothing.remote.vendors.base import VendorError
from denoised_smoothing.remote.vendors.simulated import Simulated


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def queue(clock: Clock, log: MemoryLog) -> RequestQueue:
    """A queue whose first copy was answered, with ten more that wait."""
    queue = RequestQueue(Simulated(), log, ClientSettings(in_flight=2, first_wait=0.01), clock)
    queue.add([copy(0)])
    ([first], _) = queue.step()
    assert first.attempt is not None
    queue.finish(first, first.attempt)
    queue.add([copy(number) for number in range(1, 11)])
    return queue


def copy(number: int) -> Copy:
    key = CopyKey("image", Stage.ESTIMATION, number)
    return Copy(key, b"", str(number), Future(), lambda label: label)


def fail(queue: RequestQueue, copy: Copy, seconds: float) -> None:
    assert copy.attempt is not None
    headers = {"Retry-After": f"{seconds:g}"}
    queue.finish(copy, copy.attempt, VendorError(Outcome.THROTTLED, "slow", headers=headers))


def test_no_copy_is_sent_before_an_announced_pause_ends(
    queue: RequestQueue, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    begun, _ = queue.step()
    assert len(begun) == 4
    fail(queue, begun[0], 20.0)
    fail(queue, begun[1], 10.0)  # a shorter one does not end the longer one
    for now, wait in ((1000.0, 20.0), (1019.0, 1.0)):
        clock.now = now
        assert queue.step() == ([], pytest.approx(wait))
    clock.now = 1020.0
    sent, _ = queue.step()
    assert {each.key.copy for each in sent} == {begun[0].key.copy, begun[1].key.copy}
    [note] = caplog.messages
    assert "asks for a pause of 20 seconds, until" in note
    assert "No query is sent until then." in note


def test_a_short_pause_is_kept_without_a_note(
    queue: RequestQueue, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    begun, _ = queue.step()
    fail(queue, begun[0], 1.0)
    assert queue.step() == ([], pytest.approx(1.0))
    assert caplog.messages == []


def test_a_beginning_is_stored_of_an_answer_that_was_not_accepted(
    queue: RequestQueue, log: MemoryLog
) -> None:
    ([first, *_], _) = queue.step()
    assert first.attempt is not None
    queue.finish(first, first.attempt, VendorError(Outcome.GARBLED, "odd", answer="x" * 10_000))
    queue.step()
    [attempt] = [each for each in log.history() if each.outcome is Outcome.GARBLED]
    assert attempt.answer == "x" * LONGEST_ANSWER
