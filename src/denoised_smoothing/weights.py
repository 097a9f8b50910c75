"""Weights in and out as safetensors, and fingerprints of what computes with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
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


def save_weights(path: str | Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write a module's weights and metadata as safetensors, all of the file or none of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    tensors = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    try:
        # Not save_file, which makes files that only their owner may read.
        part.write_bytes(save(tensors, metadata=dict(metadata)))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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


def fingerprint(thing: object, details: Iterable[object] = ()) -> str:
    """A hash of a module's type, weights and ``details``; of a callable's name without weights.

    Two runs are of the same classifier or denoiser when their fingerprints are equal.
    """
    digest = hashlib.sha256()
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    digest.update(f"{named.__module__}.{named.__qualname__}".encode())
    if isinstance(thing, nn.Module):
        for name, tensor in sorted(thing.state_dict().items()):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name}{plain.dtype}{tuple(plain.shape)}".encode())
            digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    digest.update(repr(list(details)).encode())
    return digest.hexdigest()
