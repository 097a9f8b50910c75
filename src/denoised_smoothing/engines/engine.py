"""What every engine is: an executor of denoiser-then-classifier in batches of one shape."""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.errors import ClassifierError, DenoisedSmoothingError, SettingError


class Engine(ABC):
    """Answers noisy copies, always in batches of one shape: the last bits depend on it.

    ``answer`` may be called from ``workers`` threads at once. A converted engine holds the
    pipeline as it was when it was made.
    """

    name: ClassVar[EngineName]
    device: torch.device
    """Where the copies must be and the answers are."""
    precision: Precision
    workers: int
    """Threads that keep the device busy."""
    threads: int | None = None
    """Threads of torch inside each worker; None leaves them as they are."""

    @abstractmethod
    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        """Logits [B, K] or labels [B] of noisy copies.

        Raises:
            ClassifierError: the classifier failed, or answered something else.
        """

    def identity(self) -> dict[str, str]:
        """What must be the same for two counts of one image to belong together."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = processor()
        return {
            "engine": self.name.value,
            "engine_version": self.version(),
            "precision": self.precision.value,
            "processor": name,
        }

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Of the library that computes."""


def choose_device(name: str | torch.device) -> torch.device:
    """The device of that name; ``auto`` takes an accelerator if there is one.

    Raises:
        SettingError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise SettingError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); "
            "use auto, cpu, cuda or cuda:0"
        ) from error
    return device


def forward_size(pixels: int, device: torch.device) -> int:
    """Copies in one forward pass for images of ``pixels`` values a channel (H * W).

    A rule and not a measurement, so that the same device type gives the same counts: as many
    as fill the caches of a CPU or the memory of an accelerator, 50 or 1000 at 32x32.
    """
    at_cifar = 50 if device.type == "cpu" else 1000
    return max(4, min(4 * at_cifar, at_cifar * 32 * 32 // pixels))


_ARITHMETIC = ("avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
"""Extensions beyond AVX2 and AVX512 for which libraries have kernels of their own."""


def processor() -> str:
    """The type of this CPU, as far as it decides which kernels compute."""
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
    extensions = [name for name in _ARITHMETIC if told.get(name)]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *extensions])


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_answer(answer: Tensor, copies: Tensor) -> Tensor:
    """The answer, if it is logits [B, K] or labels [B] of the copies [B, C, H, W].

    Raises:
        ClassifierError: it is not.
    """
    if answer.ndim not in (1, 2) or len(answer) != len(copies):
        raise ClassifierError(
            f"the classifier answered {list(copies.shape)} images with a tensor of shape "
            f"{list(answer.shape)}; expected logits [{len(copies)}, K] or labels [{len(copies)}]"
        )
    return answer


def checked_call(
    role: str, function: Callable[..., Tensor], images: Tensor, *more: object
) -> Tensor:
    """What a classifier or denoiser answers on images [B, C, H, W].

    Raises:
        ClassifierError: it failed, or answered something other than a tensor.
    """
    shape = list(images.shape)
    try:
        answer = function(images, *more)
    except DenoisedSmoothingError:
        raise
    except torch.OutOfMemoryError:
        raise  # whoever chose the batch takes a smaller one
    except Exception as error:
        raise ClassifierError(
            f"the {role} failed on images of shape {shape} with {type(error).__name__}: {error}; "
            "check that it takes [B, C, H, W] in [0, 1] with these channels and this size"
        ) from error
    if not isinstance(answer, Tensor):
        raise ClassifierError(
            f"the {role} answered with {type(answer).__name__}; expected a torch.Tensor"
        )
    return answer
