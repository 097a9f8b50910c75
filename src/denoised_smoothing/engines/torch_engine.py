"""The pipeline in PyTorch."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.engines.engine import Engine, cores
from denoised_smoothing.engines.locks import exact_float32, single_caller, tracing
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.errors import SettingError

_TYPES = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}


class TorchEngine(Engine):
    """PyTorch, channels_last, without gradients; reduced precision by autocast.

    On a CPU several threads run a batch each, on one core each: no core waits for another at
    every layer, and one that another process uses does not delay the rest. A pipeline that is
    not made of modules is called by one thread of the process only, since nothing says that
    threads may share it. So is a pipeline with hooks, which may keep what they see, and one that
    was found to keep values between operations.

    Args:
        pipeline: denoiser and classifier, on the device.
        precision: float32, bfloat16, or float16 on a GPU.
        compiled: through ``torch.compile``, which is another engine by name.

    Raises:
        SettingError: the precision is not available on this device.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        device: torch.device,
        precision: Precision = Precision.FLOAT32,
        *,
        compiled: bool = False,
    ) -> None:
        self.name = EngineName.TORCH_COMPILE if compiled else EngineName.TORCH
        on_cpu, reduced = device.type == "cpu", precision is not Precision.FLOAT32
        if precision is Precision.INT8 or (on_cpu and precision is Precision.FLOAT16):
            raise SettingError(
                f"Engine {self.name.value} does not compute in {precision.value} on {device.type}. "
                "Use bfloat16, or int8 with --engine openvino on a CPU."
            )
        if reduced and getattr(pipeline.classifier, "precision_is_fixed", False):
            raise SettingError(
                f"This classifier does not compute in {precision.value}, its precision is fixed. "
                "Use --precision float32."
            )
        self.device, self.precision, self.pipeline = device, precision, pipeline
        self._run: Any = torch.compile(pipeline) if compiled else pipeline
        self._exact: Any = exact_float32 if device.type == "cuda" else nullcontext
        self._cast: Any = nullcontext
        if reduced:
            self._cast = partial(torch.autocast, device.type, _TYPES[precision])
        self.compiled, self.workers = compiled, 1
        self._turn: Any = nullcontext()
        if not pipeline.may_be_shared:
            self.use_alone()
        elif not compiled:  # which belongs to the thread that compiled
            self.workers, self.threads = (cores(), 1) if on_cpu else (2, None)

    @property
    def is_alone(self) -> bool:
        """Whether one thread of the process at a time calls it."""
        return self._turn is single_caller

    def use_alone(self) -> None:
        """Call the pipeline by one thread at a time, also where another engine shares parts."""
        self.workers, self.threads, self._turn = 1, None, single_caller

    def uncompiled(self) -> TorchEngine:
        """Return an engine that executes the same modules without ``torch.compile``."""
        return TorchEngine(self.pipeline, self.device, self.precision) if self.compiled else self

    @torch.inference_mode()
    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        copies = copies.contiguous(memory_format=torch.channels_last)
        with tracing(), self._turn, self._exact(), self._cast():
            answer: Tensor = self._run(copies)
            return answer

    @classmethod
    def version(cls) -> str:
        return str(torch.__version__)
