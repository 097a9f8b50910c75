"""What the store reads: a save costs the same, however much the store holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from denoised_smoothing.store import Store, StoredExample

from .test_contract import image


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """The SQL that the store executes meanwhile."""
    found: list[str] = []

    def note(_: object, __: object, statement: str, *rest: object) -> None:
        found.append(statement)

    sa.event.listen(store._engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(store._engine, "before_cursor_execute", note)


def save(store: Store) -> list[str]:
    with store.claim("run"), statements(store) as found:
        store.save_images("run", [image("b", 1, seconds=2.0)])
        store.save_examples("run", [StoredExample("b", "clean", 0, b"png")])
        store.note("run", label_names=["cat", "dog"])
        store.find("run")
    return found


def test_a_save_reads_nothing_that_grows_with_the_store(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin("run", {}, seed=0, info={})
        once = save(store)
        for number in range(49):
            store.begin(f"run-{number}", {"data": "digits"}, seed=0, info={})
        store.save_images("run", [image(str(index), index) for index in range(200)])
        assert save(store) == once
        assert len(once) < 30
        with store.transaction() as connection:
            for statement in once:
                if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                    count = statement.count("?")
                    plan = connection.exec_driver_sql(
                        f"explain query plan {statement}", tuple("x" * count)
                    ).all()
                    assert plan
                    assert all("SEARCH" in row[-1] for row in plan), (statement, plan)


def test_finished_images_are_counted_by_the_database(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store:
        for run in ("run", "other"):
            store.begin(run, {}, seed=0, info={})
        store.save_images("run", [image(str(i), i, finished=i % 2 == 0) for i in range(5)])
        with statements(store) as found:
            assert store.finished() == {"run": 3}
    assert sum("count(*)" in statement for statement in found) == 1
    assert not any("images.counts" in statement for statement in found)
