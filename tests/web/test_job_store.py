"""Requests in the store: kept, marked, resumed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.store import JOBS, Store
from denoised_smoothing.web import job_store as module
from denoised_smoothing.web.job_store import JobRecord, JobStore, State

COUNTS = (LabelCounts("a", "image", Stage.ESTIMATION, (3, 4), 1),)


def record(name: str, state: State = State.RUNNING) -> JobRecord:
    return JobRecord(name, "certificate", {"ask": {"n": 5}}, 2**127 + 1, b"png", state, COUNTS)


def test_what_is_put_is_got_back(store: Store) -> None:
    jobs = JobStore(store)
    put = record("a")
    jobs.put(put)
    assert jobs.get("a") == put
    jobs.flush()
    assert jobs.get("a") == put
    jobs.put(replace(put, state=State.DONE, answer={"label": 1}, image=None))
    jobs.close()
    with_answer = JobStore(store).get("a")
    assert with_answer is not None
    assert (with_answer.state, with_answer.answer, with_answer.image) == (
        State.DONE,
        {"label": 1},
        None,
    )
    assert JobStore(store).get("b") is None


def test_counts_in_lists_of_an_earlier_version_are_read(store: Store) -> None:
    jobs = JobStore(store)
    jobs.put(record("a"))
    jobs.close()
    lists = [["a", "image", "estimation", [3, 4], 1]]
    with store.transaction(write=True) as connection:
        assert connection.execute(sa.update(JOBS).values(counts=lists)).rowcount == 1
    read = JobStore(store).get("a")
    assert read is not None
    assert read.counts == COUNTS


def test_what_was_running_is_interrupted(store: Store) -> None:
    jobs = JobStore(store)
    for name, state in (("a", State.RUNNING), ("b", State.DONE), ("c", State.FAILED)):
        jobs.put(record(name, state))
    jobs.close()
    again = JobStore(store)
    states = {name: held.state for name in "abc" if (held := again.get(name))}
    assert states == {"a": State.INTERRUPTED, "b": State.DONE, "c": State.FAILED}
    left = again.get("a")
    assert left is not None
    assert left.counts == COUNTS
    assert left.image == b"png"


def test_the_oldest_are_dropped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    jobs = JobStore(store)
    for number in range(6):
        jobs.put(record(str(number), State.DONE))
        time.sleep(0.002)
    jobs.close()
    assert [held.id for held in JobStore(store).newest(10)] == ["5", "4", "3"]


def test_a_store_of_runs_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    with Store(path) as store:
        JobStore(store).close()
    with Store(path, read_only=True) as store:
        assert store.runs() == []
        assert store.finished() == {}
