"""Weights as safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from denoised_smoothing.errors import WeightsError, raised_as
from denoised_smoothing.files import write_atomically
from denoised_smoothing.text import shown

_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, on the CPU, and its metadata.

    Raises:
        WeightsError: the file is missing, incomplete, or a pickle, which could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}. Check the path in the spec.")
    if is_pickle(path):
        raise WeightsError(
            f"{path} is a pickle (torch.save), which could run code. Weights must be "
            "safetensors. Convert the file where you trust it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)"
        )
    what = f"{path} is not a complete safetensors file"
    with (
        raised_as(WeightsError, what, "Download or train it again."),
        safetensors.safe_open(path, framework="pt") as weights,
    ):
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
        return tensors, dict(weights.metadata() or {})


def is_pickle(path: Path) -> bool:
    """Return whether a file begins as torch.save begins one."""
    with path.open("rb") as file:
        head = file.read(9)
    # The length of a safetensors header may begin like a pickle. Its ninth byte is a brace.
    return head.startswith(_PICKLE_STARTS) and head[8:] != b"{"


def save_weights(
    path: str | Path, module: nn.Module, metadata: Mapping[str, str], *, half: bool = False
) -> None:
    """Write a module's weights and metadata as safetensors: the whole file or nothing.

    With ``half``, floating-point weights are rounded to 16 bits.

    Raises:
        WeightsError: a weight is too large for half precision.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tensors = {  # copies, because safetensors refuses tied weights
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
    # save_file would write a file that only its owner may read.
    card = {shown(name): shown(text) for name, text in metadata.items()}
    write_atomically(path, save(tensors, metadata=card))


def _halved(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not torch.isfinite(halved).all():
        raise WeightsError(
            f"values must be at most 65504 in half precision, got {tensor.abs().max().item():g} in "
            f"{name}. Write the weights in full precision."
        )
    return halved


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load ``tensors`` into ``module``, whose names and shapes must be equal.

    Counters of batch normalisation may be missing: older files have none.

    Raises:
        WeightsError: the tensors belong to another architecture. The message lists differences.
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
            f"{source} holds weights of another architecture: {', '.join(differs[:3])}{more}. "
            "Name the architecture that was trained."
        )
    what = f"cannot load the weights of {source}"
    with raised_as(WeightsError, what, "Save them as plain tensors."):
        module.load_state_dict(dict(tensors), strict=False)


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256, in hex, of the names, shapes and numbers of a module's weights.

    Unlike a fingerprint, it does not depend on the version of the code.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
