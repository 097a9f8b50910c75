"""The tables of the newest schema. A change needs a migration, a version and a fixture."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 1
"""The revision of the newest file in ``migrations/versions``."""

VERSION = sa.Table(
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)
"""The revision of a store, in the table of alembic."""

METADATA = sa.MetaData()
RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("seed", sa.String, nullable=False),
    sa.Column("info", sa.JSON, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
IMAGES = sa.Table(
    "images",
    METADATA,
    sa.Column("run", sa.ForeignKey("runs.name"), primary_key=True),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("image_id", sa.String, primary_key=True),
    sa.Column("label", sa.Integer),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False),
)
EXAMPLES = sa.Table(
    "examples",
    METADATA,
    sa.Column("run", sa.ForeignKey("runs.name"), primary_key=True),
    sa.Column("image_id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("png", sa.LargeBinary, nullable=False),
)
QUERIES = sa.Table(
    "queries",
    METADATA,
    sa.Column("run", sa.ForeignKey("runs.name"), primary_key=True),
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
"""Attempts at a remote classifier; :mod:`~denoised_smoothing.remote.log` reads and writes it."""

DRIVERS = sa.Table(
    "drivers",
    METADATA,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("token", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("since", sa.String, nullable=False),
)
"""The driver of each run; a write under a token that is not here is refused."""

JOBS = sa.Table(
    "service_jobs",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("seed", sa.String, nullable=False),
    sa.Column("image", sa.LargeBinary),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("answer", sa.JSON),
    sa.Column("created", sa.String, nullable=False, index=True),
)
"""Requests of the web service; :mod:`~denoised_smoothing.web.job_store` reads and writes it."""
