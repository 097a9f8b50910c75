"""The tables of the newest schema. A change needs a migration, a version and a fixture."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import sqlalchemy as sa

from denoised_smoothing.text import loaded, stored

SCHEMA_VERSION = 1
"""The revision of the newest file in ``migrations/versions``."""

VERSION = sa.Table(
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)
"""The revision of a store, in the table of alembic."""

CHARSETS = WeakKeyDictionary[sa.Dialect, str]()
"""The encoding of each open database by its dialect; UTF-8 where it is missing."""


class StoredText(sa.TypeDecorator[str]):
    """Text of any characters, whatever the encoding of the database lacks."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else stored(value, CHARSETS.get(dialect, "utf-8"))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else loaded(value)


class LongText(StoredText):
    """The same in a column without a length."""

    impl = sa.Text
    cache_ok = True


METADATA = sa.MetaData()
RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("name", StoredText, primary_key=True),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("seed", StoredText, nullable=False),
    sa.Column("info", sa.JSON, nullable=False),
    sa.Column("created", StoredText, nullable=False),
)
IMAGES = sa.Table(
    "images",
    METADATA,
    sa.Column("run", sa.ForeignKey("runs.name"), primary_key=True),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("image_id", StoredText, primary_key=True),
    sa.Column("label", sa.Integer),
    sa.Column("digest", StoredText, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False),
)
EXAMPLES = sa.Table(
    "examples",
    METADATA,
    sa.Column("run", sa.ForeignKey("runs.name"), primary_key=True),
    sa.Column("image_id", StoredText, primary_key=True),
    sa.Column("kind", StoredText, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("png", sa.LargeBinary, nullable=False),
)
QUERIES = sa.Table(
    "queries",
    METADATA,
    sa.Column("run", sa.ForeignKey("runs.name"), primary_key=True),
    sa.Column("image_id", StoredText, primary_key=True),
    sa.Column("stage", StoredText, primary_key=True),
    sa.Column("copy", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("vendor", StoredText, nullable=False),
    sa.Column("model", StoredText, nullable=False),
    sa.Column("sha256", StoredText, nullable=False),
    sa.Column("price", sa.Float, nullable=False),
    sa.Column("sent", StoredText, nullable=False),
    sa.Column("outcome", StoredText, nullable=False),
    sa.Column("label", StoredText),
    sa.Column("final", sa.Boolean, nullable=False),
    sa.Column("version", StoredText),
    sa.Column("answer", LongText),
    sa.Column("seconds", sa.Float),
)
"""Attempts at a remote classifier; :mod:`~denoised_smoothing.remote.log` reads and writes it."""

DRIVERS = sa.Table(
    "drivers",
    METADATA,
    sa.Column("run", StoredText, primary_key=True),
    sa.Column("token", StoredText, nullable=False),
    sa.Column("name", StoredText, nullable=False),
    sa.Column("since", StoredText, nullable=False),
)
"""The driver of each run; a write under a token that is not here is refused."""

JOBS = sa.Table(
    "service_jobs",
    METADATA,
    sa.Column("id", StoredText, primary_key=True),
    sa.Column("kind", StoredText, nullable=False),
    sa.Column("state", StoredText, nullable=False, index=True),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("seed", StoredText, nullable=False),
    sa.Column("image", sa.LargeBinary),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("answer", sa.JSON),
    sa.Column("created", StoredText, nullable=False, index=True),
)
"""Requests of the web service; :mod:`~denoised_smoothing.web.job_store` reads and writes it."""
