"""The pipeline in PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.engines.engine import Engine, checked_answer, cores
from denoised_smoothing.engines.locks import exact_float32, tracing
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.errors import SettingError

_TYPES = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}


class TorchEngine(Engine):
    """PyTorch, channels_last, without gradients; reduced precision by autocast.

    On a CPU several threads run a batch each, on one core each: no core waits for another at
    every layer, and one that is busy otherwise does not hold up the rest. A pipeline that is not
    made of modules is called by one thread alone, as nothing says that it may be shared; so is one
    with hooks, which may keep what they see.

    Args:
        pipeline: denoiser and classifier, on the device.
        device: where it runs.
        precision: float32, bfloat16, or float16 on a GPU.

    Raises:
        SettingError: the precision is not there on this device.
    """

    name = EngineName.TORCH

    def __init__(
        self, pipeline: Pipeline, device: torch.device, precision: Precision = Precision.FLOAT32
    ) -> None:
        on_cpu = device.type == "cpu"
        if precision is Precision.INT8 or (on_cpu and precision is Precision.FLOAT16):
            raise SettingError(
                f"{self.name.value} does not run {precision.value} on {device.type}; take "
                "bfloat16, or int8 with --engine openvino on a CPU"
            )
        self.device, self.precision = device, precision
        self._pipeline = pipeline
        if precision is not Precision.FLOAT32 and getattr(
            pipeline.classifier, "precision_is_fixed", False
        ):
            raise SettingError(
                f"this classifier does not compute in {precision.value}, whatever is asked for; "
                "take --precision float32"
            )
        if pipeline.may_be_shared:
            self.workers = cores() if on_cpu else 2
            self.threads = 1 if on_cpu else None
        else:
            self.workers = 1

    @torch.inference_mode()
    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        copies = copies.contiguous(memory_format=torch.channels_last)
        with tracing.shared(), exact_float32(self.device), self._cast():
            return checked_answer(self._run(copies), copies)

    @classmethod
    def version(cls) -> str:
        return str(torch.__version__)

    def _run(self, copies: Tensor) -> Tensor:
        answer: Tensor = self._pipeline(copies)
        return answer

    def _cast(self) -> AbstractContextManager[object]:
        if self.precision is Precision.FLOAT32:
            return nullcontext()
        return torch.autocast(self.device.type, _TYPES[self.precision])


class CompiledTorchEngine(TorchEngine):
    """The same through ``torch.compile``."""

    name = EngineName.TORCH_COMPILE

    def __init__(
        self, pipeline: Pipeline, device: torch.device, precision: Precision = Precision.FLOAT32
    ) -> None:
        super().__init__(pipeline, device, precision)
        self.workers = 1  # what is compiled belongs to the thread that compiled it
        self.threads = None
        self._compiled = torch.compile(pipeline)

    def _run(self, copies: Tensor) -> Tensor:
        answer: Tensor = self._compiled(copies)
        return answer
