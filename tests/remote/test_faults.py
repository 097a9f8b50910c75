"""One table of what can go wrong, for every vendor through its real SDK."""

from __future__ import annotations

import io
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import pytest
from fake import FakeVendor, Trouble, in_turn
from vendors import BY_NAME, CASES, Case, prepare

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import (
    BudgetReachedError,
    ModelChangedError,
    RemoteError,
    SettingError,
)
from denoised_smoothing.remote import client as client_module
from denoised_smoothing.remote import queue
from denoised_smoothing.remote.client import QueryClient
from denoised_smoothing.remote.encoding import Encoding
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.limits import Budget, ClientSettings
from denoised_smoothing.remote.log import MemoryLog
from denoised_smoothing.remote.records import Charge, CopyKey, Outcome
from denoised_smoothing.remote.vendors.base import Vendor

O, T = Outcome, Trouble  # noqa: E741
QUICK = ClientSettings(
    in_flight=4, rate=None, timeout=0.5, attempts=3, first_wait=0.01, longest_wait=0.05,
    patience=5.0,
)  # fmt: skip


def picture(number: int) -> bytes:
    levels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def key(number: int) -> CopyKey:
    return CopyKey("image", Stage.ESTIMATION, number)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def fake() -> Iterator[FakeVendor]:
    with FakeVendor(stall=1.0, retry_after=0.3) as server:
        yield server


@pytest.fixture
def vendor(case: Case, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    return prepare(monkeypatch, case, fake.url)


@contextmanager
def client_of(
    vendor: Vendor, log: MemoryLog | None = None, settings: ClientSettings = QUICK
) -> Iterator[QueryClient]:
    vendor.connect(timeout=settings.timeout, in_flight=settings.in_flight)
    client = QueryClient(vendor, AnswerRule(), log or MemoryLog(), settings)
    try:
        yield client
    finally:
        client.close()
        vendor.close()


def ask(client: QueryClient, numbers: Sequence[int]) -> list[Future[str | None]]:
    return client.submit([key(n) for n in numbers], [partial(picture, n) for n in numbers])


# What the first requests meet -> outcomes of the attempts at the one copy, and whether it gets
# a label. One copy in flight and one answered before, so that the service is known to work.
SURVIVED = {
    "nothing": ([], [O.ANSWERED]),
    "throttled": ([T.THROTTLED, T.THROTTLED], [O.THROTTLED, O.THROTTLED, O.ANSWERED]),
    "throttled more often than it may fail": ([T.THROTTLED] * 6, [O.THROTTLED] * 6 + [O.ANSWERED]),
    "busy": ([T.BUSY], [O.THROTTLED, O.ANSWERED]),
    "an accident": ([T.FAILED], [O.FAILED, O.ANSWERED]),
    "a dropped connection": ([T.DROPPED], [O.DROPPED, O.ANSWERED]),
    "an answer that stalls": ([T.STALLED], [O.TIMEOUT, O.ANSWERED]),
    "garbage": ([T.GARBAGE], [O.GARBLED, O.ANSWERED]),
    "all in turn": (
        [T.FAILED, T.THROTTLED, T.DROPPED],
        [O.FAILED, O.THROTTLED, O.DROPPED, O.ANSWERED],
    ),
}


@pytest.mark.parametrize("scenario", SURVIVED)
def test_a_copy_that_failed_is_sent_again_the_same(
    vendor: Vendor, fake: FakeVendor, scenario: str
) -> None:
    troubles, outcomes = SURVIVED[scenario]
    log = MemoryLog()
    fake.script = in_turn([None, *troubles])
    with client_of(vendor, log) as client:
        (first,) = ask(client, [0])
        assert first.result(10) in ("cat", "dog")
        (future,) = ask(client, [1])
        label = future.result(20)
    attempts = [attempt for attempt in log.history() if attempt.key == key(1)]
    assert [attempt.outcome for attempt in attempts] == outcomes
    assert [attempt.number for attempt in attempts] == list(range(1, len(outcomes) + 1))
    assert [attempt.final for attempt in attempts] == [False] * len(troubles) + [True]
    assert attempts[-1].label == label
    assert label in ("cat", "dog")
    assert len({attempt.sha256 for attempt in attempts}) == 1
    # The vendor saw as many requests as were noted, and all of them the same image.
    assert fake.attempts == len(outcomes) + 1
    assert len({image for image, _ in fake.requests[1:]}) == 1
    answer = attempts[-1].answer
    assert answer is not None
    assert label in json.dumps(json.loads(answer))


@pytest.mark.parametrize("trouble", [T.CUT, T.STRANGE], ids=["half", "other JSON"])
def test_half_an_answer_or_one_of_another_form_is_asked_for_again(
    case: Case, vendor: Vendor, fake: FakeVendor, trouble: Trouble
) -> None:
    log = MemoryLog()
    fake.script = in_turn([None, trouble])
    with client_of(vendor, log) as client:
        assert ask(client, [0])[0].result(10) in ("cat", "dog")
        label = ask(client, [1])[0].result(10)
    attempts = [attempt for attempt in log.history() if attempt.key == key(1)]
    if (case.name, trouble) == ("http", T.STRANGE):  # only JMESPath knows the form: no label
        assert [attempt.outcome for attempt in attempts] == [O.ANSWERED]
        assert label is None
        return
    first, second = attempts
    # Amazon's SDK reads half an answer as an empty one. Both may have been paid for.
    assert first.outcome in ((O.DROPPED, O.GARBLED) if trouble is T.CUT else (O.GARBLED,))
    assert first.outcome.charge is not Charge.NO
    assert second.outcome is O.ANSWERED
    assert label in ("cat", "dog")


@pytest.mark.parametrize("name", ["aws", "google", "azure", "clarifai", "openai"])
def test_an_image_of_too_many_bytes_is_refused_before_it_is_sent(
    name: str, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = prepare(monkeypatch, BY_NAME[name], fake.url)
    side = 100 + math.isqrt((vendor.limits.max_bytes or 0) // 3)
    levels = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    log = MemoryLog()
    with client_of(vendor, log) as client:
        encode = partial(Encoding().encode, levels, vendor.limits)
        with pytest.raises(
            SettingError, match=r"bytes, and the vendor accepts .* at most. Certify"
        ):
            client.submit([key(0)], [encode])[0].result(30)
    assert fake.attempts == 0
    assert list(log.history()) == []


FAILED_FOR_GOOD = {
    "an accident": (T.FAILED, [O.FAILED] * 3),
    "a dropped connection": (T.DROPPED, [O.DROPPED] * 3),
    "unreadable answers": (T.GARBAGE, [O.GARBLED] * 3),
    "the image is not taken": (T.REJECTED, [O.REJECTED]),
    "no labels": (T.EMPTY, [O.ANSWERED]),
}


@pytest.mark.parametrize("scenario", FAILED_FOR_GOOD)
def test_a_copy_that_fails_for_good_is_a_vote_for_no_class(
    vendor: Vendor, fake: FakeVendor, scenario: str
) -> None:
    trouble, outcomes = FAILED_FOR_GOOD[scenario]
    log, bad = MemoryLog(), set[str]()
    with client_of(vendor, log) as client:
        assert ask(client, [0])[0].result(10) in ("cat", "dog")
        fake.script = lambda number, image: trouble if image in bad else None
        bad.add(sha_of(fake, vendor, picture(1)))
        votes = [future.result(20) for future in ask(client, range(1, 9))]
    assert votes[0] is None
    assert all(vote in ("cat", "dog") for vote in votes[1:])
    attempts = [attempt for attempt in log.history() if attempt.key == key(1)]
    assert [attempt.outcome for attempt in attempts] == outcomes
    assert attempts[-1].final
    assert attempts[-1].label is None


def sha_of(fake: FakeVendor, vendor: Vendor, image: bytes) -> str:
    """The hash under which the server knows an image, found by sending it."""
    vendor.send(image)
    return fake.requests[-1][0]


STOPPED = {
    T.KEY: "refused|Check the key",
    T.QUOTA: "Check the key, its rights and the quota",
    T.MODEL: "Check the name of the model and the address",
    T.REJECTED: "Check what sizes and formats the vendor accepts",
}


@pytest.mark.parametrize("trouble", STOPPED, ids=lambda trouble: trouble.value)
def test_what_cannot_work_stops_at_the_first_query(
    vendor: Vendor, fake: FakeVendor, trouble: Trouble
) -> None:
    log = MemoryLog()
    fake.script = lambda number, image: trouble
    with client_of(vendor, log) as client:
        for future in ask(client, range(20)):
            with pytest.raises(RemoteError, match=STOPPED[trouble]) as caught:
                future.result(10)
    assert str(caught.value).startswith(vendor.name)
    assert "\n" not in str(caught.value)
    assert "'certify', CertificationRun) store them" in str(caught.value)  # this log does not
    assert fake.attempts == 1
    assert not any(attempt.final for attempt in log.history())


def test_an_unreachable_host_stops_at_the_first_query(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeVendor() as gone:
        vendor = prepare(monkeypatch, case, gone.url)
    with client_of(vendor) as client:
        for future in ask(client, range(3)):
            with pytest.raises(RemoteError, match=r"cannot be reached: .*connection"):
                future.result(10)


def test_a_key_that_is_withdrawn_stops_after_a_few_and_nothing_is_lost(
    vendor: Vendor, fake: FakeVendor
) -> None:
    log = MemoryLog()
    fake.script = lambda number, image: T.KEY if number >= 10 else None
    with client_of(vendor, log) as client:
        futures = ask(client, range(40))
        errors = [future.exception(20) for future in futures]
    assert sum(error is None for error in errors) == 10
    assert fake.attempts <= 10 + 2 * (QUICK.in_flight + QUICK.in_flight // 4 + 2)
    fake.script = lambda number, image: None
    before = fake.attempts
    with client_of(vendor, log) as client:
        settled = [client.settled(key(n)) for n in range(40)]
        assert sum(vote is not None for vote in settled) == 10
        open_ = [n for n in range(40) if settled[n] is None]
        assert all(future.result(20) for future in ask(client, open_))
    assert fake.attempts == before + 30
    assert fake.answered_twice() == []


def test_another_version_of_the_model_stops_the_run(
    case: Case, vendor: Vendor, fake: FakeVendor
) -> None:
    if not case.versioned:
        pytest.skip(f"{case.name} reports no version")
    log = MemoryLog()
    fake.script = lambda number, image: T.UPDATED if number >= 5 else None
    with client_of(vendor, log) as client:
        errors = [future.exception(20) for future in ask(client, range(30))]
    changed = [error for error in errors if error is not None]
    assert len(changed) == 25
    assert all(isinstance(error, ModelChangedError) for error in changed)
    assert "4.0" in str(changed[0])
    assert "3.0" in str(changed[0])
    with client_of(vendor, log) as client, pytest.raises(ModelChangedError):
        ask(client, [29])[0].result(10)
    ends = Counter(attempt.outcome for attempt in log.history())
    assert ends[O.ANSWERED] == 5
    assert ends[O.OTHER_MODEL] >= 2


def test_retry_after_is_obeyed(vendor: Vendor, fake: FakeVendor) -> None:
    log = MemoryLog()
    fake.script = in_turn([None, T.BUSY])
    with client_of(vendor, log) as client:
        ask(client, [0])[0].result(10)
        ask(client, [1])[0].result(10)
    _, busy, again = sorted(log.history(), key=lambda attempt: attempt.sent)
    waited = np.datetime64(again.sent[:-6]) - np.datetime64(busy.sent[:-6])
    assert waited >= np.timedelta64(290, "ms")


def test_a_pause_that_is_too_long_ends_the_run(vendor: Vendor, fake: FakeVendor) -> None:
    log = MemoryLog()
    fake.script, fake.retry_after = in_turn([None, T.BUSY]), 3600.0
    with client_of(vendor, log) as client:
        ask(client, [0])[0].result(10)
        error = ask(client, [1])[0].exception(10)
    assert isinstance(error, RemoteError)
    assert "asks for a pause of 3,600 seconds, until 2" in str(error)
    assert "longer than --longest-pause 120. Resume after it" in str(error)
    assert fake.attempts == 2


def test_a_pause_is_mentioned_once(
    vendor: Vendor, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(queue, "LONG_PAUSE", 0.1)
    fake.script = in_turn([None, T.BUSY, T.BUSY, T.BUSY])
    with client_of(vendor) as client:
        ask(client, [0])[0].result(10)
        for future in ask(client, [1, 2, 3]):
            future.result(10)
    texts = [text for text in caplog.messages if "asks for a pause of 0 seconds, until 2" in text]
    assert len(texts) == 1


def test_queries_in_flight_at_the_end_are_mentioned(
    vendor: Vendor, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(client_module, "QUIET_SECONDS", 0.05)
    with client_of(vendor) as client:
        ask(client, [0])[0].result(10)
        fake.latency, before = 0.3, len(fake.requests)
        asked = ask(client, [1])
        while len(fake.requests) == before:
            time.sleep(0.01)
    assert asked[0].result(0) in ("cat", "dog")
    assert "note: 1 queries are in flight" in caplog.text


def test_the_budget_is_never_passed(vendor: Vendor, fake: FakeVendor) -> None:
    settings = ClientSettings(
        in_flight=4, rate=None, budget=Budget(queries=17), first_wait=0.01, price=0.1
    )
    log = MemoryLog()
    fake.script = in_turn([None, T.THROTTLED, None, T.DROPPED])
    with client_of(vendor, log, settings) as client:
        errors = [future.exception(20) for future in ask(client, range(60))]
        assert client.spent.queries == 17
        assert client.spent.max_cost == pytest.approx(1.7)
    assert all(e is None or isinstance(e, BudgetReachedError) for e in errors)
    assert sum(error is None for error in errors) == 16  # one was dropped, and perhaps paid for
    assert fake.attempts == 18
    with client_of(vendor, log, settings) as client, pytest.raises(BudgetReachedError, match="17"):
        ask(client, [59])[0].result(10)
    assert fake.attempts == 18


def test_secrets_are_nowhere(vendor: Vendor, fake: FakeVendor) -> None:
    log = MemoryLog()
    with client_of(vendor, log) as client:
        secrets = vendor.secrets()
        assert secrets
        fake.scores = lambda image: [(secrets[0], 1.0), ("cat", 0.5)]
        future = ask(client, [0])[0]
        future.exception(10)
        fake.script = lambda number, image: T.KEY
        message = str(ask(client, [1])[0].exception(20))
    written = [str(attempt) for attempt in log.history()]
    assert not [text for text in (message, *written) if any(s in text for s in secrets)]
    fingerprint = str(vendor.fingerprint_parts())
    assert not any(secret in fingerprint for secret in secrets)


def test_many_threads_share_one_client(vendor: Vendor, fake: FakeVendor) -> None:
    fake.latency = 0.5
    settings = ClientSettings(in_flight=64, rate=None)
    with client_of(vendor, settings=settings) as client:
        assert all(future.result(30) in ("cat", "dog") for future in ask(client, range(150)))
    assert fake.counts() == {"answered": 150}
    assert 10 <= fake.most_in_flight <= 64


def test_doubtful_attempts_are_those_that_may_have_been_paid() -> None:
    doubtful = {outcome for outcome in Outcome if outcome.charge is Charge.MAYBE}
    assert doubtful == {O.SENT, O.TIMEOUT, O.DROPPED, O.REJECTED}
