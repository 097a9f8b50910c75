"""Drivers of runs."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "3", "2"


def upgrade() -> None:
    """From schema 2."""
    op.create_table(
        "drivers",
        sa.Column("run", sa.String, primary_key=True),
        sa.Column("token", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("since", sa.String, nullable=False),
    )
    op.execute("update schema_version set version = 3")
