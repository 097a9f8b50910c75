"""Runs, label counts and example images in a database: SQLite, or what an SQLAlchemy URL names.

The contract, the same for every backend:

- *Ownership.* Only the driver of a run, the process that schedules it, writes that run; workers
  return counts. Meanwhile any number of processes may read, and drivers of other runs may write
  to the same store.
- *Transactions.* Each writing method is one transaction. When it returns, its rows are on disk
  and survive a kill or a power cut; when it raises, the store is as it was before.
- *Threads and processes.* Threads may share a :class:`Store`; each process opens its own.
- *Values.* Settings and info are what JSON can say (else TypeError or ValueError, also for NaN);
  tuples come back as lists. Seeds may have 128 bits. Times are UTC.
- *Errors.* Whatever the database reports is raised as :class:`StoreError`, with the original
  exception as ``__cause__``. Every method but ``begin`` that takes the name of a run raises
  :class:`RunNotFoundError` if there is none.

SQLite keeps a write-ahead log beside its file: the disk must be local, and the folder writable
even to read.
"""

from __future__ import annotations

import difflib
import json
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import (
    CountsError,
    RunMismatchError,
    RunNotFoundError,
    SchemaTooNewError,
    StoreError,
)

SCHEMA_VERSION = 2
"""2 added the table of queries; an older store gets it when it is opened to write."""

_metadata = sa.MetaData()
_schema = sa.Table("schema_version", _metadata, sa.Column("version", sa.Integer, nullable=False))
_runs = sa.Table(
    "runs",
    _metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("seed", sa.String, nullable=False),
    sa.Column("info", sa.JSON, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
_images = sa.Table(
    "images",
    _metadata,
    sa.Column("run", sa.ForeignKey("runs.name"), primary_key=True),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("image_id", sa.String, primary_key=True),
    sa.Column("label", sa.Integer),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False),
)
_examples = sa.Table(
    "examples",
    _metadata,
    sa.Column("run", sa.ForeignKey("runs.name"), primary_key=True),
    sa.Column("image_id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("png", sa.LargeBinary, nullable=False),
)

QUERIES = sa.Table(
    "queries",
    _metadata,
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
"""Attempts at a classifier behind a wire; :mod:`~denoised_smoothing.ledger` reads and writes it."""

_HINTS = {
    "full": "everything saved before is kept: free some space, then give the same command again",
    "readonly": "make the file and its folder writable, or name another store or a copy elsewhere",
    "not a database": "name a file that this package wrote, or a new one",
    "locked": "another program is writing to it: wait until that ends, then try again",
    "unable to open": "check that the path is a file, and that it and its folder are writable",
    "psycopg": "install the driver of PostgreSQL: pip install 'denoised-smoothing[postgresql]'",
    "": "check its path or URL; everything saved before is kept",
}
_to_json = partial(json.dumps, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run: the settings that must be equal to go on, and the info that is only recorded."""

    name: str
    settings: dict[str, Any]
    seed: int
    info: dict[str, Any]
    created: datetime


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The whole state of one image in a run.

    ``index`` is its place in the data set, ``label`` its true label if known, ``digest`` that of
    its pixels, ``seconds`` the time spent on it, ``finished`` whether its plan has all it wants.
    """

    index: int
    image_id: str
    label: int | None
    digest: str
    counts: dict[Stage, LabelCounts]
    seconds: float = 0.0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class StoredExample:
    """A picture for the report: ``kind`` is "clean", "noisy" or "denoised"."""

    image_id: str
    kind: str
    position: int
    png: bytes


class Store:
    """The runs of one database; the contract is that of the module.

    Args:
        target: the path of an SQLite file, which is made with its folders if it does not exist,
            or an SQLAlchemy URL such as ``postgresql://user@host/name`` (a database of its own).
        read_only: read what is there; create and write nothing.

    Raises:
        StoreError: the database is not there, not readable, not writable or not a store.
        SchemaTooNewError: a newer version of this package wrote it.
    """

    def __init__(self, target: str | Path, *, read_only: bool = False) -> None:
        self._name, self._read_only = str(target), read_only
        self._writing = threading.Lock()
        try:
            if "://" in self._name:
                url = sa.make_url(self._name)
                self._name = url.render_as_string(hide_password=True)
            else:
                url = sa.URL.create("sqlite", database=self._name)
            self._engine = _engine(url, read_only)
        except (ImportError, OSError, SQLAlchemyError) as error:
            raise self._failure(error) from error
        try:
            self._check_schema()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; SQLite then folds the write-ahead log into the file."""
        self._engine.dispose()

    def begin(
        self, name: str, settings: Mapping[str, Any], *, seed: int | None, info: Mapping[str, Any]
    ) -> StoredRun:
        """Create a run, or return the run of that name if it has the same settings.

        Args:
            settings: what must be equal to go on; one that is absent counts as None.
            seed: the seed of the noise; None takes that of the existing run, or fresh entropy.
            info: recorded when the run is created, never compared.

        Raises:
            RunMismatchError: the run exists with other settings or another seed.
        """
        wanted, info = json.loads(_to_json([settings, info]))
        row = {
            "name": name,
            "settings": wanted,
            "seed": str(secrets.randbits(128) if seed is None else seed),
            "info": info,
            "created": datetime.now(UTC).isoformat(),
        }
        with suppress(IntegrityError), self.transaction(write=True) as connection:
            connection.execute(sa.insert(_runs), row)
        run = self.run(name)
        wanted["seed"] = run.seed if seed is None else seed
        if differences := _differences({**run.settings, "seed": run.seed}, wanted):
            raise RunMismatchError(
                f"the run {name!r} exists with other settings ({'; '.join(differences)}); "
                "start a new one with another --run name, or go on with the settings it has"
            )
        return run

    def extend(self, name: str, plan: Mapping[str, Any], *, command: str) -> StoredRun:
        """Replace the plan of a run by one that only adds to it; notes the command in its info."""
        self.run(name)
        with self.transaction(write=True) as connection:
            query = sa.select(_runs.c.settings, _runs.c.info).where(_runs.c.name == name)
            settings, info = connection.execute(query).one()
            settings = json.loads(_to_json({**settings, "plan": plan}))
            info = {**info, "continued": [*info.get("continued", []), command]}
            connection.execute(
                sa.update(_runs).where(_runs.c.name == name).values(settings=settings, info=info)
            )
        return self.run(name)

    def name_labels(self, name: str, labels: Sequence[str]) -> None:
        """Replace the label names of a run, in the order of the labels' numbers."""
        info = {**self.run(name).info, "label_names": list(labels)}
        with self.transaction(write=True) as connection:
            connection.execute(sa.update(_runs).where(_runs.c.name == name).values(info=info))

    def run(self, name: str) -> StoredRun:
        """The run of that name; if there is none, the error suggests the nearest."""
        runs = {run.name: run for run in self.runs()}
        if name in runs:
            return runs[name]
        near = difflib.get_close_matches(name, runs, 1)
        advice = f"did you mean {near[0]!r}? " if near else ""
        known = f"The newest are: {', '.join(list(runs)[-5:])}" if runs else "It holds none yet"
        raise RunNotFoundError(f"no run {name!r} in the store {self._name}; {advice}{known}")

    def runs(self) -> list[StoredRun]:
        """All runs, the oldest first."""
        query = sa.select(_runs).order_by(_runs.c.created, _runs.c.name)
        with self.transaction() as connection:
            return [
                StoredRun(name, settings, int(seed), info, datetime.fromisoformat(created))
                for name, settings, seed, info, created in connection.execute(query)
            ]

    def images(self, name: str) -> list[StoredImage]:
        """The images of a run, by index."""
        self.run(name)
        query = sa.select(_images).where(_images.c.run == name).order_by(_images.c.index)
        with self.transaction() as connection:
            return [_image(row) for row in connection.execute(query)]

    def finished(self) -> dict[str, int]:
        """How many images of each run are finished; runs without any are left out."""
        query = sa.select(_images.c.run, sa.func.count()).where(_images.c.finished)
        with self.transaction() as connection:
            rows = connection.execute(query.group_by(_images.c.run))
            return {name: count for name, count in rows.all()}  # noqa: C416, rows are no pairs

    def save_images(self, name: str, images: Iterable[StoredImage]) -> None:
        """Insert or replace the state of each image, all or none.

        Raises:
            StoreError: an image was saved before with another digest.
            CountsError: counts belong to another run, image or stage.
        """
        self.run(name)
        rows = {image.image_id: _row(name, image) for image in images}
        try:
            # A row of another digest is not deleted, and stands in the way of the new one.
            self._replace(_images, ("run", "image_id", "digest"), list(rows.values()))
        except IntegrityError as error:
            saved = [image for image in self.images(name) if image.image_id in rows]
            changed = [i.image_id for i in saved if i.digest != rows[i.image_id]["digest"]]
            raise StoreError(
                f"the data changed under the run {name!r}: the digests of {len(changed)} images "
                f"are not those saved, the first {changed[:3]}; give it the data that it began "
                "with, or start a new one with another --run name"
            ) from error

    def examples(self, name: str) -> list[StoredExample]:
        """The examples of a run, by image, kind and position."""
        self.run(name)
        columns = (_examples.c.image_id, _examples.c.kind, _examples.c.position, _examples.c.png)
        query = sa.select(*columns).where(_examples.c.run == name).order_by(*columns[:3])
        with self.transaction() as connection:
            return [StoredExample(*row) for row in connection.execute(query)]

    def save_examples(self, name: str, examples: Iterable[StoredExample]) -> None:
        """Insert or replace each example, all or none."""
        self.run(name)
        rows = {(e.image_id, e.kind, e.position): {"run": name, **asdict(e)} for e in examples}
        self._replace(_examples, ("run", "image_id", "kind", "position"), list(rows.values()))

    def _replace(self, table: sa.Table, keys: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        matches = (table.c[key] == sa.bindparam(key) for key in keys)
        with self.transaction(write=True) as connection:
            connection.execute(sa.delete(table).where(*matches), rows)
            connection.execute(sa.insert(table), rows)

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[sa.Connection]:
        """A transaction of the database: all of it is on disk when it ends, or none.

        Raises:
            StoreError: the database failed, or the store was opened to read.
        """
        if write and self._read_only:
            raise StoreError(f"the store {self._name} was opened to read; open it to write")
        try:
            # One writer of a process at a time: waiting for SQLite's own lock is not fair.
            with (
                self._writing if write else nullcontext(),
                self._engine.execution_options(write=write).begin() as connection,
            ):
                yield connection
        except IntegrityError:
            raise  # a key exists already: the caller knows what that means
        except SQLAlchemyError as error:
            raise self._failure(error) from error

    def _check_schema(self) -> None:
        with self.transaction(write=not self._read_only) as connection:
            tables = sa.inspect(connection).get_table_names()
            if not tables and not self._read_only:
                _metadata.create_all(connection)
                connection.execute(sa.insert(_schema).values(version=SCHEMA_VERSION))
                return
            if _schema.name not in tables:
                raise StoreError(
                    f"{self._name} is a database, but not a store of runs; name one that "
                    "this package wrote, or a new one"
                )
            version = connection.execute(sa.select(_schema)).scalar_one()
            if version > SCHEMA_VERSION:
                raise SchemaTooNewError(
                    f"the store {self._name} has schema {version}, this version of the package "
                    f"reads up to {SCHEMA_VERSION}; upgrade denoised-smoothing, or name another"
                )
            if not self._read_only:  # find out now whether it can be written
                _metadata.create_all(connection)  # what an older schema lacks
                connection.execute(sa.update(_schema).values(version=SCHEMA_VERSION))

    def _failure(self, error: Exception) -> StoreError:
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        hint = next(hint for key, hint in _HINTS.items() if key in reason)
        return StoreError(f"the store {self._name} failed ({reason}): {hint}")


def _engine(url: sa.URL, read_only: bool) -> sa.Engine:
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database and "uri" not in url.query:
        path = Path(url.database)
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif path.is_file():
            uri = {"mode": "ro", "uri": "true"}
            url = url.set(database=path.absolute().as_uri()).update_query_dict(uri)
        else:
            raise FileNotFoundError("there is no such file")
    engine = sa.create_engine(url, json_serializer=_to_json)
    if sqlite:
        sa.event.listen(engine, "connect", partial(_set_up_sqlite, read_only))
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(read_only: bool, connection: Any, record: object) -> None:
    connection.isolation_level = None  # _begin_sqlite begins, not the driver
    # FULL: NORMAL survives a kill but may lose the last commits in a power cut, and the few
    # milliseconds of a sync do not matter at about one transaction a second.
    for pragma in ("busy_timeout=30000", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    if not read_only and connection.execute("PRAGMA schema_version").fetchone() == (0,):
        connection.execute("PRAGMA journal_mode=WAL")  # a new file; it stays in this mode


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that first reads and then writes fails at once, whatever the timeout, if
    # another one wrote in between; taking the write lock first waits for its turn instead.
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _differences(held: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    held, asked = _flatten(held), _flatten(asked)
    return [
        f"{key}: {held.get(key)!r} in the run, {asked.get(key)!r} asked"
        for key in sorted(held | asked)
        if held.get(key) != asked.get(key)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _row(run: str, image: StoredImage) -> dict[str, Any]:
    for stage, counts in image.counts.items():
        if (counts.run, counts.image_id, counts.stage) != (run, image.image_id, stage):
            raise CountsError(
                f"{counts.stage} counts of image {counts.image_id!r} in run {counts.run!r} cannot "
                f"be saved as {stage} counts of image {image.image_id!r} in run {run!r}"
            )
    votes = {stage: [counts.counts, counts.failed] for stage, counts in image.counts.items()}
    return {**asdict(image), "run": run, "counts": votes}


def _image(row: Any) -> StoredImage:
    run, index, image_id, label, digest, votes, seconds, finished = row
    counts = {
        Stage(stage): LabelCounts(run, image_id, Stage(stage), tuple(of_labels), failed)
        for stage, (of_labels, failed) in votes.items()
    }
    return StoredImage(index, image_id, label, digest, counts, seconds, finished)
