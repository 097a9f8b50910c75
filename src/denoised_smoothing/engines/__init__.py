"""How the pipeline denoiser-then-classifier is executed: the one place where it runs."""

from denoised_smoothing.engines.choice import EngineChoice, Request, choose_engine, limit_threads
from denoised_smoothing.engines.engine import Engine, choose_device, forward_size
from denoised_smoothing.engines.pipeline import PassThrough, Pipeline
from denoised_smoothing.engines.torch_engine import TorchEngine

__all__ = [
    "Engine",
    "EngineChoice",
    "PassThrough",
    "Pipeline",
    "Request",
    "TorchEngine",
    "choose_device",
    "choose_engine",
    "forward_size",
    "limit_threads",
]
