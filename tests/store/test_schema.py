"""store/schema.py: stores of every released schema, as files that the code of its time wrote."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from denoised_smoothing.errors import StoreError
from denoised_smoothing.store import QUERIES, SCHEMA_VERSION, Store, schema
from denoised_smoothing.store.tables import METADATA

from .test_contract import IMAGES, check_filled, fill, image

FIXTURES = Path(__file__).parents[1] / "fixtures"


def differences(store: Store) -> list[object]:
    """Between the tables of a store and those that the code works with."""
    with store.transaction() as connection:
        found = compare_metadata(MigrationContext.configure(connection), METADATA)
        stamp = connection.exec_driver_sql("select version_num from alembic_version").scalar_one()
        assert not sa.inspect(connection).has_table("schema_version")
    assert stamp == str(SCHEMA_VERSION)
    return found


def check_brought_up_to_date(path: Path) -> None:
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


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_schema_is_read_and_brought_up_to_date(version: int, tmp_path: Path) -> None:
    check_brought_up_to_date(
        Path(shutil.copy(FIXTURES / f"store_schema_{version}.sqlite", tmp_path))
    )


def development_store(folder: Path, version: int) -> Path:
    """A store that was written before the first release, when tables were added one by one."""
    path = Path(shutil.copy(FIXTURES / "store_development.sqlite", folder))
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("drivers", "queries, alembic_version")[: 3 - version]:
            for name in table.split(", "):
                connection.execute(f"drop table {name}")
        connection.execute(f"update schema_version set version = {version}")
    return path


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_store_of_before_the_first_release_too(version: int, tmp_path: Path) -> None:
    check_brought_up_to_date(development_store(tmp_path, version))


def test_a_table_that_it_lacks_is_added_by_writing(tmp_path: Path) -> None:
    path = development_store(tmp_path, 1)
    with (
        Store(path, read_only=True) as store,
        pytest.raises(StoreError, match=r"no such table.* Resume one of its runs to add the table"),
        store.transaction() as connection,
    ):
        connection.execute(sa.select(QUERIES))


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
            schemas.append(set(connection.execute("select sql from sqlite_master")))
    assert schemas[0] == schemas[1], "a changed schema needs a migration, a version and a fixture"


def test_a_later_schema_is_reached_by_its_migration(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(target) as store:
        fill(store)
    migrations = shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
    (migrations / "versions" / f"schema_{SCHEMA_VERSION + 1}.py").write_text(f"""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "{SCHEMA_VERSION + 1}", "{SCHEMA_VERSION}"

def upgrade():
    op.add_column("images", sa.Column("more", sa.Integer, server_default="5"))
""")
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with Store(target, read_only=True) as store:  # an older one is read as it is
        check_filled(store)
    for _ in range(2):
        with Store(target) as store, store.transaction() as connection:
            assert connection.exec_driver_sql("select more from images").scalars().all() == [5, 5]
            stamp = connection.exec_driver_sql("select version_num from alembic_version").scalar()
            assert stamp == str(SCHEMA_VERSION + 1)
