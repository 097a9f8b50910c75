"""The schema of a store: checked when it is opened, and brought up to date by alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from denoised_smoothing.errors import SchemaTooNewError, StoreError
from denoised_smoothing.store.tables import SCHEMA, SCHEMA_VERSION

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x64656E6F6973
"""Of two processes that open a new PostgreSQL database at once, one makes the tables."""


def prepare(connection: sa.Connection, name: str, *, read_only: bool) -> None:
    """Make the tables of a new store, bring those of an older one up to date, refuse others.

    Raises:
        StoreError: it is a database of something else.
        SchemaTooNewError: a newer version of this package wrote it.
    """
    if connection.dialect.name == "postgresql" and not read_only:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    tables = sa.inspect(connection).get_table_names()
    if not tables and not read_only:
        migrate(connection, from_version=0)
        return
    if SCHEMA.name not in tables:
        raise StoreError(
            f"{name} is a database, but not a store of runs; name one that this package wrote, or "
            "a new one"
        )
    version = connection.execute(sa.select(SCHEMA)).scalar_one()
    if version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            f"the store {name} has schema {version}, this version of the package reads up to "
            f"{SCHEMA_VERSION}; upgrade denoised-smoothing, or name another"
        )
    if read_only:
        return
    if version < SCHEMA_VERSION:
        migrate(connection, from_version=version)
    else:  # find out now whether it can be written
        connection.execute(sa.update(SCHEMA).values(version=SCHEMA_VERSION))


def migrate(connection: sa.Connection, *, from_version: int) -> None:
    """Run the migrations that a store of ``from_version`` lacks (0: all), in this transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if from_version and not sa.inspect(connection).has_table("alembic_version"):
        command.stamp(config, str(from_version))  # of the time before alembic
    command.upgrade(config, "head")
