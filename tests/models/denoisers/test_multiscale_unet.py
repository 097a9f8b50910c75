from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from denoised_smoothing.models.denoisers.multiscale_unet import MultiscaleUNet


def test_costs_at_most_1_4_billion_multiplications_for_a_photograph() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        MultiscaleUNet()(torch.rand(1, 3, 224, 224), 0.25)
    assert 1.2e9 < counter.get_total_flops() / 2 < 1.4e9


@pytest.mark.parametrize("widths", [(4, 8), (4, 8, 12), (4, 4, 8, 8)])
def test_every_scale_reaches_images_of_any_size(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = MultiscaleUNet(widths=widths, blocks=[1] * len(widths), levels=2)
    assert network.config["widths"] == list(widths)
    noisy = torch.rand(2, 3, 21, 34)
    denoised = network(noisy, 0.25)
    assert denoised.shape == noisy.shape
    denoised.square().mean().backward()
    scales = [network.head, *network.down, *network.up, network.tail]
    for layer in scales:
        assert isinstance(layer, nn.Conv2d)
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("widths", "blocks"), [((8,), (1,)), ((8, 8), (1, 1, 1))])
def test_scales_that_do_not_fit_together_are_refused(
    widths: tuple[int, ...], blocks: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="one entry for each of at least two scales, got"):
        MultiscaleUNet(widths=widths, blocks=blocks)
