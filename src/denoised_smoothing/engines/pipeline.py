"""Denoiser and classifier as one module, prepared for inference."""

from __future__ import annotations

import copy
from contextlib import suppress
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from denoised_smoothing.engines.engine import checked_answer, checked_call
from denoised_smoothing.engines.locks import tracing
from denoised_smoothing.errors import ClassifierError
from denoised_smoothing.models.protocols import Classifier, Denoiser


class Pipeline(nn.Module):
    """Noisy copies to the classifier's answer on the denoised ones.

    Modules among its parts are put into evaluation mode, onto the device and into channels_last.

    Args:
        classifier: images [B, C, H, W] to logits [B, K] or labels [B].
        denoiser: noisy images and sigma to denoised ones, or None for none.
        sigma: standard deviation of the noise on images in [0, 1].
        device: where it is to run.
    """

    def __init__(
        self,
        classifier: Classifier,
        denoiser: Denoiser | None,
        sigma: float,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.classifier, self.denoiser, self.sigma = classifier, denoiser, sigma
        for part in self.children():
            part.eval().to(device).to(memory_format=torch.channels_last)

    @property
    def is_module(self) -> bool:
        """Whether all of it are modules, which can be copied and traced."""
        parts = (part for part in (self.classifier, self.denoiser) if part is not None)
        return all(isinstance(part, nn.Module) for part in parts)

    @property
    def may_be_shared(self) -> bool:
        """Whether several threads may call it at once: modules without hooks, or what says so."""
        parts = (part for part in (self.classifier, self.denoiser) if part is not None)
        return not self.is_hooked and all(
            isinstance(part, nn.Module) or getattr(part, "may_be_shared", False) for part in parts
        )

    @property
    def is_hooked(self) -> bool:
        """Whether a module has hooks of its forward pass."""
        return any(part._forward_hooks or part._forward_pre_hooks for part in self.modules())

    def forward(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        """Logits [B, K] or labels [B], whatever the classifier gave."""
        return checked_call("classifier", self.classifier, self.denoise(copies))

    def denoise(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        """Denoised copies, or the copies themselves without a denoiser.

        Raises:
            ClassifierError: the denoiser failed, or changed the shape.
        """
        if self.denoiser is None:
            return copies
        denoised = checked_call("denoiser", self.denoiser, copies, self.sigma)
        if denoised.shape != copies.shape:
            raise ClassifierError(
                f"the denoiser turned images of shape {list(copies.shape)} into "
                f"{list(denoised.shape)}; it must keep the shape"
            )
        return denoised

    def state(self) -> tuple[object, ...]:
        """What changes when any weight does: address, version and sums of each tensor.

        The sums, as what is written through ``.data`` leaves the version as it was.
        """
        tensors = list(chain(self.parameters(), self.buffers()))
        versions = [-1 if tensor.is_inference() else tensor._version for tensor in tensors]
        addresses = [tensor.data_ptr() for tensor in tensors]
        return (*addresses, *versions, _sums(tensors))


@torch.inference_mode()
def _sums(tensors: list[Tensor]) -> bytes:
    """Two sums of each tensor, in float64, that tell the order along the first side and the others.

    As bytes, since NaN is not equal to itself.
    """
    sums = []
    for tensor in tensors:
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        rows = real.reshape(len(real) if real.ndim else 1, -1)
        for side in (0, 1):
            line = rows.sum(dim=side, dtype=torch.float64)
            sums.append(line @ torch.arange(1, len(line) + 1, dtype=line.dtype, device=line.device))
    return torch.stack(sums).cpu().numpy().tobytes() if sums else b""


class PassThrough(nn.Module):
    """Stands for a classifier that is elsewhere: hands on what it would see, as [B, C * H * W]."""

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The images, flattened."""
        return images.flatten(1)


class TraceablePipeline(nn.Module):
    """What is traced by converters: the same computation without checks on its shapes."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.classifier, self.denoiser = pipeline.classifier, pipeline.denoiser
        self.sigma = pipeline.sigma

    def forward(self, copies: Tensor) -> Tensor:
        images = copies if self.denoiser is None else self.denoiser(copies, self.sigma)
        return self.classifier(images)


def folded(pipeline: Pipeline, copies: Float[Tensor, "b c h w"]) -> Pipeline:
    """The pipeline with batch normalisation folded into the convolutions before it.

    A copy; the pipeline itself where there is nothing to fold, or where the folded one does not
    reproduce its answer on ``copies`` to within :data:`FOLD_TOLERANCE`.
    """
    modules = list(pipeline.modules())
    normalised = any(isinstance(module, nn.BatchNorm2d) for module in modules)
    if not pipeline.is_module or not normalised or pipeline.is_hooked:
        return pipeline
    candidate = copy.copy(pipeline)
    with tracing.alone():
        candidate._modules = {name: _fold(part) for name, part in pipeline._modules.items()}
    with torch.inference_mode():
        expected = checked_answer(pipeline(copies), copies)
        try:
            if agrees(candidate(copies), expected, FOLD_TOLERANCE):
                return candidate
        except ClassifierError:  # its code asks for parts as they were, such as their length
            pass
    return pipeline


FOLD_TOLERANCE = 1e-4
"""Largest difference of logits, as a share of the largest logit, for folding to be accepted."""


def agrees(answer: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether logits differ by at most ``tolerance`` times the largest, or labels not at all."""
    if answer.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(answer.long(), expected.long())
    scale = float(expected.abs().max()) or 1.0
    return float((answer.float() - expected.float()).abs().max()) <= tolerance * scale


def _fold(module: nn.Module | None) -> nn.Module | None:
    """A copy in which whatever can be traced is folded; parts of what cannot, by themselves."""
    if module is None or not any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
        return module
    if not hasattr(module, "drafts"):  # traced, that would have its first answer alone
        with suppress(Exception):  # control flow that depends on values or shapes: try its parts
            return fuse(module)
    parent = copy.copy(module)
    parent._modules = {name: _fold(part) for name, part in module._modules.items()}
    return parent
