"""Weights in and out as safetensors."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

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


def weights_digest(module: nn.Module) -> str:
    """SHA-256, in hex, of a module's names, shapes and numbers alone.

    Unlike a fingerprint, the same for every version of the code that computes with them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
