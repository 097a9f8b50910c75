"""A vision-language model on a server that does not know JSON schemas."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake import FakeVendor, Trouble, in_turn
from vendors import BY_NAME, prepare

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import ModelChangedError, RemoteError
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import CopyKey, Outcome
from denoised_smoothing.remote.vendors.openai import WITHOUT_SCHEMA, OpenAI
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

QUICK = ClientSettings(in_flight=4, rate=None, timeout=5.0, attempts=3, first_wait=0.01)
DATA = ImageDataset(
    "folder:made", "f", ["one"], lambda index: np.full((3, 16, 16), 0.2, np.float32), [None]
)


@pytest.fixture
def fake() -> Iterator[FakeVendor]:
    with FakeVendor() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs.sqlite")


def certify(store: Store, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch, n: int = 30) -> OpenAI:
    vendor = prepare(monkeypatch, BY_NAME["openai"], fake.url)
    assert isinstance(vendor, OpenAI)
    remote = RemoteClassifier(vendor, AnswerRule(allowed=("cat", "dog")), settings=QUICK)
    smoothed = SmoothedClassifier(remote, 0.25, device="cpu")
    plan = FixedBudget(n0=10, n=n)
    CertificationRun(smoothed, DATA, plan, 0.01, name="run", seed=1).execute(store)
    return vendor


def test_it_is_asked_without_one_and_the_run_says_so(
    store: Store,
    fake: FakeVendor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake.script = in_turn([Trouble.SCHEMA])
    with caplog.at_level(logging.WARNING):
        vendor = certify(store, fake, monkeypatch)
    assert caplog.messages == [WITHOUT_SCHEMA]
    assert vendor.notes == (WITHOUT_SCHEMA,)
    attempts = list(StoreLog(store, "run").history())
    first = [a.outcome for a in attempts if a.key == CopyKey("one", Stage.SELECTION, 0)]
    assert first == [Outcome.FAILED, Outcome.ANSWERED]
    assert {a.version for a in attempts if a.version} == {"vision-3.0 without JSON schema"}
    assert fake.attempts == len(attempts) == 41
    [result] = load_results(store, "run").images
    assert result.predicted == 0
    assert WITHOUT_SCHEMA in result.certificate.notes


def test_once_it_has_answered_with_one_a_refusal_is_one(
    store: Store, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.script = in_turn([None, Trouble.SCHEMA])
    assert certify(store, fake, monkeypatch).notes == ()
    outcomes = [attempt.outcome for attempt in StoreLog(store, "run").history()]
    assert outcomes.count(Outcome.REJECTED) == 1


def test_another_error_is_no_sign_of_it(
    store: Store, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.script = lambda number, image: Trouble.REJECTED
    with pytest.raises(RemoteError, match="invalid_image"):
        certify(store, fake, monkeypatch)


def test_a_resumed_run_does_not_mix_answers_with_and_without(
    store: Store, fake: FakeVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.script = in_turn([None, None, *[Trouble.KEY] * 9])
    with pytest.raises(RemoteError):
        certify(store, fake, monkeypatch)
    fake.script = lambda number, image: Trouble.SCHEMA if number == fake.first else None
    fake.first = fake.attempts
    with pytest.raises(ModelChangedError, match="without JSON schema"):
        certify(store, fake, monkeypatch)


def test_the_labels_are_named_to_every_server(monkeypatch: pytest.MonkeyPatch) -> None:
    request = OpenAI("m", ("cat", "überlabel"))._request(b"\x89PNG")
    text = request["messages"][0]["content"][0]["text"]
    assert '["cat", "überlabel"]' in text
    assert request["response_format"]["json_schema"]["strict"]
