"""Folders of models, on this machine or downloaded once from the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from denoised_smoothing.errors import WeightsError

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
    path = Path(named).expanduser()
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
        folder = snapshot_download(
            name, local_files_only=problem is not None, ignore_patterns=useless
        )
    except Exception as error:
        reason = problem or error
        raise WeightsError(
            f"{name!r} is neither a folder nor available from the hub "
            f"({type(reason).__name__}: {reason}). Check the name, or save it with save_pretrained "
            "on a machine with internet access, and name that folder."
        ) from reason
    return Path(folder)
