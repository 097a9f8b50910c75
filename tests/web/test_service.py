"""The service without its routes: requests at the same moment, attacks that end early, the stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from denoised_smoothing.attacks import pgd
from denoised_smoothing.errors import BusyError, SettingError
from denoised_smoothing.store import Store
from denoised_smoothing.web import service as service_module
from denoised_smoothing.web.job_store import State
from denoised_smoothing.web.jobs import AttackJob, Job, PredictionJob
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.schemas import AttackRequest, PredictionRequest
from denoised_smoothing.web.served import ServedModels
from denoised_smoothing.web.service import Service

LONG = (PredictionJob, PredictionRequest(example="0", n=90_000), None, "a")


@contextmanager
def opened(models: ServedModels, store: Store, limits: Limits) -> Iterator[Service]:
    service = Service(models, store, limits)
    service.start()
    try:
        yield service
    finally:
        service.close()


ATTACK = (
    AttackJob,
    AttackRequest(example="0", label=0, epsilon=1.0, steps=200, copies=256),
    None,
    "a",
)
"""Takes many seconds."""


def wait_for(what: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.02)
    return what()


def together(ask: Callable[[], Job], monkeypatch: pytest.MonkeyPatch) -> list[Job | Exception]:
    """Send two requests that both pass the checks before the image is read."""
    both, check = threading.Barrier(2, timeout=20), Job.check

    def meet(job: Job, limits: Limits) -> None:
        check(job, limits)
        both.wait()

    monkeypatch.setattr(Job, "check", meet)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
    return [asking.exception() or asking.result() for asking in asked]  # type: ignore[misc]


def test_the_last_place_is_given_once(
    models: ServedModels, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(models, store, Limits(queue=1, grace=1)) as service:
        answers = together(lambda: service.submit(*LONG), monkeypatch)
        assert sorted(isinstance(answer, BusyError) for answer in answers) == [False, True]
        assert len(service._jobs) == 1


def test_a_request_is_resumed_once(
    models: ServedModels, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(models, store, Limits(grace=1)) as service:
        job = service.submit(*LONG)
        service.cancel(job)
        assert wait_for(lambda: len(service._jobs) == 0)
        record = service._record(job, State.INTERRUPTED)
        answers = together(lambda: service.resume(record, "a"), monkeypatch)
        refused = [answer for answer in answers if isinstance(answer, SettingError)]
        assert len(refused) == 1
        assert "already pending" in str(refused[0])
        assert len(service._jobs) == 1


def test_cancelled_attacks_free_their_places_at_once(models: ServedModels, store: Store) -> None:
    with opened(models, store, Limits(grace=1)) as service:
        jobs = [service.submit(*ATTACK) for _ in range(4)]
        for job in jobs:
            service.cancel(job)
        assert len(service._jobs) == 0
        states = {record.state for record in service.job_store.newest(10)}
        assert states == {State.CANCELLED}


def test_the_stop_waits_for_a_step_of_an_attack_and_not_for_all(
    models: ServedModels, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, steps = threading.Event(), []
    gradient = pgd._gradient

    def counted(*args: object) -> object:
        began.set()
        steps.append(args)
        time.sleep(0.02)  # so that all of them take longer than the grace, on any machine
        return gradient(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pgd, "_gradient", counted)
    with opened(models, store, Limits(grace=1)) as service:
        job = service.submit(*ATTACK)
        assert began.wait(60)
    assert 1 <= len(steps) < 200
    record = service.job_store.get(job.id)
    assert record is not None
    assert record.state is State.INTERRUPTED
    assert record.image is not None


def test_the_grace_counts_from_the_signal(
    models: ServedModels, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has waited already when it closes the service."""
    waits: list[float] = []
    with opened(models, store, Limits(grace=1)) as service:
        service.submit(*ATTACK)
        service.begin_closing()
        time.sleep(1.05)
        monkeypatch.setattr(service_module.time, "sleep", waits.append)
    assert waits == []
