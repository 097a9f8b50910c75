from __future__ import annotations

import pytest
import torch
from torch import nn

from denoised_smoothing.models.denoisers.memnet import MemNet


def test_the_size_that_the_paper_states() -> None:
    """Tai et al. 2017, Table 1: M6R6 on grey images has 677K parameters, norms not counted."""
    network = MemNet(image_channels=1, blocks=6, recursions=6)
    weights = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert weights == pytest.approx(677_000, rel=0.01)


def test_recursions_share_convolutions() -> None:
    def weights(recursions: int) -> int:
        block = MemNet(blocks=1, recursions=recursions, width=8).blocks[0]
        return sum(c.weight.numel() for c in block.convolutions)

    assert weights(1) == weights(6) == 2 * 8 * 8 * 9


def test_the_gate_sees_every_recursion_and_every_earlier_block() -> None:
    network = MemNet(blocks=3, recursions=6, width=8)
    assert [block.gate[2].in_channels for block in network.blocks] == [7 * 8, 8 * 8, 9 * 8]


def test_adds_a_residual() -> None:
    network = MemNet(blocks=1, recursions=1, width=4).eval()
    nn.init.zeros_(network.reconstruct[2].weight)
    noisy = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(noisy, 0.25), noisy)
