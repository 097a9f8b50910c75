from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.store import Store
from denoised_smoothing.web.app import create_app
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.served import ServedModels, ServedNames
from denoised_smoothing.web.service import Service

HERE = "http://127.0.0.1"


@pytest.fixture(scope="session")
def models() -> ServedModels:
    return ServedModels(ServedNames(engine=EngineName.TORCH))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "runs.sqlite") as opened:
        yield opened


@pytest.fixture
def service(models: ServedModels, store: Store) -> Service:
    return Service(models, store, Limits(copies=20_000, rate=100_000, grace=1))


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service), base_url=HERE, raise_server_exceptions=False) as opened:
        yield opened


@contextmanager
def running(service: Service) -> Iterator[str]:
    """Run a server in a thread; yields its address."""
    config = uvicorn.Config(create_app(service), "127.0.0.1", 0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def live(service: Service) -> Iterator[str]:
    with running(service) as address:
        yield address
