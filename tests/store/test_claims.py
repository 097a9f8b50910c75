"""store/claims.py: one driver a run, on both kinds of database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from filelock import FileLock

from denoised_smoothing.errors import RunBusyError, StoreError
from denoised_smoothing.store import Store
from denoised_smoothing.store.tables import DRIVERS

from .servers import Server
from .test_contract import IMAGES, image

DRIVER = """
import sys, time
from denoised_smoothing.store import Store
with Store(sys.argv[1]) as store, store.claim("run"):
    print("claimed", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(target: str) -> Iterator[Store]:
    with Store(target) as store:
        store.begin("run", {}, seed=0, info={})
        yield store


def test_a_second_driver_is_refused_and_told_who_works(store: Store, target: str) -> None:
    with Store(target) as other:
        with store.claim("run"):
            store.save_images("run", IMAGES)
            said = rf"'run' is being worked on by process {os.getpid()} on .* \(since .* resume\.$"
            with pytest.raises(RunBusyError, match=said), other.claim("run"):
                raise AssertionError
            with other.claim("another"):
                pass
        with other.claim("run"):
            other.save_images("run", [image("c", 2)])
    assert len(store.images("run")) == 3


def test_a_run_is_taken_over_when_its_driver_is_killed(store: Store, target: str) -> None:
    command = [sys.executable, "-c", DRIVER, target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "claimed\n"
        with pytest.raises(RunBusyError, match=f"process {driver.pid} on"), store.claim("run"):
            raise AssertionError
        driver.kill()
        driver.wait()
    for _ in range(50):  # the server needs a moment to see it
        try:
            with store.claim("run"):
                store.save_images("run", IMAGES)
            break
        except RunBusyError:
            continue
    assert store.images("run") == IMAGES


def test_what_a_driver_writes_after_it_was_replaced_is_refused(store: Store) -> None:
    with store.claim("run"):
        store.save_images("run", IMAGES)
        with store.transaction(write=True) as connection:
            connection.execute(sa.update(DRIVERS).values(token="other", name="the other one"))
        with pytest.raises(RunBusyError, match="'run' was taken over by the other one"):
            store.save_images("run", [image("c", 2)])
        assert store.images("run") == IMAGES
    with store.transaction() as connection:
        assert connection.execute(sa.select(DRIVERS.c.name)).scalar_one() == "the other one"


def test_a_claim_outlasts_a_second_one_that_is_refused(store: Store) -> None:
    with store.claim("run"):
        with pytest.raises(RunBusyError), store.claim("run"):
            raise AssertionError
        store.save_images("run", IMAGES)
        with store.transaction(write=True) as connection:
            connection.execute(sa.update(DRIVERS).values(token="other", name="the other one"))
        with pytest.raises(RunBusyError, match="'run' was taken over by the other one"):
            store.save_images("run", [image("c", 2)])


def test_a_link_to_a_store_is_locked_as_the_store(tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.sqlite"
    link.parent.mkdir()
    with Store(tmp_path / "runs.sqlite") as store:
        link.symlink_to(tmp_path / "runs.sqlite")
        with (
            Store(link) as other,
            store.claim("run"),
            pytest.raises(RunBusyError, match="is being worked on"),
            other.claim("run"),
        ):
            raise AssertionError


@pytest.mark.parametrize(
    "error", [IsADirectoryError(21, "a folder"), PermissionError(13, "no"), NotImplementedError()]
)
def test_a_lock_that_cannot_be_taken_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(lock: FileLock) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", fail)
    said = (
        r"The lock .*runs.sqlite\..*\.lock cannot be taken .* Delete it if no driver runs, or move"
    )
    with (
        Store(tmp_path / "runs.sqlite") as store,
        pytest.raises(StoreError, match=said),
        store.claim("run"),
    ):
        raise AssertionError


def test_nothing_is_left_of_a_claim(store: Store, target: str, tmp_path: Path) -> None:
    with store.claim("run"):
        pass
    with store.transaction() as connection:
        assert connection.execute(sa.select(DRIVERS)).all() == []
    assert not list(tmp_path.glob("*.lock"))


def test_a_lock_that_was_lost_with_its_connection_is_taken_again(server: Server) -> None:
    target = server.database()
    with Store(target) as store, Store(target) as other:
        store.begin("run", {}, seed=0, info={})
        with store.claim("run"):
            with other.transaction(write=True) as connection:
                connection.exec_driver_sql(
                    "select pg_terminate_backend(pid) from pg_locks "
                    "where locktype = 'advisory' and pid <> pg_backend_pid()"
                )
            store.save_images("run", IMAGES)
            with pytest.raises(RunBusyError), other.claim("run"):
                raise AssertionError
    assert server.port
