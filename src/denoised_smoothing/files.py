"""Files: atomic writes, checksums, lines of text, and the folder for what can be made again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from denoised_smoothing.errors import SettingError


def named(path: str | Path) -> Path:
    """Return the path of an output.

    Raises:
        SettingError: it has no name, as "", "." and "/".
    """
    path = Path(path)
    if not path.name:
        raise SettingError(f"the output {str(path)!r} has no name. Name a file or folder in it.")
    return path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write ``content`` to a temporary file and move it to ``path``: readers see all or nothing.

    Raises:
        SettingError: the file cannot be written.
    """
    path = named(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise SettingError(
            f"cannot write the output {str(path)!r}: {error.strerror}. "
            "Name a file in a folder that exists, is writable and has space left."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256, in hex, of the contents of the files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return ``DENOISED_SMOOTHING_CACHE``, or our folder in the user's cache folder."""
    if named := os.environ.get("DENOISED_SMOOTHING_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "denoised-smoothing"


def expand_home(path: str | Path) -> Path:
    """Return a path with the home folder for ``~``; as it is, where that user has none."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises)


def read_lines(path: Path, expected: str) -> list[str]:
    """Return the lines of a text file, without empty ones and comments.

    Raises:
        ValueError: it cannot be read; the message begins with what was ``expected``.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{expected} ({error.strerror}: {str(path)!r})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{expected}, in UTF-8 ({error.reason}: {str(path)!r})") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_pairs(path: Path, expected: str) -> dict[str, str]:
    """Return the pairs of a file with lines ``name = other name``.

    Raises:
        ValueError: it cannot be read, a line has no ``=``, or two have the same name.
    """
    pairs = dict[str, str]()
    for line in read_lines(path, expected):
        name, equals, other = map(str.strip, line.partition("="))
        if not equals:
            raise ValueError(expected)
        if name in pairs:
            raise ValueError(f"{expected}, one for each name ({name!r} has two)")
        pairs[name] = other
    return pairs
