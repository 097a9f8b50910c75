"""How the pipeline denoiser-then-classifier is executed: the one place where it runs."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from denoised_smoothing.errors import ClassifierError, DenoisedSmoothingError, SettingError
from denoised_smoothing.interfaces import Classifier, Denoiser

_Function = TypeVar("_Function", bound=Callable[..., object])


class Engine(Protocol):
    """Answers noisy copies, always in batches of one shape: the last bits depend on it."""

    device: torch.device
    """Where the copies must be and the answers are."""

    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        """Logits [B, K] or labels [B] of noisy copies."""

    def denoise(self, copies: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What the classifier sees of them."""

    def identity(self) -> dict[str, str]:
        """What must be the same for two counts of one image to belong together."""


class TorchEngine:
    """PyTorch, float32, channels_last, without gradients.

    Modules are put into evaluation mode and onto the device.

    Args:
        classifier: images [B, C, H, W] to logits [B, K] or labels [B].
        denoiser: noisy images and sigma to denoised ones, or None for none.
        sigma: the noise's standard deviation on images in [0, 1].
        device: where to run.
    """

    def __init__(
        self,
        classifier: Classifier,
        denoiser: Denoiser | None,
        sigma: float,
        device: torch.device,
    ) -> None:
        self.device = device
        self._classifier = _placed(classifier, device)
        self._denoiser = None if denoiser is None else _placed(denoiser, device)
        self._sigma = sigma

    @torch.inference_mode()
    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        """Logits [B, K] or labels [B] of noisy copies.

        Raises:
            ClassifierError: the classifier failed, or answered something else.
        """
        images = self.denoise(copies)
        with _exact_float32(self.device):
            answer = _checked_call("classifier", self._classifier, images)
        if answer.ndim not in (1, 2) or len(answer) != len(copies):
            raise ClassifierError(
                f"the classifier answered {list(copies.shape)} images with a tensor of shape "
                f"{list(answer.shape)}; expected logits [{len(copies)}, K] or labels "
                f"[{len(copies)}]"
            )
        return answer

    @torch.inference_mode()
    def denoise(self, copies: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Denoised copies, or the copies themselves without a denoiser.

        Raises:
            ClassifierError: the denoiser failed, or changed the shape.
        """
        copies = copies.contiguous(memory_format=torch.channels_last)
        if self._denoiser is None:
            return copies
        with _exact_float32(self.device):
            denoised = _checked_call("denoiser", self._denoiser, copies, self._sigma)
        if denoised.shape != copies.shape:
            raise ClassifierError(
                f"the denoiser turned images of shape {list(copies.shape)} into "
                f"{list(denoised.shape)}; it must keep the shape"
            )
        return denoised

    def identity(self) -> dict[str, str]:
        """Engine, its version, precision and type of processor."""
        if self.device.type == "cuda":
            processor = torch.cuda.get_device_name(self.device)
        else:
            processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        return {
            "engine": "torch",
            "engine_version": str(torch.__version__),
            "precision": "float32",
            "processor": processor,
        }


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


def _exact_float32(device: torch.device) -> AbstractContextManager[object]:
    """No TensorFloat-32, the default for convolutions on CUDA, and fixed algorithms."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def _placed(function: _Function, device: torch.device) -> _Function:
    if isinstance(function, nn.Module):
        function.eval().to(device).to(memory_format=torch.channels_last)
    return function


def _checked_call(
    role: str, function: Callable[..., Tensor], images: Tensor, *more: object
) -> Tensor:
    shape = list(images.shape)
    try:
        answer = function(images, *more)
    except DenoisedSmoothingError:
        raise
    except torch.OutOfMemoryError as error:
        raise ClassifierError(
            f"the memory of {images.device} does not hold the {role} on images of shape {shape}: "
            f"{error}; take a device with more memory, or smaller images"
        ) from error
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
