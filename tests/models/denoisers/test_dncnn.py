from __future__ import annotations

import torch

from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.files import build_denoiser


def test_the_colour_network_of_17_layers_of_64() -> None:
    first = 3 * 64 * 9 + 64
    middle = 15 * (64 * 64 * 9 + 2 * 64)
    last = 64 * 3 * 9
    assert sum(p.numel() for p in DnCNN().parameters()) == first + middle + last == 558_400


def test_the_wide_one_has_128_channels() -> None:
    assert build_denoiser("dncnn-wide").config == {"image_channels": 3, "depth": 17, "width": 128}


def test_predicts_the_noise() -> None:
    denoiser = DnCNN(depth=3, width=4).eval()
    torch.nn.init.zeros_(denoiser.noise[-1].weight)
    noisy = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(denoiser(noisy, 0.25), noisy)
