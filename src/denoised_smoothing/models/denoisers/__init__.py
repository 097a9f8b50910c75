"""Denoisers: DnCNN, MemNet and a UNet that takes sigma, by name and from files."""

from __future__ import annotations

from denoised_smoothing.models.denoisers.base import DenoiserNetwork, as_denoiser
from denoised_smoothing.models.denoisers.diffusers import load_diffusion
from denoised_smoothing.models.denoisers.diffusion import DiffusionDenoiser, Walk, check_size
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.files import (
    ARCHITECTURES,
    build_denoiser,
    load_card,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.models.denoisers.majority import Drafting, MajorityVote
from denoised_smoothing.models.denoisers.mean import MeanAnswer, MeanDenoiser, answers_behind
from denoised_smoothing.models.denoisers.memnet import MemNet
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.models.shipped import (
    bundled_denoisers,
    bundled_folder,
    check_shipped,
    load_bundled_denoiser,
)

__all__ = [
    "ARCHITECTURES",
    "DenoiserNetwork",
    "DiffusionDenoiser",
    "DnCNN",
    "Drafting",
    "MajorityVote",
    "MeanAnswer",
    "MeanDenoiser",
    "MemNet",
    "UNet",
    "Walk",
    "answers_behind",
    "as_denoiser",
    "build_denoiser",
    "bundled_denoisers",
    "bundled_folder",
    "check_shipped",
    "check_size",
    "load_bundled_denoiser",
    "load_card",
    "load_denoiser_file",
    "load_diffusion",
    "save_denoiser",
]
