"""Denoisers: DnCNN, MemNet, UNet, diffusion models and ensembles, from files and by name."""

from __future__ import annotations

from denoised_smoothing.models.denoisers.base import DenoiserNetwork, as_denoiser
from denoised_smoothing.models.denoisers.diffusion import DiffusionDenoiser, check_size
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.ensemble import (
    EnsembleClassifier,
    MeanDenoiser,
    MultiSampleDenoiser,
    logits_after_denoising,
)
from denoised_smoothing.models.denoisers.files import (
    ARCHITECTURES,
    build_denoiser,
    load_card,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.models.denoisers.memnet import MemNet
from denoised_smoothing.models.denoisers.unet import UNet

__all__ = [
    "ARCHITECTURES",
    "DenoiserNetwork",
    "DiffusionDenoiser",
    "DnCNN",
    "EnsembleClassifier",
    "MeanDenoiser",
    "MemNet",
    "MultiSampleDenoiser",
    "UNet",
    "as_denoiser",
    "build_denoiser",
    "check_size",
    "load_card",
    "load_denoiser_file",
    "logits_after_denoising",
    "save_denoiser",
]
