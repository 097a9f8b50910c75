"""The folder of an exported bundle: its record ``bundle.json``, and the files that it lists."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from denoised_smoothing.certificates.fields import quoted
from denoised_smoothing.errors import SettingError, WeightsError, first_line
from denoised_smoothing.files import named, sha256_of
from denoised_smoothing.smoothing.bundle_record import (
    COPY_AGAIN,
    MODEL,
    Bundle,
    parse_bundle,
    parse_files,
)

FORMAT = 1
"""Of the folder; a newer one is refused."""
RECORD = "bundle.json"
LARGEST_RECORD = 8 * 2**20
"""Largest size of a record in bytes: some thousand times a usual one."""


def write_bundle(folder: Path, bundle: Bundle, fill_folder: Callable[[Path], None]) -> None:
    """Write a bundle, whole or not at all; ``fill_folder`` writes its files.

    Raises:
        SettingError: the folder holds files, or cannot be written, or the record would be refused.
    """
    named(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SettingError(f"{folder} exists already. Name a new folder for the bundle.")
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
        fill_folder(part)
        paths = sorted(path for path in part.rglob("*") if path.is_file())
        files = {path.relative_to(part).as_posix(): sha256_of(path) for path in paths}
        record = {"format": FORMAT, **bundle.to_dict(), "files": files}
        record["sha256"] = _own_sha256(record)
        text = json.dumps(record, indent=2) + "\n"
        _check_readable(record, text)
        (part / RECORD).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise SettingError(
            f"Cannot write the bundle {folder} ({error}). Name a folder that is writable and has "
            "space left."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_bundle(folder: str | Path) -> Bundle:
    """Read the record of a bundle, and compare the folder with it.

    Every value is checked. The folder must hold the files that the record lists, with their
    checksums, and nothing else: no other file or folder, and no link. No code is imported.

    Raises:
        WeightsError: it is no bundle, of a newer format, or a value or a file is not as expected.
    """
    folder = Path(folder)
    try:
        record = _read_record(folder / RECORD)
        version, stated = record["format"], record["sha256"]
        own = _own_sha256(record)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{folder} is not a complete bundle: cannot read {RECORD} ({type(error).__name__}: "
            f"{first_line(error)[:500]}). Name a folder that 'denoised-smoothing bundle' wrote."
        ) from error
    if type(version) is not int or version != FORMAT:
        newer = type(version) is int and version > FORMAT
        raise WeightsError(
            f"The bundle {folder} has format {quoted(version)}; this version reads {FORMAT}. "
            + (
                "Update the package: pip install --upgrade denoised-smoothing"
                if newer
                else COPY_AGAIN
            )
        )
    if own != stated:
        raise WeightsError(
            f"{folder / RECORD} was altered: its checksum is not {quoted(stated)}. {COPY_AGAIN}"
        )
    try:
        bundle, files = _parse(record)
    except ValueError as error:
        raise WeightsError(
            f"{folder / RECORD} is not usable: {error}. Export the bundle again with this version "
            "of denoised-smoothing."
        ) from error
    try:
        _check_folder(folder, files)
    except OSError as error:
        raise WeightsError(
            f"Cannot read the bundle {folder} ({error}). Make its files readable, or copy it again."
        ) from error
    return bundle


def _read_record(path: Path) -> dict[str, Any]:
    """Return the object in a record.

    Raises:
        OSError, ValueError, RecursionError: it is no file of one JSON object of a usual size.
    """
    if problem := _link_or_other(path):
        raise ValueError(f"it is {problem}")
    with path.open("rb") as file:
        content = file.read(LARGEST_RECORD + 1)
    if len(content) > LARGEST_RECORD:
        raise ValueError(f"it must be at most {LARGEST_RECORD} bytes")
    record = json.loads(
        content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant
    )
    if not isinstance(record, dict):
        raise TypeError(f"it must be an object, got {quoted(record)}")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of an object of JSON; a name may be given once."""
    found = dict[str, Any]()
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{quoted(name)} is given more than once")
        found[name] = value
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"numbers must be finite, got {text}")


def _parse(record: Mapping[str, Any]) -> tuple[Bundle, dict[str, str]]:
    """Return the bundle and the checksums of its files; ValueError if a value is not usable."""
    fields = {name: record[name] for name in record if name not in ("format", "files", "sha256")}
    bundle = parse_bundle(fields)
    if "files" not in record:
        raise ValueError("files is missing, which must be an object of names and SHA-256")
    return bundle, parse_files(record["files"], bundle)


def _check_readable(record: Mapping[str, Any], text: str) -> None:
    """Refuse to write a record that :func:`read_bundle` would refuse.

    Raises:
        SettingError: names the value.
    """
    try:
        _parse(json.loads(text))
        if len(text) > LARGEST_RECORD:
            names = quoted(record["label_names"])
            raise ValueError(f"it must have at most {LARGEST_RECORD} bytes, got names {names}")
    except ValueError as error:
        raise SettingError(
            f"Cannot write a bundle of this classifier: {error}. Correct this value of the "
            "classifier or of the settings."
        ) from error


def _check_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Compare what a folder holds with the files of its record.

    Raises:
        WeightsError: something else is in it, or a file is a link, altered or missing.
        OSError: it cannot be read.
    """
    for name in _entries(folder, MODEL if any("/" in name for name in files) else None):
        if name != RECORD and name not in files:
            raise WeightsError(
                f"The bundle {folder} holds {name!a}, which its {RECORD} does not list. A bundle "
                "holds the listed files and nothing else. Delete it, or copy the bundle again "
                "from where it was written."
            )
        if problem := _link_or_other(folder / name):
            raise WeightsError(
                f"{name} in the bundle {folder} is {problem}, and must be a file of its own. "
                f"{COPY_AGAIN}"
            )
    for name, expected in files.items():
        found = sha256_of(folder / name) if (folder / name).is_file() else "none"
        if found != expected:
            what = "is missing from" if found == "none" else "was altered in"
            raise WeightsError(
                f"{name} {what} the bundle {folder}: expected SHA-256 {expected[:12]}..., got "
                f"{found[:12]}. {COPY_AGAIN}"
            )


def _entries(folder: Path, inner: str | None) -> Iterator[str]:
    """Yield the names in a folder, and those in one folder in it instead of that folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == inner and entry.is_dir(follow_symlinks=False):
                yield from (f"{inner}/{name}" for name in _entries(folder / inner, None))
            elif entry.name == inner:
                raise WeightsError(
                    f"{inner} in the bundle {folder} must be a folder of its own, and is a link or "
                    f"a file. {COPY_AGAIN}"
                )
            else:
                yield entry.name


def _link_or_other(path: Path) -> str | None:
    """Return what a path is if that is not a file with one name; None for such a file.

    A file with several names (hard links) may be changed through another one.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
    return "a hard link" if status.st_nlink > 1 else None


def _own_sha256(record: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
