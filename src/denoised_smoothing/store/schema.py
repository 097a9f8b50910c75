"""The schema of a store: checked when it is opened, and brought up to date by alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from denoised_smoothing.errors import SchemaTooNewError, StoreError
from denoised_smoothing.store.tables import (
    EXAMPLES,
    IMAGES,
    METADATA,
    RUNS,
    SCHEMA_VERSION,
    VERSION,
)

MIGRATIONS = Path(__file__).parent / "migrations"
_DEVELOPMENT = "schema_version"
"""A table that versions before the first release wrote; their stores lack whole tables at most."""
_LOCK = 0x64656E6F6973
"""Of two processes that open a new PostgreSQL database at once, one makes the tables."""


def prepare(connection: sa.Connection, name: str, *, read_only: bool) -> None:
    """Make the tables of a new store, bring those of an older one up to date, refuse others.

    Raises:
        StoreError: it is a database of another program.
        SchemaTooNewError: a newer version of this package wrote it.
    """
    if connection.dialect.name == "postgresql" and not read_only:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    tables = set(sa.inspect(connection).get_table_names())
    if (tables or read_only) and not tables >= {RUNS.name, IMAGES.name, EXAMPLES.name}:
        raise StoreError(
            f"{name} is a database, but not a store of runs. Use a store that this package wrote, "
            "or a new file."
        )
    if not tables or _DEVELOPMENT in tables:
        if not read_only:
            _make_tables(connection)
        return
    version = int(connection.execute(sa.select(VERSION)).scalar_one())
    if version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            f"The store {name} has schema {version}, and this version of the package reads up to "
            f"{SCHEMA_VERSION}. Upgrade it: pip install --upgrade denoised-smoothing"
        )
    if version < SCHEMA_VERSION and not read_only:
        migrate(connection)
    elif not read_only:  # fail now if it cannot be written
        connection.execute(sa.update(VERSION).values(version_num=str(SCHEMA_VERSION)))


def _make_tables(connection: sa.Connection) -> None:
    METADATA.create_all(connection)
    VERSION.create(connection, checkfirst=True)
    connection.execute(sa.delete(VERSION))
    connection.execute(sa.insert(VERSION).values(version_num=str(SCHEMA_VERSION)))
    connection.exec_driver_sql(f"drop table if exists {_DEVELOPMENT}")


def migrate(connection: sa.Connection) -> None:
    """Run the migrations that a store lacks, in this transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
