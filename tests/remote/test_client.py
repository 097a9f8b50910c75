"""The client with a vendor in this process: bounds on names, and secrets that change."""

from __future__ import annotations

from typing import Any

import pytest

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import RemoteError
from denoised_smoothing.remote.client import QueryClient
from denoised_smoothing.remote.labels import AnswerRule, Scored
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import MemoryLog
from denoised_smoothing.remote.records import CopyKey, Outcome
from denoised_smoothing.remote.vendors.base import Reply
from denoised_smoothing.remote.vendors.simulated import Simulated


class Made(Simulated):
    """Answers with a label and a version."""

    def __init__(self, label: str, version: str = "1") -> None:
        super().__init__()
        self.answer = {"label": label, "version": version}

    def query(self, image: bytes) -> Any:
        return self.answer

    def reply(self, answer: Any) -> Reply:
        return Reply([Scored(answer["label"], 1.0)], answer["version"])


class Renewing(Made):
    """Gets a new token during each query, which its answer quotes."""

    def query(self, image: bytes) -> Any:
        self.keep_secrets("token-2")
        return self.answer


def sent(vendor: Simulated, log: MemoryLog) -> Any:
    """The label of one query, or its error."""
    settings = ClientSettings(attempts=1, first_wait=0.01)
    client = QueryClient(vendor, AnswerRule(), log, settings)
    try:
        (vote,) = client.submit([CopyKey("i", Stage.SELECTION, 0)], [lambda: b"image"])
        return vote.exception(10) or vote.result()
    finally:
        client.close()


@pytest.mark.parametrize(
    "vendor", [Made("x" * 1_001), Made("cat", "1" * 1_001)], ids=["label", "version"]
)
def test_an_answer_with_an_over_long_name_is_garbled(vendor: Made) -> None:
    log = MemoryLog()
    error = sent(vendor, log)
    assert isinstance(error, RemoteError)
    assert "a name of 1,001 characters, at most 1,000" in str(error)
    assert [attempt.outcome for attempt in log.history()] == [Outcome.GARBLED]
    assert sent(Made("x" * 1_000), MemoryLog()) == "x" * 1_000


def test_a_secret_that_a_query_renewed_is_masked_in_its_answer() -> None:
    vendor, log = Renewing("token-1 and token-2"), MemoryLog()
    vendor.keep_secrets("token-1")
    assert sent(vendor, log) == "[secret] and [secret]"
    [attempt] = log.history()
    assert "token-" not in str(attempt)


def test_the_vendor_gets_the_settings_of_the_client() -> None:
    from denoised_smoothing.remote.classifier import RemoteClassifier

    class Connected(Simulated):
        def connect(self, **settings: Any) -> None:
            self.settings = settings

    settings = ClientSettings(timeout=3.0, in_flight=2, largest_answer=5_000)
    with RemoteClassifier(vendor := Connected(), settings=settings).session():
        assert vendor.settings == {"timeout": 3.0, "in_flight": 2, "largest_answer": 5_000}
