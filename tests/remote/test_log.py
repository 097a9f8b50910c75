from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import RunNotFoundError
from denoised_smoothing.remote.log import MemoryLog, QueryLog, StoreLog
from denoised_smoothing.remote.records import Attempt, CopyKey, Outcome, Spending, spending_of
from denoised_smoothing.store import Store

FIXTURES = Path(__file__).parents[1] / "fixtures"


def sent(copy: int, number: int = 1, image_id: str = "a") -> Attempt:
    key = CopyKey(image_id, Stage.ESTIMATION, copy)
    return Attempt(key, number, "aws", "DetectLabels", "0" * 64, 0.001, "2026-01-02T03:04:05.678")


def answered(attempt: Attempt) -> Attempt:
    return replace(
        attempt, outcome=Outcome.ANSWERED, label="cat", final=True, version="3.0",
        answer='{"Labels":[]}', seconds=0.25,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s.sqlite") as store:
        store.begin("run", {}, seed=1, info={"label_names": ["cat"], "command": "x"})
        store.begin("other", {}, seed=1, info={})
        yield store


@pytest.fixture(params=["memory", "store"])
def log(request: pytest.FixtureRequest, store: Store) -> QueryLog:
    return MemoryLog() if request.param == "memory" else StoreLog(store, "run")


class TestContract:
    """What every log promises."""

    def test_attempts_are_there_before_and_after(self, log: QueryLog) -> None:
        attempts = [sent(0), sent(1), sent(1, 2)]
        log.write(attempts[:2], [])
        assert list(log.history()) == attempts[:2]
        failed = replace(attempts[1], outcome=Outcome.TIMEOUT, seconds=3.0)
        log.write(attempts[2:], [answered(attempts[0]), failed])
        held = [replace(attempt, answer=None) for attempt in log.history()]
        assert held == [replace(answered(attempts[0]), answer=None), failed, attempts[2]]

    def test_nothing_is_no_change(self, log: QueryLog) -> None:
        log.write([], [])
        assert list(log.history()) == []


def test_runs_have_logs_of_their_own(store: Store) -> None:
    StoreLog(store, "run").write([sent(0)], [])
    StoreLog(store, "other").write([sent(0), sent(0, image_id="b")], [])
    assert len(list(StoreLog(store, "run").history())) == 1
    assert len(list(StoreLog(store, "other").history())) == 2
    with pytest.raises(RunNotFoundError, match="No run 'none'"):
        StoreLog(store, "none")


def test_an_attempt_cannot_begin_twice(store: Store) -> None:
    log = StoreLog(store, "run")
    log.write([sent(0)], [])
    with pytest.raises(Exception, match="UNIQUE"):
        log.write([sent(1), sent(0)], [])
    assert list(log.history()) == [sent(0)]


def test_the_vendors_answer_is_kept_as_it_was(store: Store) -> None:
    log = StoreLog(store, "run")
    log.write([sent(0)], [answered(sent(0))])
    assert log.answer(sent(0).key) == '{"Labels":[]}'
    assert log.answer(sent(1).key) is None


def test_spending_is_counted_by_outcome(store: Store) -> None:
    attempts = [replace(sent(copy), outcome=outcome) for copy, outcome in enumerate(Outcome)]
    StoreLog(store, "run").write(attempts, [])
    spent = StoreLog(store, "run").spending()
    assert spent == spending_of(attempts)
    assert spent.attempts == len(Outcome) == 12
    assert (spent.charged, spent.doubtful, spent.free) == (3, 4, 5)
    assert (spent.cost, spent.doubtful_cost) == pytest.approx((0.003, 0.004))
    assert spent.queries == 7
    assert spent.max_cost == pytest.approx(0.007)
    assert Spending().plus(Outcome.SENT, 2.0).doubtful_cost == 2.0


def test_labels_of_a_run_are_renamed_in_its_info_alone(store: Store) -> None:
    store.note("run", label_names=["cat", "dog"])
    assert store.run("run").info == {"label_names": ["cat", "dog"], "command": "x"}
    with pytest.raises(RunNotFoundError):
        store.note("none", label_names=[])
