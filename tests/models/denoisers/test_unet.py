from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.multiscale_unet import MultiscaleUNet
from denoised_smoothing.models.denoisers.unet import UNet


def test_has_1_3_million_parameters() -> None:
    assert sum(p.numel() for p in UNet().parameters()) == pytest.approx(1.3e6, rel=0.05)


@pytest.mark.parametrize("network", [UNet, MultiscaleUNet])
@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_starts_near_the_best_linear_estimate(network: type[DenoiserNetwork], sigma: float) -> None:
    """For pixels of standard deviation 0.25 that has the error 1 / (1 / 0.25^2 + 1 / sigma^2)."""
    torch.manual_seed(0)
    clean = 0.5 + 0.25 * torch.randn(8, 3, 32, 32)
    noisy = clean + sigma * torch.randn_like(clean)
    with torch.no_grad():
        error = float((network()(noisy, sigma) - clean).square().mean())
    linear = 1 / (1 / 0.25**2 + 1 / sigma**2)
    assert linear * 0.95 < error < linear * 1.5
    assert error < sigma**2


def test_little_noise_leaves_the_image_alone() -> None:
    torch.manual_seed(0)
    clean = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert (UNet()(clean, 1e-3) - clean).abs().max() < 0.01


@pytest.mark.parametrize(
    ("build", "side"),
    [
        (partial(UNet, width=8, outer=1, inner=1), 68),
        (partial(MultiscaleUNet, widths=(8, 8, 8), blocks=(1, 1, 1)), 132),
    ],
)
def test_far_pixels_matter_less_than_the_network_can_see(
    build: Callable[[], DenoiserNetwork], side: int
) -> None:
    """What is added below and to the right, to make sizes fit, does not reach the upper left."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, side, side)
    network = build()
    with torch.no_grad():
        whole, part = network(image, 0.5), network(image[:, :, : side - 3, : side - 2], 0.5)
    torch.testing.assert_close(whole[:, :, :32, :32], part[:, :, :32, :32], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"unshuffle": 1}, {"unshuffle": 4}, {"residual": "noise"}, {"levels": 4}]
)
def test_variants_keep_the_shape_of_any_image(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = UNet(width=8, outer=1, inner=1, **options)
    assert network.config.items() >= options.items()
    noisy = torch.rand(2, 3, 15, 22)
    with torch.no_grad():
        assert network(noisy, 0.25).shape == noisy.shape


def test_a_residual_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="residual must be scaled or noise, got 'image'"):
        UNet(residual="image")


def test_levels_give_every_sigma_its_own_biases() -> None:
    torch.manual_seed(0)
    network = UNet(width=8, outer=1, inner=1, levels=4)
    plain = UNet(width=8, outer=1, inner=1)
    plain.load_state_dict(network.state_dict(), strict=False)
    noisy = torch.rand(2, 3, 16, 16)
    sigmas = torch.tensor([0.25, 0.5])
    with torch.no_grad():
        torch.testing.assert_close(network(noisy, sigmas), plain(noisy, sigmas))
        for block in (*network.encode, *network.decode):
            torch.nn.init.normal_(block.second.weight, std=0.1)
            torch.nn.init.normal_(block.bias[-1].weight)
        plain.load_state_dict(network.state_dict(), strict=False)
        both = network(noisy, sigmas)
        torch.testing.assert_close(both[:1], network(noisy[:1], 0.25))
        torch.testing.assert_close(both[1:], network(noisy[1:], 0.5))
        assert (both - plain(noisy, sigmas)).abs().max() > 1e-3
