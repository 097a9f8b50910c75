"""Engines that execute denoiser and classifier, and the choice between them."""

from denoised_smoothing.engines.choice import EngineChoice, choose_engine
from denoised_smoothing.engines.engine import Engine, choose_device, forward_size
from denoised_smoothing.engines.pipeline import PassThrough, Pipeline
from denoised_smoothing.engines.torch_engine import TorchEngine

__all__ = [
    "Engine",
    "EngineChoice",
    "PassThrough",
    "Pipeline",
    "TorchEngine",
    "choose_device",
    "choose_engine",
    "forward_size",
]
