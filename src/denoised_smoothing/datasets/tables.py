"""Images and labels in columns of tables: parquet files, and Arrow tables of ``datasets``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

from denoised_smoothing.datasets.dataset import ImageDataset, Names
from denoised_smoothing.errors import DatasetError, ImageError, first_line, raised_as
from denoised_smoothing.files import expand_home, sha256_of
from denoised_smoothing.images import image_shape, load_image
from denoised_smoothing.models.specs import Source, Spec

_LABELS = (
    *("label", "labels", "target", "targets", "class", "classes", "category", "class_id"),
    *("class_label", "class_name", "y"),
)
"""Columns that hold labels by their name, the first two before all others."""
_NO_LABELS = ("id", "idx", "index", "path", "file", "filename", "file_name", "image_id", "url")
"""Columns that hold no labels by their name."""
NONE = "none"
"""The label column that stands for no labels."""


@dataclass(frozen=True)
class Columns:
    """Names of the image column and of the label column; None leaves the choice to the table."""

    image: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, spec: Spec) -> Columns:
        """Return the columns that a spec names."""
        return cls(spec.options.get("image"), spec.options.get("label"))


@dataclass(frozen=True)
class Rows:
    """The rows of a table: encoded images, and labels as numbers of ``names`` or as names."""

    encoded: Sequence[bytes | None]
    labels: Sequence[int | str | None]
    names: Names


Read = Callable[[list[str]], Any]
"""From names of columns to a table with these columns."""


def read_rows(where: str, schema: Any, read: Read, columns: Columns) -> Rows:
    """Read the images and labels of a table.

    Args:
        where: the name of the table in messages.
        schema: its Arrow schema; the metadata of Hugging Face name images and labels.

    Raises:
        DatasetError: a column is missing, has another type, or must be named.
    """
    features = _features(schema)
    image = _image_column(where, schema, features, columns.image)
    label = _label_column(where, schema, features, columns.label, image)
    table = read([image] if label is None else [image, label])
    rows = table[image].to_pylist()
    encoded = [row.get("bytes") if isinstance(row, dict) else row for row in rows]
    if label is None:
        return Rows(encoded, [None] * len(encoded), None)
    return Rows(
        encoded,
        _labels(where, label, table[label]),
        _class_names(where, label, features.get(label)),
    )


def to_dataset(
    spec: Spec, fingerprint: str, parts: Sequence[Rows], cause: Exception | None = None
) -> ImageDataset:
    """Join the rows of all files of a spec.

    Args:
        cause: why the first image without bytes has none, if known.

    Raises:
        DatasetError: there are no rows, or label names differ.
    """
    encoded = [image for part in parts for image in part.encoded]
    labels = [label for part in parts for label in part.labels]
    names = {part.names for part in parts}
    if not encoded:
        raise DatasetError(f"{spec.rest!r} has no rows. Use a file with one for each image.")
    if len(names) > 1:
        raise DatasetError(
            f"The files {spec.rest!r} have different label names. Load them one by one."
        )
    label_names = names.pop()
    if any(isinstance(label, str) for label in labels):
        words = sorted({str(label) for label in labels if label is not None})
        label_names = tuple(words)
        number = {word: n for n, word in enumerate(words)}
        labels = [None if label is None else number[str(label)] for label in labels]
    missing = "" if cause is None else f" (the first: {first_line(cause)})"
    return ImageDataset(
        name=spec.text,
        fingerprint=fingerprint,
        image_ids=[str(row) for row in range(len(encoded))],
        read=partial(_from_row, spec.text, encoded, missing),
        labels=[label if isinstance(label, int) and label >= 0 else None for label in labels],
        label_names=label_names,
        read_shape=partial(_from_row, spec.text, encoded, missing, load=image_shape),
    )


def _load_parquet(spec: Spec) -> ImageDataset:
    path = expand_home(spec.rest)
    files = [path] if path.is_file() else [Path(found) for found in sorted(glob(str(path)))]
    if not files:
        raise DatasetError(
            f"There is no file {spec.rest!r}. Check the path or pattern in {spec.text!r}."
        )
    parts = [_read_parquet(file, Columns.of(spec)) for file in files]
    return to_dataset(spec, sha256_of(*files), parts)


def _read_parquet(file: Path, columns: Columns) -> Rows:
    import pyarrow.parquet as pq

    what = f"{file} cannot be read as parquet"
    with raised_as(DatasetError, what, "Fetch it again."), pq.ParquetFile(file) as opened:
        read = partial(_read_columns, opened)
        return read_rows(str(file), opened.schema_arrow, read, columns)


def _read_columns(opened: Any, columns: list[str]) -> Any:
    return opened.read(columns=columns)


def _features(schema: Any) -> dict[str, Mapping[str, Any]]:
    """Return the features in the metadata of Hugging Face by column; none if there are no such."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    for name in ("info", "features"):
        found = found.get(name) if isinstance(found, dict) else None
    held = found.items() if isinstance(found, dict) else ()
    return {column: feature for column, feature in held if isinstance(feature, dict)}


def _class_names(where: str, column: str, feature: Mapping[str, Any] | None) -> Names:
    """Return the label names of a ClassLabel, in the order of their numbers; else None."""
    names = feature.get("names") if feature and _kind(feature) == "ClassLabel" else None
    if isinstance(names, Mapping) and set(names) == {str(n) for n in range(len(names))}:
        names = [names[str(n)] for n in range(len(names))]
    if names is not None and not isinstance(names, list):
        raise DatasetError(
            f"The column {column!r} of {where} has the label names {names!r}, expected a list, or "
            "one for each number from 0. Correct the metadata of the file."
        )
    return tuple(map(str, names)) if names else None


def _kind(feature: Mapping[str, Any] | None) -> Any:
    return None if feature is None else feature.get("_type")


def _image_column(
    where: str, schema: Any, features: Mapping[str, Mapping[str, Any]], wanted: str | None
) -> str:
    from pyarrow import types

    def is_encoded(kind: Any) -> bool:
        place = kind.get_field_index("bytes") if types.is_struct(kind) else -1
        kind = kind.field(place).type if place >= 0 else kind
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    held = ", ".join(f"{field.name}: {field.type}" for field in schema)
    encoded = [field for field in schema if is_encoded(field.type)]
    images = [field.name for field in encoded if types.is_struct(field.type)]
    images += [f.name for f in encoded if _kind(features.get(f.name)) == "Image"]
    found = list(dict.fromkeys(images)) or [field.name for field in encoded]
    if not found or (wanted is not None and wanted not in [field.name for field in encoded]):
        column = "no image column" if wanted is None else f"no image column {wanted!r}"
        raise DatasetError(
            f"{where} has {column}, expected encoded images (binary, or a struct with the field "
            f"'bytes'), got {held}. Write it with Hugging Face datasets and the Image feature."
        )
    if wanted is None and len(found) > 1:
        raise DatasetError(
            f"{where} has the image columns {', '.join(found)}. Choose one: ?image={found[0]}."
        )
    return wanted or found[0]


def _label_column(
    where: str,
    schema: Any,
    features: Mapping[str, Mapping[str, Any]],
    wanted: str | None,
    image: str,
) -> str | None:
    """Return the label column, None without labels.

    Raises:
        DatasetError: several columns, or columns of unknown meaning, may hold labels.
    """
    from pyarrow import types

    names: list[str] = [field.name for field in schema]
    if wanted is not None:
        if wanted != NONE and wanted not in names:
            raise DatasetError(
                f"{where} has no column {wanted!r}, only {', '.join(names)}. Name one of them as "
                f"?label=NAME, or use ?label={NONE}."
            )
        return None if wanted == NONE else wanted
    by_name: list[str] = [name for name in names if name.lower() in _LABELS and name != image]
    by_feature = [name for name in names if _kind(features.get(name)) == "ClassLabel"]
    kinds = (types.is_integer, types.is_string, types.is_large_string, types.is_dictionary)
    maybe = [
        field.name
        for field in schema
        if any(is_kind(field.type) for is_kind in kinds)
        and field.name.lower() not in _NO_LABELS
        and not field.name.startswith("__")
    ]
    found = [name for name in _LABELS[:2] if name in by_name] or by_name or by_feature
    if len(found) == 1:
        return found[0]
    if found or maybe:
        raise DatasetError(
            f"Of the columns of {where}, {', '.join(found or maybe)} may hold the labels. "
            f"Choose one: ?label={(found or maybe)[0]}, or ?label={NONE} for images without labels."
        )
    return None


def _labels(where: str, column: str, values: Any) -> list[int | str | None]:
    """Return the values of a label column as numbers or as names; None stays None."""
    from pyarrow import types

    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    found: list[Any] = values.to_pylist()
    if types.is_string(kind) or types.is_large_string(kind):
        return found
    numeric = types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind)
    known = [None if value is None or value != value else value for value in found]  # NaN
    if not numeric or any(value is not None and value % 1 for value in known):
        raise DatasetError(
            f"The column {column!r} of {where} must hold whole numbers or names, got "
            f"{values.type}. Number the classes from 0, or name another column: ?label=NAME."
        )
    return [None if value is None else int(value) for value in known]


def _from_row(
    spec: str,
    encoded: Sequence[bytes | None],
    missing: str,
    index: int,
    *,
    load: Callable[..., Any] = load_image,
) -> Any:
    content, name = encoded[index], f"row {index} of {spec!r}"
    if content is None:
        raise ImageError(
            f"{name} holds no bytes{missing}. Write the file with its images embedded."
        )
    return load(content, name=name)


PARQUET = Source(
    _load_parquet,
    "parquet:FILE[?image=COLUMN&label=COLUMN]",
    "the layout of Hugging Face",
    ("image", "label"),
    package="pyarrow",
    extra="parquet",
)
