"""Weights in and out as safetensors, and fingerprints of what computes with them."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from denoised_smoothing.errors import WeightsError

_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors by name, on the CPU, and its metadata.

    Raises:
        WeightsError: the file is missing, a pickle (which could run code), or not whole.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}; check the path in the spec")
    with path.open("rb") as file:
        head = file.read(9)
        # The length of a safetensors header may begin like a pickle; its ninth byte is a brace.
        if head.startswith(_PICKLE_STARTS) and head[8:] != b"{":
            raise WeightsError(
                f"{path} is a pickle (torch.save), which can run code when it is opened, and is "
                "refused; convert it where you trust it: "
                "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)"
            )
    try:
        with safetensors.safe_open(path, framework="pt") as weights:
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
            return tensors, dict(weights.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}); fetch or train it again"
        ) from error


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], str | None]:
    """Read a published ``checkpoint.pth.tar``: its tensors by plain names, and its architecture.

    The layout is that of the code of Cohen et al. 2019 and Salman et al. 2020: a dictionary with
    ``arch`` and ``state_dict``, whose names may carry the ``module.`` of DataParallel and the
    ``1.`` of a normalising layer that came first. It is opened with ``weights_only=True``, which
    runs no code.

    Raises:
        WeightsError: the file is missing, of another layout, or holds more than numbers.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint {path}; check the path in the spec")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be opened without running code that it may hold "
            f"({str(error).strip().partition(chr(10))[0]}); where you trust it, save only its "
            "tensors: torch.save({'arch': NAME, 'state_dict': STATE_DICT}, NEW_FILE)"
        ) from error
    tensors = held.get("state_dict", held) if isinstance(held, dict) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise WeightsError(
            f"{path} has another layout than published checkpoints; expected a dictionary with "
            "'arch' and 'state_dict'"
        )
    arch = held.get("arch")
    return {_plain_name(name): tensor for name, tensor in tensors.items()}, arch and str(arch)


def _plain_name(name: str) -> str:
    parts = [part for part in name.split(".") if part != "module"]
    return ".".join(parts[1:] if parts[0] == "1" else parts)


def save_weights(
    path: str | Path, module: nn.Module, metadata: Mapping[str, str], *, half: bool = False
) -> None:
    """Write a module's weights and metadata as safetensors, all of the file or none of it.

    With ``half``, numbers in floating point are rounded to 16 bits.

    Raises:
        WeightsError: a weight is too large for half precision.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    tensors = {name: _own_copy(tensor) for name, tensor in module.state_dict().items()}
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
    try:
        # Not save_file, which makes files that only their owner may read.
        part.write_bytes(save(tensors, metadata=dict(metadata)))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _own_copy(tensor: Tensor) -> Tensor:
    """A copy that shares no memory: safetensors refuses tied weights."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _halved(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not torch.isfinite(halved).all():
        raise WeightsError(
            f"{name} has values up to {tensor.abs().max().item():g}, and half precision ends at "
            "65504; write the weights in full precision"
        )
    return halved


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load ``tensors`` into ``module``, whose names and shapes must all agree.

    Counters of batch normalisation may be missing: older files have none.

    Raises:
        WeightsError: the tensors are of another architecture; names what differs.
    """
    own = module.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    differs = [f"{name} is missing" for name in own if name not in tensors.keys() | optional]
    differs += [f"{name} is not part of it" for name in tensors if name not in own]
    differs += [
        f"{name} has shape {list(tensor.shape)} instead of {list(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if differs:
        more = f" and {len(differs) - 3} more" if len(differs) > 3 else ""
        raise WeightsError(
            f"{source} holds weights of another architecture: {'; '.join(differs[:3])}{more}; "
            "name the architecture that the file was trained as"
        )
    module.load_state_dict(dict(tensors), strict=False)


def fingerprint(thing: object) -> str:
    """A hash of what a classifier or denoiser computes with: code, weights, settings.

    Modules, plain objects, partial and bound functions and closures are followed to the tensors,
    arrays and plain values that they hold; functions and methods of a user's own, to those of the
    same package that they call. Classes of known libraries count by name. What an object of a
    compiled library holds cannot be seen; of it, only the type counts.
    """
    digest = hashlib.sha256()
    _feed(digest, thing, {})
    return digest.hexdigest()


def weights_digest(module: nn.Module) -> str:
    """SHA-256, in hex, of a module's names, shapes and numbers alone.

    Unlike :func:`fingerprint`, the same for every version of the code that computes with them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, thing: object, seen: dict[int, object]) -> None:
    if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes, torch.dtype)):
        digest.update(f"{type(thing).__name__} {thing!r};".encode())
        return
    if not isinstance(thing, tuple):  # whether equal ones are one object is up to the interpreter
        if id(thing) in seen:
            return
        seen[id(thing)] = thing  # kept, so that nothing else gets its id
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    digest.update(f"{named.__module__}.{named.__qualname__}(".encode())
    for part in _parts(digest, thing):
        _feed(digest, part, seen)
    digest.update(b");")


def _parts(digest: hashlib._Hash, thing: object) -> Iterable[object]:
    """What a thing consists of; the bytes of tensors and arrays go straight to the digest."""
    if isinstance(thing, (Tensor, np.ndarray)):
        array = thing.detach().cpu().contiguous() if isinstance(thing, Tensor) else thing
        digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
        if isinstance(array, Tensor):
            array = array.flatten().view(torch.uint8).numpy()
        digest.update(np.ascontiguousarray(array).tobytes())
        return ()
    if isinstance(thing, Mapping):
        return [part for item in thing.items() for part in item]
    if isinstance(thing, (list, tuple)):
        return thing
    if isinstance(thing, (set, frozenset)):
        return sorted(map(repr, thing))
    if isinstance(thing, partial):
        return thing.func, thing.args, thing.keywords
    if isinstance(thing, MethodType):
        return thing.__self__, thing.__func__
    if isinstance(thing, FunctionType):
        return () if _is_library(thing.__module__) else _of_function(thing)
    if isinstance(thing, type):
        return _of_class(thing)
    if isinstance(thing, ModuleType):
        return ()
    if callable(told := getattr(thing, "fingerprint_parts", None)):  # it knows itself
        return (told(),)
    held = dict(getattr(thing, "__dict__", {}))
    if isinstance(thing, nn.Module):  # whether it is training is for the engine to set
        held = {name: value for name, value in held.items() if name not in ("training", "card")}
    return held, type(thing)


_LIBRARIES = {
    *("denoised_smoothing", "diffusers", "lightning", "numpy", "onnxruntime", "PIL", "scipy"),
    *("timm", "torch", "torchvision", "transformers"),
}
"""Packages whose code counts by name, beside those of Python itself."""


def _is_library(module: str | None) -> bool:
    package = _package(module)
    return package in _LIBRARIES or (package in sys.stdlib_module_names and package != "__main__")


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _of_function(function: FunctionType) -> list[object]:
    """Its code, the values it closes over, and what it uses of its own package."""
    code = function.__code__
    used = [function.__globals__.get(name) for name in sorted(_names(code))]
    own = _package(function.__module__)
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not yet filled: a function that calls itself
            continue
    return [
        _text(code), function.__defaults__, function.__kwdefaults__, cells,
        [value for value in used if _is_setting(value) or _is_code_of(value, own)],
    ]  # fmt: skip


def _of_class(kind: type) -> list[object]:
    """The functions and settings that a user wrote into it or its bases."""
    found: list[object] = []
    for owner in kind.__mro__:
        if _is_library(owner.__module__):
            continue
        for name, member in sorted(vars(owner).items()):
            if isinstance(member, property):
                member = member.fget
            member = getattr(member, "__func__", member)
            if isinstance(member, FunctionType) or (_is_setting(member) and name[:2] != "__"):
                found += [name, member]
    return found


def _is_setting(value: object) -> bool:
    return isinstance(value, (bool, int, float, complex, str, bytes, tuple, Tensor, np.ndarray))


def _is_code_of(value: object, package: str) -> bool:
    return isinstance(value, (FunctionType, type)) and _package(value.__module__) == package


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _text(code: CodeType) -> str:
    """Instructions, names and constants; equal wherever and whenever the source was compiled."""
    constants = [
        _text(constant)
        if isinstance(constant, CodeType)
        else repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
        for constant in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"
