"""Queries of a classifier behind a wire."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "2", "1"


def upgrade() -> None:
    """From schema 1."""
    op.create_table(
        "queries",
        sa.Column("run", sa.String, sa.ForeignKey("runs.name"), primary_key=True),
        sa.Column("image_id", sa.String, primary_key=True),
        sa.Column("stage", sa.String, primary_key=True),
        sa.Column("copy", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("vendor", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("price", sa.Float, nullable=False),
        sa.Column("sent", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("label", sa.String),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("version", sa.String),
        sa.Column("answer", sa.Text),
        sa.Column("seconds", sa.Float),
    )
    op.execute("update schema_version set version = 2")
