"""How the pipeline denoiser-then-classifier is executed: the one place where it runs."""

from denoised_smoothing.engines.choice import Choice, Request, choose_engine, limit_threads
from denoised_smoothing.engines.engine import Engine, choose_device, forward_size
from denoised_smoothing.engines.pipeline import Pipeline, Pixels
from denoised_smoothing.engines.torch_engine import TorchEngine

__all__ = [
    "Choice",
    "Engine",
    "Pipeline",
    "Pixels",
    "Request",
    "TorchEngine",
    "choose_device",
    "choose_engine",
    "forward_size",
    "limit_threads",
]
