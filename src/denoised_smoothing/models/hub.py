"""Folders of models, on this machine or downloaded once from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from denoised_smoothing.errors import WeightsError
from denoised_smoothing.files import expand_home, sha256_of

_log = logging.getLogger(__name__)

SECONDS = 10
"""Timeout of the question whether the hub has a model, in seconds."""
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_WEIGHTS = ("*.safetensors", "*.bin")
_USELESS = ("*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.pth", "*.ckpt", "*.gguf", "onnx/*")


def model_folder(named: str, *, holds: str) -> Path:
    """Return the folder of a model, after a download from the hub if needed.

    The hub is asked once, without retries. If it does not answer, an earlier download is used.

    Args:
        named: a path, or ``OWNER/NAME`` on the hub.
        holds: a file that the folder must hold, such as ``config.json``.

    Raises:
        WeightsError: the folder or the file is missing, or the hub is unreachable and there is
            no earlier download.
    """
    path = expand_home(named)
    if path.is_dir():
        if not (path / holds).is_file():
            there = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
            raise WeightsError(
                f"the folder {named} must hold {holds}, got {there}. Name a folder that "
                "save_pretrained wrote."
            )
        return path
    if path.exists() or not _HUB_NAME.fullmatch(named):
        raise WeightsError(
            f"there is no folder {named}. Check the path, or name a model of the hub as OWNER/NAME."
        )
    return _downloaded(named)


def _downloaded(name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    useless, problem = list(_USELESS), None
    try:
        files = HfApi().model_info(name, timeout=SECONDS).siblings or []
        if any(file.rfilename.endswith(".safetensors") for file in files):
            useless.append("*.bin")
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"the hub has no readable model {name!r}. Check the name, or log in with "
            "'hf auth login'."
        ) from error
    except Exception as error:  # a missing network has many exceptions
        problem = error
    try:
        options = {"local_files_only": problem is not None, "ignore_patterns": useless}
        folder = Path(snapshot_download(name, **options))
        altered = _altered(folder, useless)
        if altered and problem is None:
            _remove(altered)
            folder = Path(snapshot_download(name, **options))
            altered = _altered(folder, useless)
    except Exception as error:
        reason = problem or error
        raise WeightsError(
            f"{name!r} is neither a folder nor available from the hub "
            f"({type(reason).__name__}: {reason}). Check the name, or save it with save_pretrained "
            "on a machine with internet access, and name that folder."
        ) from reason
    if altered:
        raise WeightsError(
            f"{altered[0]} is not the file that the hub has of {name!r}: its hash differs. Repeat "
            "the command with access to the hub, which downloads the file again."
        )
    return folder


def _altered(folder: Path, useless: Sequence[str]) -> list[Path]:
    """Return the files that differ from the hash which the file they link to is named after."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_symlink()
        and not any(fnmatch(path.relative_to(folder).as_posix(), part) for part in useless)
        and not _is_intact(path)
    ]


def _is_intact(link: Path) -> bool:
    stated = link.readlink().name
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", stated):
        return True  # not stored by its hash
    if not link.is_file():
        return False
    if len(stated) == 64:
        return sha256_of(link) == stated
    content = link.read_bytes()
    blob = b"blob %d\0%b" % (len(content), content)  # as git hashes small files
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == stated


def _remove(altered: Sequence[Path]) -> None:
    """Remove links and the files behind them, so that they are downloaded again."""
    for link in altered:
        _log.warning("%s is not the file that the hub has. It is downloaded again.", link)
        for path in (link.resolve(), link.parent / link.readlink(), link):
            path.unlink(missing_ok=True)
