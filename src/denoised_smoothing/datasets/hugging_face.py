"""Data sets that the package ``datasets`` has on this machine: a saved folder, or its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

from denoised_smoothing.datasets.dataset import ImageDataset
from denoised_smoothing.datasets.tables import Columns, Rows, read_rows, to_dataset
from denoised_smoothing.errors import DatasetError, DenoisedSmoothingError, first_line
from denoised_smoothing.files import expand_home
from denoised_smoothing.models.specs import Source, Spec


def _load(spec: Spec) -> ImageDataset:
    import datasets

    name, split = _name_and_split(spec.rest)
    unread = list[OSError]()
    try:
        found = _open(datasets, name, spec.options.get("config"))
        chosen = _split(spec, found, split)
        schema = chosen.features.arrow_schema
        read = partial(_read, chosen, schema, unread)
        rows = read_rows(spec.text, schema, read, Columns.of(spec))
    except (DenoisedSmoothingError, ImportError):
        raise
    except Exception as error:  # of any loader
        raise DatasetError(
            f"datasets has no data set {name!r} on this machine that it can open "
            f"({type(error).__name__}: {first_line(error)}). Name a folder that save_to_disk "
            "wrote, or load it once with datasets.load_dataset."
        ) from error
    return to_dataset(spec, _fingerprint(rows), [rows], *unread[:1])


def _name_and_split(rest: str) -> tuple[str, str]:
    if expand_home(rest).is_dir():
        return rest, ""
    name, _, split = rest.rpartition(":")
    return (name, split) if name else (rest, "")


def _open(datasets: Any, name: str, config: str | None) -> Any:
    folder = expand_home(name)
    if any((folder / file).is_file() for file in ("state.json", "dataset_dict.json")):
        return datasets.load_from_disk(str(folder))
    with _offline():
        return datasets.load_dataset(name, config)


@contextmanager
def _offline() -> Iterator[None]:
    """Let ``datasets`` look in its cache only; both packages read the environment once."""
    from huggingface_hub import constants

    from datasets import config

    with ExitStack() as stack:
        for module in (config, constants):
            stack.enter_context(mock.patch.object(module, "HF_HUB_OFFLINE", True))
        yield


def _split(spec: Spec, found: Any, wanted: str) -> Any:
    """Return the named split, or the only one."""
    if not isinstance(found, dict):
        if wanted and wanted != str(found.split):
            raise DatasetError(f"{spec.text!r} has no splits. Leave out {wanted!r}.")
        return found
    if wanted in found:
        return found[wanted]
    if not wanted and len(found) == 1:
        return next(iter(found.values()))
    name = spec.rest.removesuffix(f":{wanted}")
    choices = " or ".join(f"hf:{name}:{split}" for split in found)
    what = f"has no split {wanted!r}" if wanted else f"has the splits {', '.join(found)}"
    raise DatasetError(f"{spec.text!r} {what}. Name one of them: {choices}.")


def _read(chosen: Any, schema: Any, unread: list[OSError], columns: list[str]) -> Any:
    """Return columns as an Arrow table that holds the images, not their paths.

    Errors of files that cannot be read are added to ``unread``.
    """
    import pyarrow as pa

    chosen = chosen.select_columns(columns)
    chosen.data.validate(full=True)  # Arrow trusts offsets in files: reading wrong ones crashes
    table = chosen.with_format("arrow")[:]
    fields = [schema.field(column) for column in columns]
    return _embedded(table.cast(pa.schema(fields, schema.metadata)), unread)


def _embedded(table: Any, unread: list[OSError]) -> Any:
    """Put the files that rows name into them; a row whose file cannot be read stays without.

    Rows are tried together, and in halves where one fails.
    """
    import pyarrow as pa
    from datasets.table import embed_table_storage

    try:
        return embed_table_storage(table)
    except OSError as error:  # of a row
        unread.append(error)
        if len(table) == 1:
            return table
        half = len(table) // 2
        halves = (table.slice(0, half), table.slice(half))
        return pa.concat_tables(_embedded(part, unread) for part in halves)


def _fingerprint(rows: Rows) -> str:
    digest = hashlib.sha256(repr((list(rows.labels), rows.names)).encode())
    for image in rows.encoded:
        digest.update(hashlib.sha256(image or b"").digest())
    return digest.hexdigest()


HUGGING_FACE = Source(
    _load,
    "hf:NAME-OR-FOLDER[:SPLIT][?config=NAME&image=COLUMN&label=COLUMN]",
    "what the package datasets has on this machine",
    ("config", "image", "label"),
    package="datasets",
    extra="datasets",
)
