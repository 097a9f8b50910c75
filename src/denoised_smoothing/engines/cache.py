"""Converted models and measured choices on disk, under a hash of all they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from denoised_smoothing.errors import SettingError
from denoised_smoothing.files import cache_folder, write_atomically


def cache_key(*parts: object) -> str:
    """Return a hash of ``parts``."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:32]


def cached_folder(key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that key; ``make`` fills it if there is none yet.

    It appears whole or not at all, also if two processes make it at once. Where the cache cannot
    be written, it is a temporary folder.
    """
    try:
        parent = cache_folder()
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / key
        if folder.is_dir():
            return folder
        part = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=parent))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="denoised-smoothing-"))
        make(folder)
        return folder
    try:
        make(part)
        with contextlib.suppress(OSError):  # another process was faster
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def recall(key: str) -> dict[str, Any] | None:
    """Return the values remembered under that key, or None."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((cache_folder() / f"{key}.json").read_text())
        return found
    return None


def remember(key: str, values: dict[str, Any]) -> None:
    """Remember plain values, unless the cache cannot be written."""
    with contextlib.suppress(OSError, SettingError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomically(cache_folder() / f"{key}.json", json.dumps(values).encode())


def digest_of_files(folder: Path) -> str:
    """Return a hash of all files of a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size};".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
