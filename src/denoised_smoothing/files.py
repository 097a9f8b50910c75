"""Files that are either complete or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from denoised_smoothing.errors import SettingError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and move it there, so that no half file is ever seen.

    Raises:
        SettingError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise SettingError(
            f"cannot write the output {str(path)!r}: {error.strerror}; "
            "name a file in a folder that exists, is writable and has space left"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
