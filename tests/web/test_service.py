"""The service without its routes: requests that come at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from denoised_smoothing.errors import SettingError
from denoised_smoothing.store import Store
from denoised_smoothing.web.jobs import Job
from denoised_smoothing.web.journal import State
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.offer import Offer
from denoised_smoothing.web.schemas import PredictionRequest
from denoised_smoothing.web.service import BusyError, Service

LONG = ("prediction", PredictionRequest(example="0", n=90_000), None, "a")


@contextmanager
def opened(offer: Offer, store: Store, limits: Limits) -> Iterator[Service]:
    service = Service(offer, store, limits)
    service.start()
    try:
        yield service
    finally:
        service.close()


def wait_for(what: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.02)
    return what()


def together(
    service: Service, ask: Callable[[], Job], monkeypatch: pytest.MonkeyPatch
) -> list[Job | Exception]:
    """What comes of asking twice, when both have passed the checks before the image is read."""
    both, made = threading.Barrier(2, timeout=20), service._job

    def meet(*args: object) -> Job:
        job = made(*args)  # type: ignore[arg-type]
        both.wait()
        return job

    monkeypatch.setattr(service, "_job", meet)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
    return [asking.exception() or asking.result() for asking in asked]  # type: ignore[misc]


def test_the_last_place_is_given_once(
    offer: Offer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(offer, store, Limits(queue=1, grace=1)) as service:
        told = together(service, lambda: service.submit(*LONG), monkeypatch)
        assert sorted(isinstance(answer, BusyError) for answer in told) == [False, True]
        assert service.open == 1


def test_a_request_is_resumed_once(
    offer: Offer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(offer, store, Limits(grace=1)) as service:
        job = service.submit(*LONG)
        service.cancel(job)
        assert wait_for(lambda: service.open == 0)
        record = service._record(job, {}).ended(State.INTERRUPTED)
        told = together(service, lambda: service.resume(record, "a"), monkeypatch)
        refused = [answer for answer in told if isinstance(answer, SettingError)]
        assert len(refused) == 1
        assert "on its way already" in str(refused[0])
        assert service.open == 1
