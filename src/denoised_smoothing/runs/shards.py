"""Parts of a run that are certified apart, and joined again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from denoised_smoothing.errors import RunMismatchError, SettingError, differences
from denoised_smoothing.store import EXAMPLES, IMAGES, QUERIES, RUNS, Store, StoredRun

OF_SHARDS = ("shard", "images")
"""Settings of a shard that the run does not have which it is a part of."""
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Shard:
    """Every ``of``-th image, beginning with the ``number``-th; numbers count from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """``"3/16"``, the third of sixteen.

        Raises:
            SettingError: it is not of this form, or there is no such shard.
        """
        number, _, of = text.partition("/")
        try:
            shard = cls(int(number), int(of))
        except ValueError as error:
            raise SettingError(f"a shard is written as 3/16, got {text!r}") from error
        if not 1 <= shard.number <= shard.of:
            raise SettingError(f"shards of {of} are 1/{of} to {of}/{of}, got {text!r}")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def settings(self, images: int) -> dict[str, Any]:
        """What it records: which part it is, and of how many images."""
        return {"shard": str(self), "images": images}

    def of_indices(self, indices: list[int]) -> list[int]:
        """Its share of the indices.

        Raises:
            SettingError: there are more shards than indices.
        """
        if self.number > len(indices):
            raise SettingError(
                f"shard {self} has none of {len(indices)} images; make at most that many shards"
            )
        return indices[self.number - 1 :: self.of]


def merge(
    sources: Sequence[Store], target: Store, *, examples: int, partial: bool = False
) -> list[StoredRun]:
    """Copy the runs of several stores into one; shards of a run become that run.

    All or nothing is copied. Of a merged run the examples of the first images are kept, as of a
    run that was never divided.

    Args:
        sources: stores to read.
        target: the store to write, which holds none of these runs yet.
        examples: images whose examples are kept.
        partial: merge shards that are not finished, too.

    Raises:
        RunMismatchError: runs of one name are not all the shards of one run, or are not finished;
            says what differs, or which.
    """
    held: dict[str, list[tuple[Store, StoredRun]]] = {}
    for source in sources:
        for run in source.runs():
            held.setdefault(run.name, []).append((source, run))
    taken = sorted({run.name for run in target.runs()} & set(held))
    if taken:
        raise RunMismatchError(f"the target holds the run {taken[0]!r} already; name a new store")
    joined = {name: _joined([run for _, run in parts]) for name, parts in held.items()}
    if not partial:
        for parts in held.values():
            _check_finished(parts)
    with target.transaction(write=True) as connection:
        for name, parts in held.items():
            connection.execute(sa.insert(RUNS), _row(joined[name]))
            for source, _ in parts:
                try:
                    _copy(source, connection, name)
                except IntegrityError as error:
                    raise RunMismatchError(
                        f"an image of run {name!r} is in two of its shards; one was altered"
                    ) from error
            if len(parts) > 1:
                _keep_first(connection, name, examples)
    return [target.run(name) for name in held]


def _joined(runs: Sequence[StoredRun]) -> StoredRun:
    """The run that these are the shards of, or the one that is whole."""
    first, name = runs[0], runs[0].name
    shards = [run.settings.get("shard") for run in runs]
    if shards == [None]:
        return first
    if None in shards:
        raise RunMismatchError(
            f"run {name!r} is in several of the stores, and not as shards; merge stores that have "
            "it once, or shards of it"
        )
    for run in runs[1:]:
        differs = differences(_compared(first), _compared(run), where=("in one", "in another"))
        if differs:
            raise RunMismatchError(
                f"the shards of run {name!r} do not belong together ({'; '.join(differs)})"
            )
    parsed = [Shard.parse(str(shard)) for shard in shards]
    numbers = [shard.number for shard in parsed]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    missing = sorted(set(range(1, parsed[0].of + 1)) - set(numbers))
    for those, what in ((twice, "are there twice"), (missing, "are missing")):
        if those:
            raise RunMismatchError(
                f"of the {parsed[0].of} shards of run {name!r}, {', '.join(map(str, those))} "
                f"{what}; give the store of each shard once"
            )
    settings = {key: value for key, value in first.settings.items() if key not in OF_SHARDS}
    info = {**first.info, "merged": [run.info.get("command") for run in runs]}
    return StoredRun(name, settings, first.seed, info, min(run.created for run in runs))


def _check_finished(parts: Sequence[tuple[Store, StoredRun]]) -> None:
    """Whether each shard has all of its images."""
    short = []
    for source, run in parts:
        if "shard" not in run.settings:
            continue
        shard = Shard.parse(run.settings["shard"])
        share = len(shard.of_indices(list(range(run.settings["images"]))))
        finished = source.finished().get(run.name, 0)
        if finished < share:
            short.append((shard.number, f"{shard} ({finished:,} of {share:,} images)"))
    if short:
        raise RunMismatchError(
            f"shards of run {parts[0][1].name!r} are not finished: "
            f"{', '.join(text for _, text in sorted(short))}; give their commands again, or merge "
            "what there is with --partial (partial=True)"
        )


def _compared(run: StoredRun) -> dict[str, Any]:
    """What shards of one run have in common."""
    names = run.info.get("label_names")  # of an open vocabulary, in the order of appearance
    of = str(run.settings["shard"]).partition("/")[2]
    return {**run.settings, "seed": run.seed, "label_names": names, "shard": f"of {of}"}


def _row(run: StoredRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "settings": run.settings,
        "seed": str(run.seed),
        "info": run.info,
        "created": run.created.isoformat(),
    }


def _copy(source: Store, target: sa.Connection, run: str) -> None:
    with source.transaction() as connection:
        for table in (IMAGES, EXAMPLES, QUERIES):
            if not sa.inspect(connection).has_table(table.name):  # of an older schema
                continue
            rows = connection.execute(sa.select(table).where(table.c.run == run))
            for part in rows.mappings().partitions(_ROWS_AT_ONCE):
                target.execute(sa.insert(table), [_plain(row) for row in part])


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items()}


def _keep_first(connection: sa.Connection, run: str, count: int) -> None:
    first = sa.select(IMAGES.c.image_id).where(IMAGES.c.run == run).order_by(IMAGES.c.index)
    kept = connection.scalars(first.limit(count)).all()
    connection.execute(
        sa.delete(EXAMPLES).where(EXAMPLES.c.run == run, EXAMPLES.c.image_id.not_in(kept))
    )
