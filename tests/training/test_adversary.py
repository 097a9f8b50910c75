from __future__ import annotations

import pytest
import torch
from torch import Tensor

from denoised_smoothing.training.adversary import adversarial_shift

IMAGES = torch.zeros(3, 1, 4, 4)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_linear_loss_is_climbed_along_its_gradient(steps: int) -> None:
    direction = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    shift = adversarial_shift(lambda shift: (shift * direction).sum(), IMAGES, 0.5, steps)
    norms = direction.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(shift, 0.5 * direction / norms)
    assert not shift.requires_grad


def test_the_shift_stays_in_its_ball_and_raises_the_loss() -> None:
    def loss(shift: Tensor) -> Tensor:
        return (shift - 0.1).square().sum()

    shift = adversarial_shift(loss, IMAGES, 1.0, 5)
    assert (shift.flatten(1).norm(dim=1) <= 1 + 1e-6).all()
    # The farthest point of a ball of radius 1 from 0.1 in all 16 pixels, whose norm is 0.4.
    assert float(loss(shift)) == pytest.approx(3 * 1.4**2, rel=1e-4)


def test_without_a_gradient_nothing_moves() -> None:
    shift = adversarial_shift(lambda shift: (0 * shift).sum(), IMAGES, 1.0, 2)
    assert torch.equal(shift, IMAGES)
