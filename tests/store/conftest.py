from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .servers import Server, running


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What names a new store, on each kind of database."""
    if request.param == "sqlite":
        return str(tmp_path / "runs.sqlite")
    server: Server = request.getfixturevalue("server")
    return server.database()
