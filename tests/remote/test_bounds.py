"""Bounds on answers, for every vendor through its real SDK."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from fake import HUGE_BYTES, FakeVendor, Trouble, in_turn
from test_faults import picture
from vendors import CASES, Case, prepare

from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import Vendor, VendorError
from denoised_smoothing.remote.vendors.bounds import decoded

TIMEOUT = 0.5


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def fake() -> Iterator[FakeVendor]:
    with FakeVendor() as server:
        yield server


@pytest.fixture
def vendor(case: Case, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    made = prepare(monkeypatch, case, fake.url)
    patient(made).send(picture(0))  # so that all that is imported late is there
    made.close()
    made.connect(timeout=TIMEOUT, in_flight=1, largest_answer=2**20)
    yield made
    made.close()


def failed(vendor: Vendor, fake: FakeVendor, trouble: Trouble) -> VendorError:
    """Return the error of a query that meets trouble; the next query is answered."""
    fake.script = in_turn([None] * fake.attempts + [trouble])
    with pytest.raises(VendorError) as caught:
        vendor.send(picture(1))
    assert vendor.send(picture(2))
    return caught.value


def patient(vendor: Vendor) -> Vendor:
    """The vendor with more time for an answer."""
    vendor.close()
    vendor.connect(timeout=20.0, in_flight=1, largest_answer=2**20)
    return vendor


def test_a_huge_answer_is_not_read(vendor: Vendor, fake: FakeVendor) -> None:
    error = failed(patient(vendor), fake, Trouble.HUGE)
    assert error.outcome is Outcome.GARBLED
    assert "more than 1,048,576 bytes" in str(error)
    assert fake.sent < HUGE_BYTES / 2


def test_a_bomb_is_not_decompressed(vendor: Vendor, fake: FakeVendor) -> None:
    vendor = patient(vendor)
    failed(vendor, fake, Trouble.BOMB)  # the server makes it once
    tracemalloc.start()
    try:
        error = failed(vendor, fake, Trouble.BOMB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.outcome is Outcome.GARBLED
    assert "more than 1,048,576 bytes" in str(error)
    assert peak < HUGE_BYTES / 4


def test_the_time_limit_is_for_the_whole_answer(vendor: Vendor, fake: FakeVendor) -> None:
    began = time.monotonic()
    error = failed(vendor, fake, Trouble.TRICKLED)
    assert error.outcome is Outcome.TIMEOUT
    assert time.monotonic() - began < 6 * TIMEOUT


def test_the_time_limit_is_for_the_headers_too(vendor: Vendor, fake: FakeVendor) -> None:
    began = time.monotonic()
    assert failed(vendor, fake, Trouble.HEAD_TRICKLED).outcome is Outcome.TIMEOUT
    assert time.monotonic() - began < 6 * TIMEOUT


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
    ],
)
def test_content_is_decoded(coding: str, pack: object) -> None:
    content = bytes(range(256)) * 1000
    packed = pack(content)  # type: ignore[operator]
    pieces = iter([packed[place : place + 100] for place in range(0, len(packed), 100)])
    assert b"".join(decoded(pieces, {"Content-Encoding": coding})) == content


def test_other_codings_and_damaged_content_are_refused() -> None:
    for coding, content, message in (
        ("br", b"", "'br', which was not asked for"),
        ("gzip", b"no gzip", "cannot be decompressed"),
    ):
        with pytest.raises(VendorError, match=message) as caught:
            list(decoded(iter([content]), {"content-encoding": coding}))
        assert caught.value.outcome is Outcome.GARBLED


def test_content_of_the_most_bytes_is_read() -> None:
    assert b"".join(decoded(iter([b"x" * 60, b"x" * 40]), {}, 100)) == b"x" * 100
    with pytest.raises(VendorError, match="more than"):
        list(decoded(iter([b"x" * 60, b"x" * 41]), {}, 100))
