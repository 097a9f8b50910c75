"""store/schema.py: stores of every released schema, as files that the code of its time wrote."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from denoised_smoothing.store import SCHEMA_VERSION, Store
from denoised_smoothing.store.tables import METADATA

from .test_contract import IMAGES, check_filled, fill, image

FIXTURES = Path(__file__).parents[1] / "fixtures"


def differences(store: Store) -> list[object]:
    """Between the tables of a store and those that the code works with."""
    with store.transaction() as connection:
        found = compare_metadata(MigrationContext.configure(connection), METADATA)
        version = connection.exec_driver_sql("select version from schema_version").scalar_one()
        stamp = connection.exec_driver_sql("select version_num from alembic_version").scalar_one()
    assert (version, stamp) == (SCHEMA_VERSION, str(SCHEMA_VERSION))
    return found


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_schema_is_read_and_brought_up_to_date(version: int, tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / f"store_schema_{version}.sqlite", tmp_path))
    with Store(path, read_only=True) as store:
        check_filled(store)
    with Store(path) as store:
        check_filled(store)
        assert differences(store) == []
        with store.claim("run"):
            store.save_images("run", [image("c", 2)])
        assert store.images("run") == [*IMAGES, image("c", 2)]
    with Store(path) as store:
        assert differences(store) == []


def test_a_new_store_has_the_tables_that_the_code_works_with(target: str) -> None:
    with Store(target) as store:
        assert differences(store) == []


def test_the_newest_fixture_has_the_schema_that_is_written_today(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    with Store(path) as store:
        fill(store)
    schemas = []
    for file in (path, FIXTURES / f"store_schema_{SCHEMA_VERSION}.sqlite"):
        with closing(sqlite3.connect(f"{file.as_uri()}?immutable=1", uri=True)) as connection:
            schemas.append(connection.execute("select sql from sqlite_master").fetchall())
    assert schemas[0] == schemas[1], "a changed schema needs a migration, a version and a fixture"
