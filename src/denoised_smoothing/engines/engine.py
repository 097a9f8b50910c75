"""The base class of engines: denoiser and classifier, executed in batches of one shape."""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.errors import SettingError


class Engine(ABC):
    """Executes a pipeline, always in batches of one shape: the last bits depend on the shape.

    ``answer`` may be called from ``workers`` threads at once. A converted engine holds the
    pipeline as it was at the conversion.
    """

    name: EngineName
    device: torch.device
    """The device of the copies and of the answers."""
    precision: Precision
    workers: int
    """Threads that keep the device busy."""
    threads: int | None = None
    """Threads of torch inside each worker; None leaves them as they are."""

    @abstractmethod
    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        """Return logits [B, K] or labels [B] of noisy copies.

        Raises:
            ClassifierError: the classifier failed, or its answer has another shape.
        """

    def identity(self) -> dict[str, str]:
        """Return what must be the same for two counts of one image to be added."""
        on_cuda = self.device.type == "cuda"
        return {
            "engine": self.name.value,
            "engine_version": self.version(),
            "precision": self.precision.value,
            "processor": torch.cuda.get_device_name(self.device) if on_cuda else processor(),
        }

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return the version of the library that computes."""


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of that name; ``auto`` takes an accelerator if there is one.

    Raises:
        SettingError: the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise SettingError(
            f"device {name!r} is not available here ({str(error).splitlines()[0]}). "
            "Use auto, cpu, cuda or cuda:0."
        ) from error
    return device


def forward_size(pixels: int, device: torch.device) -> int:
    """Return the copies in one forward pass for images of ``pixels`` values a channel (H * W).

    A rule and not a measurement, so that the same device type gives the same counts: as many
    as fill the caches of a CPU or the memory of an accelerator, 50 or 1000 at 32x32.
    """
    at_cifar = 50 if device.type == "cpu" else 1000
    return max(4, min(4 * at_cifar, at_cifar * 32 * 32 // pixels))


_ARITHMETIC = ("avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
"""Extensions beyond AVX2 and AVX512 for which libraries have kernels of their own."""


def processor() -> str:
    """Return the type of this CPU, as far as it decides which kernels compute."""
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
    extensions = [name for name in _ARITHMETIC if found.get(name)]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *extensions])


_AFFINITY = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()


def cores() -> int:
    """Return the number of processor cores that this process may use.

    It was counted at import, because libraries may pin threads that call them to one core.
    """
    return len(_AFFINITY) or os.cpu_count() or 1
