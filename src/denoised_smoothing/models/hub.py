"""Folders of models: those on this machine, and those of the Hugging Face hub, fetched once."""

from __future__ import annotations

import re
from pathlib import Path

from denoised_smoothing.errors import WeightsError

SECONDS = 10
"""How long the hub may take to answer whether it has a model."""
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_WEIGHTS = ("*.safetensors", "*.bin")
_USELESS = ("*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.pth", "*.ckpt", "*.gguf", "onnx/*")


def model_folder(named: str, *, holds: str) -> Path:
    """The folder of a model: the one named, or that of the hub's model of this name.

    The hub is asked once and without retries; where it does not answer, what was fetched before
    is taken.

    Args:
        named: a path, or ``OWNER/NAME`` on the hub.
        holds: the file that such a folder must hold, such as ``config.json``.

    Raises:
        WeightsError: there is no such folder, the file is not in it, or the hub cannot be
            reached and the model was not fetched before.
    """
    path = Path(named).expanduser()
    if path.is_dir():
        if not (path / holds).is_file():
            there = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
            raise WeightsError(
                f"the folder {named} holds no {holds} (but {there}); name the folder that "
                "save_pretrained wrote"
            )
        return path
    if path.exists() or not _HUB_NAME.fullmatch(named):
        raise WeightsError(
            f"there is no folder {named}; check the path, or name a model of the hub as OWNER/NAME"
        )
    return _fetched(named)


def _fetched(name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    useless = list(_USELESS)
    try:
        files = HfApi().model_info(name, timeout=SECONDS).siblings or []
        if any(file.rfilename.endswith(".safetensors") for file in files):
            useless.append("*.bin")
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"the hub has no model {name!r} that may be read; check the name, or log in with "
            "'hf auth login'"
        ) from error
    except Exception as error:  # no network has many names
        problem: Exception | None = error
    else:
        problem = None
    try:
        folder = snapshot_download(
            name, local_files_only=problem is not None, ignore_patterns=useless
        )
    except Exception as error:
        reason = problem or error
        raise WeightsError(
            f"{name!r} is no folder here, and cannot be had from the hub "
            f"({type(reason).__name__}: {reason}); check the name, or fetch it where there is "
            "internet, with save_pretrained, and name that folder"
        ) from reason
    return Path(folder)
