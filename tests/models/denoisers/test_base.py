from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.models.denoisers.base import DenoiserNetwork, as_denoiser


class Brighten(nn.Module):
    def forward(self, noisy: Tensor) -> Tensor:
        return noisy + 1


def with_sigma(noisy: Tensor, sigma: float) -> Tensor:
    return noisy + sigma


def with_anything(*arguments: float) -> Tensor:
    noisy, sigma = arguments
    return noisy + sigma


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (with_sigma, 0.25),
        (with_anything, 0.25),
        (lambda noisy: noisy + 1, 1.0),
        (lambda noisy, *, strength=2.0: noisy + strength, 2.0),
        (Brighten(), 1.0),
    ],
    ids=["sigma", "any arguments", "blind", "keyword only", "blind module"],
)
def test_sigma_is_given_to_those_that_take_it(function: object, expected: float) -> None:
    denoised = as_denoiser(function)(torch.zeros(2, 3, 4, 4), 0.25)  # type: ignore[arg-type]
    assert torch.equal(denoised, torch.full((2, 3, 4, 4), expected))


def test_a_denoiser_stays_what_it_is() -> None:
    assert as_denoiser(with_sigma) is with_sigma


def test_a_blind_module_stays_visible() -> None:
    module = as_denoiser(nn.Sequential(Brighten(), nn.Conv2d(1, 1, 1)))
    assert isinstance(module, nn.Module)
    assert len(list(module.parameters())) == 2


def test_a_network_must_say_how_it_denoises() -> None:
    with pytest.raises(TypeError, match="abstract"):
        DenoiserNetwork()  # type: ignore[abstract]
