"""Runs, images, example pictures."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "1", None


def upgrade() -> None:
    """To schema 1."""
    op.create_table("schema_version", sa.Column("version", sa.Integer, nullable=False))
    op.create_table(
        "runs",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("seed", sa.String, nullable=False),
        sa.Column("info", sa.JSON, nullable=False),
        sa.Column("created", sa.String, nullable=False),
    )
    op.create_table(
        "images",
        sa.Column("run", sa.String, sa.ForeignKey("runs.name"), primary_key=True),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("image_id", sa.String, primary_key=True),
        sa.Column("label", sa.Integer),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
    )
    op.create_table(
        "examples",
        sa.Column("run", sa.String, sa.ForeignKey("runs.name"), primary_key=True),
        sa.Column("image_id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("png", sa.LargeBinary, nullable=False),
    )
    op.execute("insert into schema_version (version) values (1)")
