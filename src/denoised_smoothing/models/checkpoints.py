"""Weights inside the files of training scripts: dictionaries of torch.save, and safetensors."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoised_smoothing.errors import WeightsError, first_line
from denoised_smoothing.files import expand_home
from denoised_smoothing.models.weights import is_pickle, load_weights

_log = logging.getLogger(__name__)

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
_KEYS = (*_AVERAGED, "state_dict", "model_state_dict", "model_state", "model", "net", "network")
"""Keys of the weights, the first that is there; averages first, as timm does."""
_WRAPPERS = {"module", "_orig_mod"}
"""Parts of names that DataParallel and torch.compile add anywhere."""
_TRAINING_ONLY = re.compile(
    r"(?<![a-z])(loss(es)?|criterion|metrics?|acc|accuracy)(?![a-z])", re.IGNORECASE
)
"""Words in names of losses and measures, which change no answer."""


class _Ignored:
    """The stand-in of an object next to the weights: it keeps the state and runs no code."""

    state: object = None

    def __new__(cls, *_: object) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.state = state


_NUMPY = [
    f"numpy.{core}.multiarray.{name}"
    for core in ("core", "_core")
    for name in ("scalar", "_reconstruct")
]
_HARMLESS: list[Any] = [
    *((frozenset, "frozenset"),),
    *((dict, f"{package}.AttributeDict") for package in (
        "lightning.fabric.utilities.data", "lightning.pytorch.utilities.parsing",
        "lightning_fabric.utilities.data", "pytorch_lightning.utilities.parsing",
    )),
    *((_Ignored, name) for name in (
        "argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta",
        *(f"{module}.{path}" for module in ("pathlib", "pathlib._local")
          for path in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
        "numpy.dtype", "numpy.ndarray", *_NUMPY,
    )),
]  # fmt: skip
"""Types that may lie next to the weights, and what is made of them. torch refuses all others."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, and what the file says about them.

    Args:
        path: of the file, for messages.
        tensors: the weights, by the names of the script that wrote them.
        arch: the architecture that the file names, or None.
        label_names: names of the classes, if the file lists them.
        of_timm: whether the training script of timm wrote it.
    """

    path: str
    tensors: dict[str, Tensor]
    arch: str | None = None
    label_names: tuple[str, ...] | None = None
    of_timm: bool = False


def open_checkpoint(named: str | Path) -> Checkpoint:
    """Open a file of torch.save or a safetensors file without running code that it may hold.

    The weights may be the file's own dictionary, or an entry of it, such as ``state_dict``.

    Raises:
        WeightsError: the file is missing or damaged, holds types that could run code, or no
            weights. The message has the two lines that convert it, where that helps.
    """
    path = expand_home(named)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}. Check the path in the spec.")
    if not is_pickle(path):
        tensors, metadata = load_weights(path)
        return Checkpoint(str(named), tensors, metadata.get("arch"))
    held = _unpickled(path)
    key, tensors = _weights_in(held, path)
    if key in _AVERAGED:
        _log.warning("note: %s holds averaged weights (%s). They are used.", path, key)
    entries = {} if not isinstance(held, Mapping) else held
    return Checkpoint(
        str(named), tensors, _arch_in(entries), _names_in(entries),
        of_timm="arch" in entries and entries.get("version") == 2,
    )  # fmt: skip


def named_architecture(checkpoint: Checkpoint, given: str | None, known: str) -> str:
    """Return the given architecture, or the one that the file names.

    Raises:
        WeightsError: neither is there; the message has the ``known`` ones.
    """
    arch = given or checkpoint.arch
    if arch is None:
        raise WeightsError(
            f"{checkpoint.path} names no architecture. Write checkpoint:{checkpoint.path}?arch="
            f"NAME with one of {known}."
        )
    return arch


def conversion(path: Path) -> str:
    """Return the two lines that save the weights of a trusted file alone."""
    new = path.with_name(f"{path.name.partition('.')[0]}-weights.pth")
    return (
        "If you trust the file, save its weights alone (another key than 'state_dict' where the "
        f"file has one):\n    held = torch.load({str(path)!r}, weights_only=False)\n"
        "    torch.save(held.state_dict() if hasattr(held, 'state_dict') else held['state_dict'], "
        f"{str(new)!r})"
    )


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a pickle, a zip archive, or a tensor
        match = re.search(r"GLOBAL (\S+)", str(error))
        foreign = match and match[1]
        if foreign is None and "TorchScript" in str(error):
            lines = (
                f"Save its weights alone:\n    held = torch.jit.load({str(path)!r})\n"
                f"    torch.save(held.state_dict(), {path.stem + '-weights.pth'!r})"
            )
            raise WeightsError(f"{path} is a TorchScript archive. {lines}") from error
        if foreign is None and "eights" not in first_line(error):
            raise WeightsError(
                f"cannot read {path} ({type(error).__name__}: {first_line(error)}). The file is "
                "damaged or incomplete: copy or download it again."
            ) from error
        what = f"an object of type {foreign}" if foreign else "other objects than weights"
        raise WeightsError(
            f"cannot open {path} without running code that it may hold: it holds {what}. "
            f"{conversion(path)}"
        ) from error


def _weights_in(held: Any, path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """Return the key and the tensors of the weights; no key for the whole dictionary."""
    if isinstance(held, Mapping):
        found = {str(key): tensors for key, part in held.items() if (tensors := _tensors(part))}
        for key in _KEYS:
            if key in found:
                return key, found[key]
        if own := _tensors(held):
            return None, own
        if len(found) == 1:
            return found.popitem()
    has = ", ".join(map(repr, list(held)[:6])) if isinstance(held, Mapping) else type(held).__name__
    raise WeightsError(
        f"a checkpoint must be a dictionary of weights, or have one under 'state_dict', got {path} "
        f"with {has or 'nothing'}. Save model.state_dict() with torch.save."
    )


def _tensors(part: Any) -> dict[str, Tensor]:
    """Return the tensors of a dictionary by name; none for anything else."""
    if not isinstance(part, Mapping):
        return {}
    return {
        name: tensor
        for name, tensor in part.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }


def _arch_in(entries: Mapping[Any, Any]) -> str | None:
    """Return the architecture that the file names: ``arch``, or that of the arguments."""
    state = getattr(entries.get("args"), "state", None)
    arguments = state if isinstance(state, Mapping) else {}
    named = (entries.get("arch"), arguments.get("model"), arguments.get("arch"))
    return next((arch for arch in named if isinstance(arch, str) and arch), None)


def _names_in(entries: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes: a list, or ``class_to_idx`` of torchvision's folders."""
    for key in ("label_names", "class_names", "classes", "categories", "class_to_idx"):
        names = entries.get(key)
        if isinstance(names, Mapping):
            numbers = {str(number).zfill(9): name for name, number in names.items()}
            names = [numbers[number] for number in sorted(numbers)]
        if isinstance(names, (list, tuple)) and names and {type(name) for name in names} == {str}:
            return tuple(names)
    return None


def by_own_names(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str
) -> dict[str, Tensor]:
    """Return the weights by the names of a network, without the prefix of a wrapper around it.

    DataParallel, Lightning modules, torch.compile and layers in front add ``module.``,
    ``model.``, ``_orig_mod.`` or ``1.``; whatever the prefix is, the network's names follow it.
    Next to the network, losses, measures and counters change no answer: they are left out, with a
    note. All else may, such as the mean and std of a module that normalises.

    Args:
        own: the network's ``state_dict()``.
        tensors: the weights of the file.

    Raises:
        WeightsError: several networks of these names are there, or other weights next to it.
    """
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    for names in (lambda name: name, plain_name):
        renamed = {names(name): tensor for name, tensor in tensors.items()}
        if prefixes := list(_prefixes(needed, renamed)):
            return _behind(prefixes, renamed, path)
    return dict(tensors)


def plain_name(name: str) -> str:
    """Return a name without the parts that DataParallel and torch.compile add anywhere."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefixes(needed: list[str], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the prefixes behind which all needed names follow."""
    for name in tensors:
        prefix = name.removesuffix(needed[0])
        if not name.endswith(needed[0]) or prefix[-1:] not in ("", "."):
            continue
        if all(prefix + wanted in tensors for wanted in needed):
            yield prefix


def _behind(prefixes: list[str], tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    if len(prefixes) > 1:
        raise WeightsError(
            f"{path} holds {len(prefixes)} networks of this architecture, behind "
            f"{' and '.join(repr(prefix) for prefix in prefixes)}. Save the state_dict() of the "
            "one that classifies."
        )
    (prefix,) = prefixes
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    others = [name for name in tensors if not name.startswith(prefix)]
    weights = [name for name in others if not _is_for_training(name, tensors[name])]
    if weights:
        raise WeightsError(
            f"{path} holds the network behind {prefix!r} and other weights, which may change its "
            f"answers: {', '.join(weights[:5])}. Save the state_dict() of the network alone, or "
            "wrap all of it in a function: python:MODULE:FACTORY."
        )
    if others:
        _log.warning("note: %s also holds %s. They are left out.", path, ", ".join(others[:5]))
    return found


def _is_for_training(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is of a loss or a measure by its name, or a counter."""
    counts = tensor.ndim == 0 and not tensor.is_floating_point()
    return counts or _TRAINING_ONLY.search(name.partition(".")[0]) is not None
