"""Amazon Rekognition: a clock that is off is named, and nothing is sent again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial

import numpy as np
import PIL.Image
import pytest
from fake import Amazon, FakeVendor, Trouble, in_turn
from vendors import BY_NAME, prepare

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import RemoteError
from denoised_smoothing.remote.client import QueryClient
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import MemoryLog
from denoised_smoothing.remote.records import CopyKey, Outcome

BEHIND = (
    "Signature expired: 20261128T050000Z is now earlier than 20261128T052500Z (20261128T053000Z - "
    "5 min.)"
)
AHEAD = (
    "Signature not yet current: 20261128T060000Z is still later than 20261128T053500Z "
    "(20261128T053000Z + 5 min.)"
)
CLOCKS = [
    ("InvalidSignatureException", BEHIND),
    ("InvalidSignatureException", AHEAD),
    ("SignatureDoesNotMatch", BEHIND),
    ("RequestTimeTooSkewed", "The difference between the request time and the time is too large."),
    ("RequestExpired", "Request has expired."),
    ("RequestInTheFuture", "Request timestamp is too far in the future."),
]
SETTINGS = ClientSettings(in_flight=4, rate=None, timeout=5.0, first_wait=0.01, longest_wait=0.05)


@pytest.fixture
def fake() -> Iterator[FakeVendor]:
    with FakeVendor() as server:
        yield server


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def client(
    fake: FakeVendor, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> Iterator[QueryClient]:
    vendor = prepare(monkeypatch, BY_NAME["aws"], fake.url)
    vendor.connect(timeout=SETTINGS.timeout, in_flight=SETTINGS.in_flight)
    client = QueryClient(vendor, AnswerRule(), log, SETTINGS)
    yield client
    client.close()
    vendor.close()


def picture(number: int) -> bytes:
    levels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def message_of(client: QueryClient, number: int) -> str:
    """The error of one query."""
    key = CopyKey("image", Stage.ESTIMATION, number)
    (future,) = client.submit([key], [partial(picture, number)])
    with pytest.raises(RemoteError) as caught:
        future.result(20)
    return str(caught.value)


@pytest.mark.parametrize(("code", "text"), CLOCKS)
@pytest.mark.parametrize("answered", [0, 1])
def test_a_clock_that_is_off_is_named_and_nothing_is_sent_again(
    code: str,
    text: str,
    answered: int,
    client: QueryClient,
    fake: FakeVendor,
    log: MemoryLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(Amazon.errors, Trouble.KEY, (400, {"__type": code, "message": text}))
    fake.script = in_turn([*[None] * answered, *[Trouble.KEY] * 20])
    for number in range(answered):
        key = CopyKey("image", Stage.SELECTION, number)
        assert client.submit([key], [partial(picture, number)])[0].result(20) in ("cat", "dog")
    message = message_of(client, 10)
    assert "the clock of this machine is off" in message
    assert text[:60] in message
    assert "Set the clock of this machine" in message
    assert "key" not in message.lower()
    assert fake.attempts == answered + 1, "it is not sent again"
    assert [attempt.outcome for attempt in log.history()][answered:] == [Outcome.REFUSED]
    assert client.spent.queries == answered, "it costs nothing"


def test_a_wrong_key_is_not_a_clock(
    client: QueryClient, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "__type": "InvalidSignatureException",
        "message": "The request signature we calculated does not match the signature you provided.",
    }
    monkeypatch.setitem(Amazon.errors, Trouble.KEY, (400, told))
    fake.script = in_turn([Trouble.KEY])
    message = message_of(client, 0)
    assert "Check the key" in message
    assert "clock" not in message
