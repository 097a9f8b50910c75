"""A store whose file is deleted, moved or replaced while it is open."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy as sa

from denoised_smoothing.errors import SettingError, StoreError
from denoised_smoothing.store import RUNS, Store
from denoised_smoothing.store.place import POOLED, back_up


def delete(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.sqlite"))


def replace(path: Path) -> None:
    other = path.with_name("other.sqlite")
    Store(other).close()
    os.replace(other, path)


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def remove_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def remove_log_index(path: Path) -> None:
    path.with_name(f"{path.name}-shm").unlink()


def truncate(path: Path) -> None:
    path.write_bytes(b"")


def write_text(path: Path) -> None:
    path.write_bytes(b"idx label predict radius correct time" * 1000)


def copy_another(path: Path) -> None:
    """The file stays the same for the file system; its content is another store."""
    other = path.with_name("other.sqlite")
    with Store(other) as store:
        store.begin("other", {}, seed=1, info={})
    path.write_bytes(other.read_bytes())


def copy_a_backup(path: Path) -> None:
    with Store(path, read_only=True) as store:
        store.back_up(path.with_name("backup.sqlite"))
    path.write_bytes(path.with_name("backup.sqlite").read_bytes())


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "folder" / "runs.sqlite"


def rescued(error: pytest.ExceptionInfo[StoreError]) -> Path:
    found = re.search(r"All that was saved is in (\S+)\. Move that file to", str(error.value))
    assert found is not None, error.value
    return Path(found[1])


@pytest.mark.parametrize("lose", [delete, move, replace])
def test_what_is_saved_while_others_read_is_rescued(
    lose: Callable[[Path], None], path: Path
) -> None:
    with Store(path) as store:
        store.begin("before", {}, seed=1, info={})
        lose(path)
        with ExitStack() as stack:
            for _ in range(3):
                reader = stack.enter_context(store.transaction())
                assert reader.scalar(sa.select(RUNS.c.name)) == "before"
            with pytest.raises(StoreError) as caught:
                store.begin("after", {}, seed=2, info={})
    with Store(rescued(caught), read_only=True) as copy:
        assert sorted(run.name for run in copy.runs()) == ["after", "before"]


@pytest.mark.parametrize(
    "lose", [delete, move, replace, remove_folder, remove_log, remove_log_index]
)
def test_all_that_was_saved_is_rescued(lose: Callable[[Path], None], path: Path) -> None:
    with Store(path) as store:
        store.begin("before", {"a": 1}, seed=1, info={})
        store.check_place()
        lose(path)
        with pytest.raises(StoreError) as caught:
            store.check_place()
        with Store(rescued(caught), read_only=True) as copy:
            assert [run.name for run in copy.runs()] == ["before"]
        with pytest.raises(StoreError, match=r"was (deleted, moved or|separated)") as again:
            store.begin("after", {}, seed=2, info={})
    assert rescued(again) == rescued(caught), "one file, with what came later"
    with Store(rescued(again), read_only=True) as copy:
        assert sorted(run.name for run in copy.runs()) == ["after", "before"]
    assert not list(path.parent.parent.glob("**/*-wal"))


@pytest.mark.parametrize("lose", [truncate, write_text, copy_another, copy_a_backup])
@pytest.mark.parametrize("folded", [False, True])
def test_a_store_that_is_overwritten_is_not_said_to_be_whole(
    lose: Callable[[Path], None], folded: bool, path: Path
) -> None:
    with Store(path) as store:
        store.begin("before", {}, seed=1, info={})
        if folded:  # the log holds nothing
            with closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.check_place()
        lose(path)
        for _ in range(2):
            with pytest.raises(StoreError, match="was overwritten by another program") as caught:
                store.check_place()
            assert "All that was saved" not in str(caught.value)
        assert ("may be lost; the rest is in" in str(caught.value)) is not folded
        with pytest.raises(StoreError, match="was overwritten by another program"):
            store.begin("after", {}, seed=2, info={})


def test_a_store_whose_file_is_compacted_by_another_program_is_kept(path: Path) -> None:
    with Store(path) as store:
        store.begin("run", {}, seed=1, info={"text": "x" * 100_000})
        store.note("run", text="")
        with closing(sqlite3.connect(path)) as other:
            other.execute("VACUUM")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.check_place()
        store.note("run", word="kept")


@pytest.mark.parametrize("lose", [delete, replace])
def test_a_new_connection_does_not_open_another_file(
    lose: Callable[[Path], None], path: Path
) -> None:
    with Store(path) as store:
        store.begin("run", {}, seed=1, info={})
        with ExitStack() as stack:
            for _ in range(POOLED):  # the connections of the pool are in use
                stack.enter_context(store.transaction())
            lose(path)
            for _ in range(2):
                with pytest.raises(StoreError, match="was deleted, moved or replaced") as caught:
                    store.runs()
        assert path.exists() is (lose is replace), "no empty file was made"
        with Store(rescued(caught), read_only=True) as copy:
            assert [run.name for run in copy.runs()] == ["run"]


def test_a_rescue_is_written_once_for_what_several_threads_save(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = list[Path]()

    def counting(source: sqlite3.Connection, target: Path) -> None:
        copies.append(target)
        back_up(source, target)

    def begin(number: int) -> Path:
        with pytest.raises(StoreError) as caught:
            store.begin(f"run {number}", {}, seed=1, info={})
        return rescued(caught)

    monkeypatch.setattr("denoised_smoothing.store.place.back_up", counting)
    monkeypatch.setattr("denoised_smoothing.store.place.SHORTEST_PAUSE", 2.0)
    with Store(path) as store:
        delete(path)
        for _ in range(3):
            with pytest.raises(StoreError):
                store.check_place()
        assert len(copies) == 1
        with ThreadPoolExecutor(8) as threads:
            [found] = set(threads.map(begin, range(8)))
        assert 2 <= len(copies) <= 4
        with Store(found, read_only=True) as copy:
            assert len(copy.runs()) == 8
        found.unlink()
        with pytest.raises(StoreError):
            store.check_place()
        assert found.exists(), "what the message names exists"


def test_a_rescue_is_never_replaced_by_one_with_less(path: Path) -> None:
    with Store(path) as store:
        store.begin("run", {}, seed=1, info={})
        delete(path)
        with pytest.raises(StoreError) as caught:
            store.check_place()
        missing = f"rows are missing from it. What was saved before that is in {rescued(caught)}. "
        with (
            pytest.raises(StoreError, match=re.escape(missing)),
            store.transaction(write=True) as connection,
        ):
            connection.execute(sa.delete(RUNS))
    with Store(rescued(caught), read_only=True) as copy:
        assert [run.name for run in copy.runs()] == ["run"]


def test_a_rescued_store_goes_on_in_its_place(path: Path) -> None:
    with Store(path) as store:
        store.begin("run", {}, seed=1, info={})
        delete(path)
        with pytest.raises(StoreError) as caught:
            store.note("run", word="kept")
    rescued(caught).rename(path)
    with Store(path) as store:
        assert store.run("run").info["word"] == "kept"
        store.note("run", word="changed")
        store.check_place()


def test_where_nothing_can_be_rescued_it_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path) as store:
        delete(path)
        monkeypatch.setattr("denoised_smoothing.store.place.back_up", refuse)
        with pytest.raises(
            StoreError, match=r"cannot be kept: none of .* can be written\. Restore"
        ):
            store.check_place()


def test_folders_that_the_system_cannot_name_are_left_out(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Store(path) as store:
        store.begin("run", {}, seed=1, info={})
        monkeypatch.chdir(path.parent)
        shutil.rmtree(path.parent)
        with pytest.raises(StoreError) as caught:
            store.check_place()
        monkeypatch.chdir(tmp_path)
    assert rescued(caught).parent == tmp_path
    with Store(rescued(caught), read_only=True) as copy:
        assert [run.name for run in copy.runs()] == ["run"]


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def refuse(*_: object) -> None:
    raise OSError("no space")


def test_a_backup_is_whole_while_others_write(path: Path) -> None:
    copy = path.with_name("copy.sqlite")
    with Store(path) as writing:
        writing.begin("run", {}, seed=1, info={})
        with Store(path, read_only=True) as reading:
            reading.back_up(copy)
        writing.begin("later", {}, seed=2, info={})
    assert [file.name for file in path.parent.glob("copy*")] == ["copy.sqlite"]
    with Store(copy) as store:
        assert [run.name for run in store.runs()] == ["run"]
        with pytest.raises(SettingError, match=r"copy\.sqlite exists already"):
            store.back_up(copy)
        with pytest.raises(StoreError, match=r"The copy .*/none/a\.sqlite cannot be written"):
            store.back_up(path.parent / "none" / "a.sqlite")


def test_a_store_that_others_have_open_is_whole_in_its_file_when_it_is_closed(path: Path) -> None:
    """The log is folded into the file, unless somebody reads the file at this moment."""
    copy = path.with_name("copy.sqlite")
    with Store(path) as other:
        with Store(path) as store:
            store.begin("run", {}, seed=1, info={})
        shutil.copy(path, copy)
        with other.transaction() as connection:
            connection.execute(sa.select(RUNS)).all()
            store = Store(path)
            store.note("run", word="kept")
            begun = time.monotonic()
            store.close()
            assert time.monotonic() - begun < 10
        store.close()
        assert other.run("run").info["word"] == "kept"
    with Store(copy, read_only=True) as opened:
        assert [run.name for run in opened.runs()] == ["run"]


def test_a_backup_that_fails_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = path.with_name("copy.sqlite")
    with Store(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr("denoised_smoothing.store.place.closing", full)
            with pytest.raises(StoreError, match=r"sqlite cannot be written \(disk is full\)"):
                store.back_up(copy)
        assert not list(path.parent.glob("*copy*"))
        store.back_up(copy)


@contextmanager
def full(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A disk that is full once the copy is written in part."""
    with closing(connection):
        connection.execute("CREATE TABLE part (a)")
        yield connection
        raise sqlite3.OperationalError("disk is full")


def read_as_another_user(folder: Path, telling: Connection) -> None:
    """Root may write everywhere; tests run as root in containers."""
    try:
        if os.getuid() == 0:
            os.setuid(65534)
        with Store(folder / "runs.sqlite", read_only=True) as store:
            telling.send([run.name for run in store.runs()])
    except BaseException as error:
        telling.send(repr(error))
        raise


def read_only_medium(folder: Path) -> object:
    """The names of the runs, or the error, as a user finds it who cannot write there."""
    (folder / "runs.sqlite").chmod(0o444)
    folder.chmod(0o555)
    try:
        context = multiprocessing.get_context("fork")
        asking, telling = context.Pipe(duplex=False)
        reader = context.Process(target=read_as_another_user, args=(folder, telling))
        reader.start()
        found = asking.recv()
        reader.join()
    finally:
        folder.chmod(0o755)
        (folder / "runs.sqlite").chmod(0o644)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user can enter."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_a_finished_store_is_read_from_a_medium_that_cannot_be_written(folder: Path) -> None:
    """SQLite itself refuses: it cannot make the files next to it that its log needs."""
    with Store(folder / "runs.sqlite") as store:
        store.begin("run", {}, seed=1, info={})
    assert read_only_medium(folder) == ["run"]


def test_half_of_a_transaction_is_never_read(path: Path, folder: Path) -> None:
    with Store(path) as store:
        for number in range(100):
            store.begin(f"run {number}", {}, seed=1, info={"text": "x" * 10_000})
        store.back_up(path.with_name("copy.sqlite"))
        expected = [run.name for run in store.runs()]
    with closing(sqlite3.connect(path.with_name("copy.sqlite"))) as writing:
        writing.execute("PRAGMA cache_size=1")
        writing.execute("UPDATE runs SET info = replace(info, 'x', 'y'), name = name || '!'")
        for end in ("", "-journal"):  # as after a kill
            copy = folder / f"runs.sqlite{end}"
            shutil.copy(path.with_name(f"copy.sqlite{end}"), copy)
            copy.chmod(0o644)
    found = str(read_only_medium(folder))
    assert "runs.sqlite-journal has changes that are not in the file" in found
    assert "Copy both files to a folder that can be written" in found
    with Store(folder / "runs.sqlite", read_only=True) as store:
        assert [run.name for run in store.runs()] == expected
        assert all("y" not in run.info["text"] for run in store.runs())


def test_a_log_that_cannot_be_applied_is_named(path: Path, folder: Path) -> None:
    with Store(path) as store:
        store.begin("run", {}, seed=1, info={})
        for end in ("", "-wal"):
            shutil.copy(path.with_name(f"runs.sqlite{end}"), folder)
    found = str(read_only_medium(folder))
    assert "runs.sqlite-wal has changes that are not in the file" in found
    with Store(folder / "runs.sqlite", read_only=True) as store:
        assert [run.name for run in store.runs()] == ["run"]


def test_a_copy_gets_its_log_again_when_it_is_written(path: Path) -> None:
    copy = path.with_name("copy.sqlite")
    with Store(path) as store:
        store.back_up(copy)
    with Store(copy) as store:
        with store.transaction() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        store.check_place()
