"""What the content of a file is, whatever its name says: certificate, export or store."""

from __future__ import annotations

import io
from enum import StrEnum
from pathlib import Path

from denoised_smoothing.certificates.reading import LONGEST
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.export import ExportFormat

_PROBE = 4096


class Kind(StrEnum):
    """What certificates are read from, besides exports."""

    CERTIFICATE = "certificate"
    """A JSON file of one certificate, or of an answer that contains one."""
    STORE = "store"
    """A run of a store."""


AnyKind = Kind | ExportFormat


def kind_of(path: str | Path, name: str | None = None) -> AnyKind:
    """Return what the content of a file is.

    Args:
        name: of the file in messages; its path by default.

    Raises:
        SettingError: it cannot be read, is none of them, or is an export without counts.
    """
    name = name or repr(str(path))
    try:
        with Path(path).open("rb") as file:
            head = file.read(_PROBE)
            if head.startswith(b"SQLite format 3\0"):
                return Kind.STORE
            if head.startswith(b"PAR1"):
                return ExportFormat.PARQUET
            if head.lstrip().startswith(b"{"):
                file.seek(0)
                return _kind_of_json(file)
    except OSError as error:
        raise SettingError(f"{name} cannot be read: {error.strerror}. Check the path.") from error
    header = head.decode("utf-8", "replace").partition("\n")[0].rstrip("\r")
    for kind, delimiter in ((ExportFormat.CSV, ","), (ExportFormat.TSV, "\t")):
        if {"idx", "predict"} <= {*header.split(delimiter)}:
            return kind
    raise SettingError(
        f"{name} is neither a certificate nor an export (jsonl, csv, tsv, parquet) nor a store. "
        "Name a file that this package wrote."
    )


def _kind_of_json(file: io.BufferedReader) -> AnyKind:
    """Return whether a file of JSON is one document or lines of objects."""
    filled = filter(None, (line.strip() for line in iter(lambda: file.readline(LONGEST), b"")))
    first, alone = next(filled), next(filled, None) is None
    is_document = not first.endswith(b"}") if not alone else b'"true_label"' not in first
    return Kind.CERTIFICATE if is_document else ExportFormat.JSONL
