from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import (
    CountsError,
    RunMismatchError,
    RunNotFoundError,
    SchemaTooNewError,
    SettingError,
    StoreError,
)
from denoised_smoothing.store import SCHEMA_VERSION, Store, StoredExample, StoredImage
from denoised_smoothing.store.place import POOLED

FIXTURES = Path(__file__).parents[1] / "fixtures"
SEED = 2**128 - 1
SETTINGS: dict[str, Any] = {
    "data": "digits",
    "denoiser": None,
    "sigma": 0.1 + 0.2,
    "plan": {"kind": "fixed", "n0": 100, "n": 1000},
}
INFO = {"label_names": ["zero", "é"], "versions": {"numpy": "2"}}
EXAMPLES = [
    StoredExample("a", "clean", 0, b"\x89PNG\x00"),
    StoredExample("a", "noisy", 0, b"\x00"),
    StoredExample("a", "noisy", 1, b"\x01"),
]


def image(
    image_id: str, index: int = 0, votes: tuple[int, ...] = (3, 0, 97), **state: Any
) -> StoredImage:
    counts = {
        Stage.SELECTION: LabelCounts("run", image_id, Stage.SELECTION, (100,)),
        Stage.ESTIMATION: LabelCounts("run", image_id, Stage.ESTIMATION, votes, failed=2),
    }
    return StoredImage(index, image_id, **{"label": 2, "digest": "d", "counts": counts} | state)


IMAGES = [
    image("b", 0, seconds=0.25, finished=True),
    image("a", 1, label=None, counts={}),
]


def fill(store: Store) -> None:
    """What the files in ``fixtures`` hold; a new one is written by this and ``close``."""
    store.begin("run", SETTINGS, seed=SEED, info=INFO)
    store.save_images("run", IMAGES)
    store.save_examples("run", EXAMPLES)


def check_filled(store: Store) -> None:
    run = store.run("run")
    assert (run.name, run.settings, run.seed, run.info) == ("run", SETTINGS, SEED, INFO)
    assert store.images("run") == IMAGES
    assert store.examples("run") == EXAMPLES


@pytest.fixture
def store(target: str) -> Iterator[Store]:
    with Store(target) as store:
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


class TestContract:
    """What every backend promises."""

    def test_what_was_saved_is_read_after_opening_again(self, store: Store, target: str) -> None:
        fill(store)
        check_filled(store)
        store.close()
        with Store(target) as again:
            check_filled(again)
        with Store(target, read_only=True) as reader:
            check_filled(reader)

    def test_a_run_is_dated_in_utc(self, store: Store) -> None:
        created = store.begin("run", {}, seed=None, info={}).created
        assert created.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)

    def test_runs_come_by_creation(self, store: Store) -> None:
        assert store.runs() == []
        begun = [store.begin(name, {}, seed=None, info={}) for name in ("z", "a", "m")]
        assert store.runs() == begun
        assert [run.name for run in begun] == ["z", "a", "m"]

    def test_fresh_seeds_differ_and_are_kept(self, store: Store) -> None:
        first, second = (store.begin(name, {}, seed=None, info={}) for name in ("one", "two"))
        assert first.seed != second.seed  # equal by chance once in 2**128
        assert store.begin("one", {}, seed=None, info={}) == first

    def test_begin_returns_the_run_with_equal_settings(self, store: Store) -> None:
        begun = store.begin("run", SETTINGS, seed=SEED, info=INFO)
        assert store.begin("run", SETTINGS, seed=SEED, info={"other": 1}) == begun
        assert store.begin("run", SETTINGS, seed=None, info=INFO) == begun
        assert len(store.runs()) == 1

    def test_tuples_and_integer_keys_are_equal_to_what_json_makes_of_them(
        self, store: Store
    ) -> None:
        settings = {"radii": (0.25, 0.5), "map": {1: "a"}}
        begun = store.begin("run", settings, seed=0, info={})
        assert begun.settings == {"radii": [0.25, 0.5], "map": {"1": "a"}}
        assert store.begin("run", settings, seed=0, info={}) == begun

    def test_other_settings_are_refused_naming_each(self, store: Store) -> None:
        begun = store.begin("run", SETTINGS, seed=1, info={})
        asked = SETTINGS | {"plan": {"kind": "fixed", "n0": 100, "n": 2000}, "denoiser": "unet"}
        with pytest.raises(RunMismatchError) as caught:
            store.begin("run", asked | {"resolution": 8}, seed=2, info={})
        assert (
            "The run 'run' exists with other settings (denoiser: None in the run, 'unet' "
            "requested; plan.n: 1000 in the run, 2000 requested; resolution: None in the run, 8 "
            "requested; seed: 1 in the run, 2 requested). Use another name with --run"
        ) in str(caught.value)
        assert store.runs() == [begun]

    @pytest.mark.parametrize("value", [float("nan"), Path("x")])
    def test_what_json_cannot_say_is_refused(self, store: Store, value: object) -> None:
        with pytest.raises((TypeError, ValueError), match="JSON"):
            store.begin("run", {"setting": value}, seed=0, info={})
        with pytest.raises((TypeError, ValueError), match="JSON"):
            store.begin("run", {}, seed=0, info={"version": value})
        assert store.runs() == []

    def test_an_unknown_run_is_named_with_the_nearest(self, store: Store) -> None:
        with pytest.raises(RunNotFoundError, match=r"No run 'demo' .*It holds no runs yet"):
            store.run("demo")
        for name in ("demo-0.25", *"abcdef"):
            store.begin(name, {}, seed=None, info={})
        with pytest.raises(RunNotFoundError, match=r"Did you mean 'demo-0.25'\? .*: b, c, d, e, f"):
            store.run("demo-0.5")

    @pytest.mark.parametrize("method", ["images", "examples", "save_images", "save_examples"])
    def test_every_method_refuses_an_unknown_run(self, store: Store, method: str) -> None:
        arguments = [[]] if method.startswith("save") else []
        with pytest.raises(RunNotFoundError, match="No run 'run'"):
            getattr(store, method)("run", *arguments)
        with pytest.raises(RunNotFoundError, match="No run 'run'"):
            store.extend("run", {}, command="")

    def test_extending_replaces_the_plan_and_notes_the_command(self, store: Store) -> None:
        fill(store)
        before, images = store.run("run"), store.images("run")
        store.begin("other", SETTINGS, seed=SEED, info=INFO)
        for times, more in enumerate((100, 300), 1):
            plan = {"kind": "anytime", "radii": (0.25, 0.5), "more": more}
            extended = store.extend("run", plan, command=f"--more {more}")
            assert extended == store.run("run")
            kept = {"kind": "anytime", "radii": [0.25, 0.5], "more": more}
            assert extended.settings == before.settings | {"plan": kept}
            commands = ["--more 100", "--more 300"][:times]
            assert extended.info == before.info | {"continued": commands}
        assert (extended.seed, extended.created) == (before.seed, before.created)
        assert store.images("run") == images
        assert store.run("other").settings == SETTINGS

    def test_extending_by_what_json_cannot_say_changes_nothing(self, store: Store) -> None:
        begun = store.begin("run", SETTINGS, seed=SEED, info=INFO)
        with pytest.raises(ValueError, match="JSON"):
            store.extend("run", {"share": float("nan")}, command="")
        assert store.run("run") == begun

    def test_saving_replaces_the_whole_state(self, store: Store) -> None:
        fill(store)
        later = image("a", 1, votes=(900, 98), seconds=2.0, finished=True)
        store.save_images("run", [image("a", 1, votes=(1,)), later])
        assert store.images("run") == [IMAGES[0], later]
        store.save_examples("run", [StoredExample("a", "noisy", 1, b"new")] * 2)
        assert [example.png for example in store.examples("run")] == [b"\x89PNG\x00", b"\0", b"new"]

    def test_runs_are_apart(self, store: Store) -> None:
        fill(store)
        store.begin("other", {}, seed=None, info={})
        assert (store.images("other"), store.examples("other")) == ([], [])
        store.save_images("other", [image("a", digest="another", counts={})])
        check_filled(store)

    def test_saving_nothing_changes_nothing(self, store: Store) -> None:
        fill(store)
        store.save_images("run", [])
        store.save_examples("run", [])
        check_filled(store)

    def test_data_that_changed_is_refused_and_nothing_saved(self, store: Store) -> None:
        fill(store)
        with pytest.raises(
            StoreError, match=r"data changed under the run 'run': the digests of 1 .* first \['a'\]"
        ) as caught:
            store.save_images("run", [image("new", 2), image("b", 0), image("a", 1, digest="e")])
        assert isinstance(caught.value.__cause__, sa.exc.IntegrityError)
        check_filled(store)

    def test_counts_of_another_run_are_refused(self, store: Store) -> None:
        store.begin("other", {}, seed=None, info={})
        with pytest.raises(
            CountsError, match=r"image 'a' in run 'run' cannot be .* in run 'other'"
        ):
            store.save_images("other", [image("a")])
        assert store.images("other") == []

    def test_more_images_at_once_than_a_statement_takes_parameters(self, store: Store) -> None:
        store.begin("run", {}, seed=None, info={})
        images = [image(f"{index:05}", index, counts={}) for index in range(33_000)]
        store.save_images("run", images)
        assert store.images("run") == images

    def test_threads_share_a_store(self, store: Store) -> None:
        store.begin("run", {}, seed=None, info={})

        def save(index: int) -> None:
            for part in range(5):
                store.save_images("run", [image(f"{index}-{part}", 5 * index + part)])

        threads = [threading.Thread(target=save, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [saved.index for saved in store.images("run")] == list(range(20))

    def test_reading_only_writes_nothing(self, store: Store, target: str) -> None:
        fill(store)
        with Store(target, read_only=True) as reader:
            with pytest.raises(StoreError, match=r"opened to read\. Open it to write"):
                reader.begin("other", {}, seed=None, info={})
            with pytest.raises(StoreError, match=r"opened to read\. Open it to write"):
                reader.save_images("run", [image("c", 2)])
            with pytest.raises(StoreError, match=r"opened to read\. Open it to write"):
                reader.extend("run", {}, command="")
        check_filled(store)

    def test_a_newer_schema_is_refused_naming_both(self, store: Store, target: str) -> None:
        newer = str(SCHEMA_VERSION + 1)
        with store.transaction(write=True) as connection:
            connection.exec_driver_sql(f"update alembic_version set version_num = {newer!r}")
        for read_only in (False, True):
            with pytest.raises(
                SchemaTooNewError,
                match=rf"has schema {newer}, .* up to {SCHEMA_VERSION}. Upgrade it",
            ):
                Store(target, read_only=read_only)

    def test_readers_see_whole_transactions_while_another_process_writes(
        self, store: Store, target: str
    ) -> None:
        store.begin("run", {}, seed=None, info={})
        with (
            Store(target, read_only=True) as one,
            Store(target, read_only=True) as two,
            writer(target) as process,
        ):
            seen: dict[Store, set[float]] = {one: set(), two: set()}
            while process.poll() is None and min(map(len, seen.values())) < 5:
                for reader, rounds in seen.items():
                    states = {state.seconds for state in reader.images("run")}
                    assert len(states) <= 1, "images of two transactions"
                    rounds |= states
            assert process.poll() is None
            process.kill()
        for rounds in seen.values():
            assert len(rounds) >= 5

    def test_a_killed_writer_loses_nothing_that_it_committed(
        self, store: Store, target: str
    ) -> None:
        store.begin("run", {}, seed=None, info={})
        store.close()
        with writer(target) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) < 30:
                pass
            process.send_signal(signal.SIGKILL)
            printed = process.stdout.read().splitlines()
        assert process.returncode == -signal.SIGKILL
        for read_only in (True, False):
            with Store(target, read_only=read_only) as again:
                states = again.images("run")
            assert len(states) == 3
            assert len({state.seconds for state in states}) == 1
            assert states[0].seconds >= int(printed[-1] if printed else 30)


WRITER = """
import itertools, sys
from denoised_smoothing.store import Store, StoredImage
with Store(sys.argv[1]) as store:
    for round in itertools.count():
        store.save_images(
            "run", [StoredImage(i, str(i), None, "d", {}, float(round)) for i in range(3)]
        )
        print(round, flush=True)
"""


def writer(target: str) -> subprocess.Popen[str]:
    """A process that saves three images a round and prints the rounds that are committed."""
    command = [sys.executable, "-c", WRITER, target]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_url_names_the_same_file_as_a_path(path: Path) -> None:
    with Store(f"sqlite:///{path}") as store:
        fill(store)
    for target in (path, str(path), f"sqlite:///{path}", f"sqlite:///file:{path}?mode=ro&uri=true"):
        with Store(target, read_only=True) as store:
            check_filled(store)


def test_folders_are_made_and_odd_names_work(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a b%20#?é.sqlite"
    with Store(path) as store:
        fill(store)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no log is left beside it"
    with Store(path, read_only=True) as store:
        check_filled(store)


def test_sqlite_is_durable_and_checks_foreign_keys(path: Path) -> None:
    with Store(path) as store, store.transaction() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 30_000]


def test_two_processes_may_make_the_store_at_once(path: Path) -> None:
    code = "import sys; from denoised_smoothing.store import Store; Store(sys.argv[1]).close()"
    command = [sys.executable, "-c", code, str(path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in processes] == ["", ""]
    with Store(path, read_only=True) as store:
        assert store.runs() == []


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_of_another_kind_is_refused(path: Path, read_only: bool) -> None:
    path.write_bytes(b"idx label predict radius correct time" * 100)
    with pytest.raises(
        StoreError, match=r"file is not a database.*that this package wrote"
    ) as caught:
        Store(path, read_only=read_only)
    assert isinstance(caught.value.__cause__, sa.exc.DatabaseError)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_another_program_is_refused(path: Path, read_only: bool) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table runs (name text)")
    before = path.read_bytes()
    with pytest.raises(
        StoreError, match=r"not a store of runs\. Use a store that this package wrote"
    ):
        Store(path, read_only=read_only)
    assert path.read_bytes() == before


def test_reading_a_store_that_does_not_exist_is_refused(path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"runs.sqlite failed \(there is no such file\). Check its"
    ):
        Store(path, read_only=True)
    assert not path.exists()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"unable to open database file.*Check that the path is a"):
        Store(tmp_path)
    with pytest.raises(StoreError, match=r"there is no such file"):
        Store(tmp_path, read_only=True)


def test_a_file_in_the_place_of_a_folder_is_refused(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreError, match="Check its path") as caught:
        Store(path / "runs.sqlite")
    assert isinstance(caught.value.__cause__, OSError)


def test_an_unknown_kind_of_database_is_refused() -> None:
    with pytest.raises(StoreError, match=r"sqlalchemy.dialects:oranges.*Check its path or"):
        Store("oranges://me@host/runs")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@host/runs", "Write it to the environment variable PGPASSWORD"),
        ("postgresql://me@host/runs?password=secret", "Write it to"),
        ("postgresql://me@host/runs?sslpassword=secret", "Write it to"),
        ("postgresql://me:secret/half", "cannot be read. Write it as postgresql"),
        ("postgresql://me:secret@host:54x/runs", "cannot be read. Write it as postgresql"),
        ("no scheme://me:secret@host/runs", "cannot be read. Write it as postgresql"),
    ],
)
def test_a_password_is_refused_and_never_shown(url: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        Store(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("target", ["", ":memory:", "sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(target: str) -> None:
    with pytest.raises(SettingError, match=r"must be a file.* got '.*'\. Write for example runs"):
        Store(target)


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'denoised-smoothing\[postgresql\]'"):
        Store("postgresql+psycopg://host/runs")


def test_a_store_that_may_not_be_written_is_refused_on_opening(path: Path) -> None:
    with Store(path) as store:
        fill(store)
    with pytest.raises(StoreError, match=r"attempt to write a readonly.*Make the file and its"):
        Store(f"sqlite:///file:{path}?mode=ro&uri=true")


def set_up(store: Store, statement: str) -> None:
    """Execute a statement in all connections of the pool."""
    with ExitStack() as stack:
        for connection in [stack.enter_context(store.transaction()) for _ in range(POOLED)]:
            connection.exec_driver_sql(statement)


def test_a_store_that_turns_read_only_keeps_what_it_has(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path) as store:
        fill(store)
        set_up(store, "PRAGMA query_only=ON")
        with pytest.raises(StoreError, match="attempt to write a readonly database") as caught:
            store.save_images("run", [image("a", 1, seconds=9.0)])
        assert isinstance(caught.value.__cause__, sa.exc.OperationalError)
        check_filled(store)


def test_a_locked_store_says_so(path: Path) -> None:
    with Store(path) as store, closing(sqlite3.connect(path)) as other:
        fill(store)
        other.execute("begin immediate")
        set_up(store, "PRAGMA busy_timeout=1")
        with pytest.raises(StoreError, match=r"database is locked.*Another program is writing"):
            store.save_images("run", [image("a", 1)])
        check_filled(store)


def save_until_it_fails(store: Store) -> None:
    for position in range(100):
        store.save_examples("run", [StoredExample("c", "noisy", position, bytes(20_000))])


def test_a_full_disk_keeps_what_was_saved(path: Path) -> None:
    with Store(path) as store:
        fill(store)
        with store.transaction() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=40")
        with pytest.raises(
            StoreError, match=r"disk is full.*Everything saved before is kept. Free some space"
        ) as caught:
            save_until_it_fails(store)
        assert isinstance(caught.value.__cause__, sa.exc.OperationalError)
        kept = store.examples("run")
        assert 2 < len(kept) - len(EXAMPLES) < 100
    with Store(path) as store:
        assert (store.images("run"), store.examples("run")) == (IMAGES, kept)
        save_until_it_fails(store)
        assert len(store.examples("run")) == len(EXAMPLES) + 100


def test_reading_results_imports_no_torch() -> None:
    code = "import sys, denoised_smoothing.store; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"False\n"
