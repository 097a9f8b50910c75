"""Denoiser and classifier as one module, ready for inference."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from denoised_smoothing.engines.locks import tracing
from denoised_smoothing.errors import (
    ClassifierError,
    DenoisedSmoothingError,
    MemoryLackError,
    lacks_memory,
)
from denoised_smoothing.models.answers import check_answer, check_tensor, logits_in
from denoised_smoothing.models.protocols import Classifier, Denoiser


class Pipeline(nn.Module):
    """Noisy copies to the classifier's answer on the denoised ones.

    Modules among its parts are put into evaluation mode, onto the device and into channels_last.

    Args:
        classifier: images [B, C, H, W] to logits [B, K] or labels [B].
        denoiser: noisy images and sigma to denoised images, or None for none.
        sigma: standard deviation of the noise on images in [0, 1].
    """

    def __init__(
        self, classifier: Classifier, denoiser: Denoiser | None, sigma: float, device: torch.device
    ) -> None:
        super().__init__()
        self.classifier, self.denoiser, self.sigma = classifier, denoiser, sigma
        parts = [part for part in (classifier, denoiser) if part is not None]
        self.is_module = all(isinstance(part, nn.Module) for part in parts)
        """Whether all parts are modules, which can be copied and traced."""
        for part in self.children():
            part.eval().to(device).to(memory_format=torch.channels_last)

    @property
    def may_be_shared(self) -> bool:
        """Return whether several threads may call it: modules without hooks, or a stated flag.

        TorchScript may not: no check sees what it keeps.
        """
        parts = (part for part in (self.classifier, self.denoiser) if part is not None)
        opaque = any(
            part._forward_hooks
            or part._forward_pre_hooks
            or isinstance(part, torch.jit.ScriptModule)
            for part in self.modules()
        )
        return not opaque and all(
            isinstance(part, nn.Module) or getattr(part, "may_be_shared", False) for part in parts
        )

    def forward(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        """Return logits [B, K] or labels [B].

        Raises:
            ClassifierError: a part failed, or its answer cannot be used.
        """
        answer = _call("classifier", self.classifier, self.denoise(copies))
        return check_answer(answer, copies)

    def denoise(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        """Return denoised copies, or the copies themselves without a denoiser.

        Raises:
            ClassifierError: the denoiser failed, or changed the shape.
        """
        if self.denoiser is None:
            return copies
        denoised = _call("denoiser", self.denoiser, copies, self.sigma)
        if denoised.shape != copies.shape:
            raise ClassifierError(
                f"The denoiser turned images of shape {list(copies.shape)} into "
                f"{list(denoised.shape)}. Use a denoiser that keeps the shape."
            )
        return denoised

    def state(self) -> tuple[object, ...]:
        """Return what changes with any weight: address, version and two sums of each tensor.

        With the mode of each module, which ``train()`` changes.
        Writing through ``.data`` changes no version, but a sum: in float64, weighted by the place
        along the first side and along the others. As bytes, since NaN is not equal to itself.
        """
        tensors = list(chain(self.parameters(), self.buffers()))
        versions = [-1 if tensor.is_inference() else tensor._version for tensor in tensors]
        sums = []
        with torch.inference_mode():
            for tensor in tensors:
                real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
                rows = real.reshape(len(real) if real.ndim else 1, -1)
                for side in (0, 1):
                    line = rows.sum(dim=side, dtype=torch.float64)
                    places = torch.arange(1, len(line) + 1, dtype=line.dtype, device=line.device)
                    sums.append(line @ places)
            held = torch.stack(sums).cpu().numpy().tobytes() if sums else b""
        modes = tuple(module.training for module in self.modules())
        return (*(tensor.data_ptr() for tensor in tensors), *versions, held, modes)


def _call(role: str, function: Callable[..., Tensor], images: Tensor, *more: object) -> Tensor:
    """Return the answer of a classifier or denoiser on images [B, C, H, W]."""
    try:
        answer = function(images, *more)
    except DenoisedSmoothingError:
        raise
    except torch.OutOfMemoryError:
        raise  # the caller, which chose the batch, takes a smaller one
    except Exception as error:
        failed = (
            f"The {role} failed on images of shape {list(images.shape)} and {images.dtype} with "
            f"{type(error).__name__}: {error}."
        )
        if lacks_memory(error):
            raise MemoryLackError(
                f"{failed} Classify fewer copies at once (batch_size, --batch-size), or free "
                "memory. Counts so far are kept."
            ) from error
        remedy = "Check that it takes [B, C, H, W] in [0, 1] with these channels and this size."
        if _TYPES_DIFFER.search(str(error)):
            remedy = (
                "Its weights must be torch.float32, like the images: call .float() on the model. "
                "To compute in reduced precision, use precision='bfloat16' (--precision)."
                if images.dtype is torch.float32
                else "Return denoised.float() from the denoiser."
            )
        raise ClassifierError(f"{failed} {remedy}") from error
    return check_tensor(answer, role)


_TYPES_DIFFER = re.compile(r"dtype|type.*(double|half|bfloat16)", re.IGNORECASE | re.DOTALL)
"""Messages of torch about images and weights of different types."""


class PassThrough(nn.Module):
    """The stand-in of a remote classifier: returns the images that it would see, flattened."""

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the images as [B, C * H * W]."""
        return images.flatten(1)


class TraceablePipeline(nn.Module):
    """The same computation without checks on shapes, for converters that trace it."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.classifier, self.denoiser = pipeline.classifier, pipeline.denoiser
        self.sigma = pipeline.sigma

    def forward(self, copies: Tensor) -> Tensor:
        images = copies if self.denoiser is None else self.denoiser(copies, self.sigma)
        return logits_in(self.classifier(images))  # type: ignore[return-value]


def folded(pipeline: Pipeline, copies: Float[Tensor, "b c h w"]) -> Pipeline:
    """Return a copy of the pipeline with batch normalisation folded into convolutions.

    Return the pipeline itself where there is nothing to fold, or where the folded one does not
    reproduce its answer on ``copies`` to within :data:`FOLD_TOLERANCE`. A copy would not call
    hooks, so a pipeline with hooks stays as it is: modules that may not be shared have some.
    """
    normalised = any(isinstance(module, nn.BatchNorm2d) for module in pipeline.modules())
    if not (pipeline.is_module and normalised and pipeline.may_be_shared):
        return pipeline
    candidate = copy.copy(pipeline)
    with tracing(alone=True):
        candidate._modules = {name: _fold(part) for name, part in pipeline._modules.items()}
    with torch.inference_mode():
        expected = pipeline(copies)
        with suppress(ClassifierError):  # code that needs its parts, such as their number
            if agrees(candidate(copies), expected, FOLD_TOLERANCE):
                return candidate
    return pipeline


FOLD_TOLERANCE = 1e-4
"""Largest difference of logits, as a share of the largest logit, for folding to be accepted."""


def agrees(answer: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Return whether labels are equal, or logits but for ``tolerance`` times the largest.

    Infinite logits must be equal.
    """
    if answer.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(answer.long(), expected.long())
    scale = float(expected.abs().masked_fill(~expected.isfinite(), 0.0).max()) or 1.0
    differences = (answer.float() - expected.float()).abs()
    differences = differences.masked_fill(answer == expected, 0.0)  # infinite ones as well
    return float(differences.max()) <= tolerance * scale


def _fold(module: nn.Module | None) -> nn.Module | None:
    """Return a copy with all folded that can be traced; else its parts are tried one by one."""
    if module is None or not any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
        return module
    if not hasattr(module, "denoise_samples"):  # a trace would hold its first sample only
        with suppress(Exception):  # control flow that depends on values or shapes
            return fuse(_split(module))
    parent = copy.copy(module)
    parent._modules = {name: _fold(part) for name, part in module._modules.items()}
    return parent


def _split(module: nn.Module) -> nn.Module:
    """Return a copy in which timm's normalisations with an activation are two modules."""
    if isinstance(module, nn.BatchNorm2d):
        act, drop = getattr(module, "act", None), getattr(module, "drop", None)
        if type(module) is nn.BatchNorm2d or act is None or drop is None:
            return module
        plain = nn.BatchNorm2d(module.num_features, module.eps, affine=module.affine).eval()
        plain._parameters, plain._buffers = module._parameters, module._buffers
        return nn.Sequential(plain, drop, act)
    parts = {name: part and _split(part) for name, part in module._modules.items()}
    if all(part is module._modules[name] for name, part in parts.items()):
        return module
    parent = copy.copy(module)
    parent._modules = parts
    return parent
