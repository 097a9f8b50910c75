"""Bundles as someone else may send them: altered, with checksums that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from denoised_smoothing.files import sha256_of
from denoised_smoothing.models.cache import ModelFiles
from denoised_smoothing.smoothing import bundle_file


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    return record


def write(folder: Path, record: dict[str, Any]) -> Path:
    """Write a record with its own checksum."""
    record["sha256"] = bundle_file._own_sha256(record)
    (folder / "bundle.json").write_text(json.dumps(record))
    return folder


def change(folder: Path, **changes: Any) -> Path:
    """Change fields of a record."""
    return write(folder, record_of(folder) | changes)


def list_all(folder: Path) -> Path:
    """List the files that a bundle holds now, with their checksums."""
    record = record_of(folder)
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "bundle.json"]
    record["files"] = {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
    if (folder / "model").is_dir():
        record["model_digest"] = ModelFiles.read(folder / "model").digest
    return write(folder, record)
