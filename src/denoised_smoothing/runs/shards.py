"""Shards: parts of a run that are certified separately, and merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from denoised_smoothing.errors import RunMismatchError, SettingError, differences
from denoised_smoothing.store import EXAMPLES, IMAGES, QUERIES, RUNS, Store, StoredRun
from denoised_smoothing.store.records import as_info

OF_SHARDS = ("shard", "images")
"""Settings of a shard that the merged run does not have."""
_ROWS_AT_ONCE = 10_000
_WHERE = ("in one", "in another")


@dataclass(frozen=True, slots=True)
class Shard:
    """Every ``of``-th image, beginning with the ``number``-th; numbers count from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard of a text such as ``"3/16"``, the third of sixteen.

        Raises:
            SettingError: the text has another format, or there is no such shard.
        """
        number, _, of = text.partition("/")
        try:
            shard = cls(int(number), int(of))
        except ValueError as error:
            raise SettingError(f"A shard is written as 3/16, got {text!r}") from error
        if not 1 <= shard.number <= shard.of:
            raise SettingError(f"The shards of {of} are 1/{of} to {of}/{of}, got {text!r}")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def settings(self, images: int) -> dict[str, Any]:
        """Return what its run records: the shard, and the number of images of the whole run."""
        return {"shard": str(self), "images": images}

    def of_indices(self, indices: list[int]) -> list[int]:
        """Return the indices in this shard.

        Raises:
            SettingError: there are more shards than indices.
        """
        if self.number > len(indices):
            raise SettingError(
                f"Shard {self} has none of {len(indices)} images. Use at most that many shards."
            )
        return indices[self.number - 1 :: self.of]


def merge(
    sources: Sequence[Store], target: Store, *, examples: int, partial: bool = False
) -> list[StoredRun]:
    """Copy the runs of several stores into one; shards of a run become that run.

    Either all runs are copied or none. A merged run keeps the examples of its first images, as a
    run without shards does.

    Args:
        target: the store to write, which holds none of these runs yet.
        examples: number of images whose examples are kept.
        partial: also merge shards that are not finished.

    Raises:
        RunMismatchError: runs of one name are not all the shards of one run, or are not finished;
            names the differences or the shards.
    """
    held: dict[str, list[tuple[Store, StoredRun]]] = {}
    for source in sources:
        for run in source.runs():
            held.setdefault(run.name, []).append((source, run))
    taken = sorted({run.name for run in target.runs()} & set(held))
    if taken:
        raise RunMismatchError(f"The target holds the run {taken[0]!r} already. Name a new store.")
    merged = {name: _merged([run for _, run in parts]) for name, parts in held.items()}
    if not partial:
        for parts in held.values():
            _check_finished(parts)
    with target.transaction(write=True) as connection:
        for name, parts in held.items():
            connection.execute(sa.insert(RUNS), _row(merged[name]))
            for source, _ in parts:
                try:
                    _copy(source, connection, name)
                except IntegrityError as error:
                    raise RunMismatchError(
                        f"An image of run {name!r} is in two of its shards, so one was altered. "
                        "Certify the shards again."
                    ) from error
            if len(parts) > 1:
                _keep_first(connection, name, examples)
    return [target.run(name) for name in held]


def _merged(runs: Sequence[StoredRun]) -> StoredRun:
    """Return the run whose shards these are, or the only one."""
    first, name = runs[0], runs[0].name
    shards = [run.settings.get("shard") for run in runs]
    if shards == [None]:
        return first
    if None in shards:
        raise RunMismatchError(
            f"Several stores hold the run {name!r}, and not as shards. Merge stores that hold it "
            "once, or its shards."
        )
    for run in runs[1:]:
        differs = differences(_compared(first), _compared(run), where=_WHERE)
        if differs:
            raise RunMismatchError(
                f"The shards of run {name!r} are not of one run: {'; '.join(differs)}"
            )
    parsed = [Shard.parse(str(shard)) for shard in shards]
    numbers = [shard.number for shard in parsed]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    missing = sorted(set(range(1, parsed[0].of + 1)) - set(numbers))
    for those, what in ((twice, "occur twice"), (missing, "are missing")):
        if those:
            raise RunMismatchError(
                f"Of the {parsed[0].of} shards of run {name!r}, {', '.join(map(str, those))} "
                f"{what}. Name the store of each shard once."
            )
    settings = {key: value for key, value in first.settings.items() if key not in OF_SHARDS}
    info = {**first.info, "merged": [run.info.get("command") for run in runs]}
    info["planned"] = [first.settings["images"]]
    if names := _joined_names(runs):
        info["label_names"] = as_info(names)
    clean = [one for run in runs if (one := run.info.get("clean"))]
    if len(clean) == len(runs):
        info["clean"] = {
            key: held and [value for one in clean for value in one[key]]
            for key, held in clean[0].items()
        }
    refused = sorted((image for run in runs for image in run.refused), key=lambda i: i.index)
    if refused:
        info["refused"] = [asdict(image) for image in refused]
    return StoredRun(name, settings, first.seed, info, min(run.created for run in runs))


def _check_finished(parts: Sequence[tuple[Store, StoredRun]]) -> None:
    """Refuse shards without all of their images, except those that cannot be certified."""
    short = {}
    for source, run in parts:
        if "shard" in run.settings:
            shard = Shard.parse(run.settings["shard"])
            share = len(shard.of_indices(list(range(run.settings["images"]))))
            finished = source.finished().get(run.name, 0)
            if finished + len(run.refused) < share:
                short[shard.number] = f"{shard} ({finished:,} of {share:,} images)"
    if short:
        raise RunMismatchError(
            f"Shards of run {parts[0][1].name!r} are not finished: "
            f"{', '.join(short[number] for number in sorted(short))}. Repeat their commands, or "
            "merge unfinished shards with --partial (partial=True)."
        )


def _compared(run: StoredRun) -> dict[str, Any]:
    """Return what the shards of a run have in common."""
    of = str(run.settings["shard"]).partition("/")[2]
    return {**run.settings, "seed": run.seed, "shard": f"of {of}"}


def _joined_names(runs: Sequence[StoredRun]) -> dict[int, str]:
    """Return the names of labels of all shards by number.

    Raises:
        RunMismatchError: two shards give a number to different labels, as earlier versions did for
            a remote classifier that may answer with any label.
    """
    joined = dict[int, str]()
    for run in runs:
        shared = {str(n): name for n, name in run.label_names.items() if n in joined}
        held = {number: joined[int(number)] for number in shared}
        if differs := differences({"label_names": held}, {"label_names": shared}, where=_WHERE):
            raise RunMismatchError(
                f"The shards of run {run.name!r} are not of one run: {'; '.join(differs)}. Certify "
                "the shards again."
            )
        joined |= run.label_names
    return joined


def _row(run: StoredRun) -> dict[str, Any]:
    return {**asdict(run), "seed": str(run.seed), "created": run.created.isoformat()}


def _copy(source: Store, target: sa.Connection, run: str) -> None:
    with source.transaction() as connection:
        for table in (IMAGES, EXAMPLES, QUERIES):
            if not sa.inspect(connection).has_table(table.name):  # of an older schema
                continue
            rows = connection.execute(sa.select(table).where(table.c.run == run))
            for part in rows.mappings().partitions(_ROWS_AT_ONCE):
                target.execute(sa.insert(table), [dict(row) for row in part])


def _keep_first(connection: sa.Connection, run: str, count: int) -> None:
    """Delete the examples of all but the first images."""
    first = sa.select(IMAGES.c.image_id).where(IMAGES.c.run == run).order_by(IMAGES.c.index)
    kept = connection.scalars(first.limit(count)).all()
    connection.execute(
        sa.delete(EXAMPLES).where(EXAMPLES.c.run == run, EXAMPLES.c.image_id.not_in(kept))
    )
