"""Converted models and measured choices on disk, in the folder ``engines`` of the cache folder.

    KEY/          a converted model, with cache.json: its key and the SHA-256 of its files
    KEY.json      the engine and batch size that were fastest, with a SHA-256
    KEY.*         what a process is writing or removing

A key is a hash of all that the content depends on. Content that differs from its SHA-256, or that
lies under another key, is not used but made again. This detects damage and mix-ups. It does not
detect someone who writes to the folder and computes the SHA-256 again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from denoised_smoothing.errors import SettingError
from denoised_smoothing.files import cache_folder, write_atomically

LIMIT_VARIABLE = "DENOISED_SMOOTHING_CACHE_LIMIT"
RECORD = "cache.json"
"""The file with the key and the digest of a converted model."""
ABANDONED = 24 * 3600
"""Seconds after which an unfinished folder is no longer another process's work."""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?) *({'|'.join(_UNITS)})")
_NAME = re.compile(r"\.?[0-9a-f]{32}(?P<rest>\..+)?")

_log = logging.getLogger(__name__)


def cache_key(*parts: object) -> str:
    """Return a hash of ``parts``."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class ModelFiles:
    """The files of a converted model, read once: the bytes that were checked are executed.

    Args:
        folder: where they were read.
        contents: the files by name.
        digest: a hash of names and contents.
    """

    folder: Path
    contents: Mapping[str, bytes]
    digest: str

    @classmethod
    def read(cls, folder: Path) -> ModelFiles:
        """Read all files of a folder, except the record of the cache."""
        names = sorted(path.name for path in folder.iterdir() if path.name != RECORD)
        contents = {name: (folder / name).read_bytes() for name in names}
        digest = hashlib.sha256()
        for name, content in contents.items():
            digest.update(f"{name} {len(content)};".encode())
            digest.update(content)
        return cls(folder, contents, digest.hexdigest())


@dataclass(frozen=True)
class Entry:
    """Something in the cache: its size in bytes, and its last use in seconds since the epoch."""

    path: Path
    kind: str
    size: int
    used: float

    @property
    def removable(self) -> bool:
        """Whether no other process can be writing it."""
        return self.kind != "unfinished" or time.time() - self.used > ABANDONED


class Cache:
    """The cache that the environment names, and its size limit in bytes; None for no limit.

    Where the folder cannot be written, models are converted and choices measured each time.

    Raises:
        SettingError: the limit is not a size.
    """

    def __init__(self) -> None:
        self.folder = cache_folder() / "engines"
        self.limit = parse_limit(os.environ.get(LIMIT_VARIABLE) or "5GB")

    def model(self, key: str, make: Callable[[Path], None]) -> ModelFiles:
        """Return the converted model of that key; ``make`` writes it to a folder if there is none.

        The folder appears whole or not at all, also if two processes make it at once. If the cache
        cannot be written, it is a temporary folder.
        """
        folder = self.folder / key
        if held := self._intact(key):
            return held
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.folder))
        except OSError:
            part = Path(tempfile.mkdtemp(prefix="denoised-smoothing-"))
            make(part)
            return ModelFiles.read(part)
        try:
            make(part)
            made = ModelFiles.read(part)
            (part / RECORD).write_text(json.dumps({"key": key, "sha256": made.digest}), "utf-8")
            with contextlib.suppress(OSError):  # another process was faster
                part.rename(folder)
            made = self._intact(key) or replace(made, folder=folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._shrink(folder)
        return made

    def recall(self, key: str) -> dict[str, Any] | None:
        """Return the values remembered under that key, or None."""
        path = self.folder / f"{key}.json"
        try:
            held = json.loads(path.read_bytes())
            values: dict[str, Any] = held["values"]
            if held["sha256"] == _seal(key, values):
                _touch(path)
                return values
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            pass
        _log.warning("%s is damaged. The engines are measured again.", path)
        return None

    def remember(self, key: str, values: dict[str, Any]) -> None:
        """Remember plain values, unless the cache cannot be written."""
        content = json.dumps({"values": values, "sha256": _seal(key, values)})
        with contextlib.suppress(OSError, SettingError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{key}.json", content.encode())

    def entries(self) -> list[Entry]:
        """Return what the cache holds, the least recently used first. Other files are left out."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            name = _NAME.fullmatch(path.name)
            if name is None or path.is_symlink():
                continue
            kinds = {None: "converted model", ".json": "measured choice"}
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                size, used = size_of(path), path.stat().st_mtime
                found.append(Entry(path, kinds.get(name["rest"], "unfinished"), size, used))
        return sorted(found, key=lambda entry: entry.used)

    def others(self) -> list[Entry]:
        """Return what else is in the folder of our cache, such as data sets."""
        folder = self.folder.parent
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        return [
            Entry(path, "other", size_of(path), path.lstat().st_mtime)
            for path in paths
            if path != self.folder
        ]

    def empty(self) -> list[Entry]:
        """Remove the entries that no other process is writing, and return them.

        Raises:
            SettingError: an entry cannot be removed.
        """
        removed = [entry for entry in self.entries() if entry.removable]
        for entry in removed:
            try:
                _discard(entry.path)
            except OSError as error:
                raise SettingError(
                    f"cannot remove {entry.path}: {error.strerror}. Remove it as its owner."
                ) from error
        return removed

    def _intact(self, key: str) -> ModelFiles | None:
        """Return a model that is as it was written; move another one out of the way."""
        folder = self.folder / key
        try:
            files = ModelFiles.read(folder)
            if json.loads((folder / RECORD).read_bytes()) == {"key": key, "sha256": files.digest}:
                _touch(folder)
                return files
        except (OSError, ValueError, RecursionError):
            if not os.path.lexists(folder):
                return None
        _log.warning(
            "The converted model %s is damaged, or has no record of its files. The model is "
            "converted again.", folder,
        )  # fmt: skip
        with contextlib.suppress(OSError):
            _discard(folder)
        return None

    def _shrink(self, newest: Path) -> None:
        """Remove what was not used for longest, but not the newest, until the rest fits."""
        entries = self.entries()
        excess = sum(entry.size for entry in entries) - (self.limit or math.inf)
        for entry in entries:
            if excess > 0 and entry.removable and entry.path != newest:
                with contextlib.suppress(OSError):
                    _discard(entry.path)
                excess -= entry.size


def _discard(path: Path) -> None:
    """Remove a file or a folder; other processes find it whole or not at all."""
    gone = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.rename(gone)
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone)
        else:
            gone.unlink()


def _touch(path: Path) -> None:
    """Set the last use to now, unless the cache cannot be written."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _seal(key: str, values: object) -> str:
    return hashlib.sha256(json.dumps([key, values], sort_keys=True).encode()).hexdigest()


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def parse_limit(text: str) -> int | None:
    """Read a size such as ``500MB``; ``0`` and ``none`` are None.

    Raises:
        SettingError: it is neither.
    """
    if text.strip().lower() == "none":
        return None
    size = _SIZE.fullmatch(text.strip().upper())
    if size is None:
        raise SettingError(
            f"{LIMIT_VARIABLE} must be a size such as 500MB or 5GB, or none for no limit, got "
            f"{text!r}. Correct it."
        )
    return int(float(size[1]) * _UNITS[size[2]]) or None
