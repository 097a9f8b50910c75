from __future__ import annotations

import functools
from collections.abc import Callable

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


COPIES = torch.linspace(-1, 2, 6 * 3 * 4 * 4).reshape(6, 3, 4, 4)


class Blind(nn.Module):
    def forward(self, noisy: Tensor) -> Tensor:
        return noisy + 1


class WithSigma(nn.Module):
    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        return noisy + sigma


class Method:
    def denoise(self, noisy: Tensor) -> Tensor:
        return noisy + 1

    def __call__(self, noisy: Tensor, sigma: float) -> Tensor:
        return noisy + sigma


class TestAsDenoiser:
    @pytest.mark.parametrize(
        "blind",
        [
            Blind(),
            nn.Sequential(Blind()),
            Method().denoise,
            lambda noisy: noisy + 1,
            lambda noisy, *, strength=1: noisy + strength,
            functools.partial(lambda strength, noisy: noisy + strength, 1),
        ],
    )
    def test_leaves_sigma_out_where_it_is_not_taken(self, blind: Callable[..., Tensor]) -> None:
        assert torch.equal(as_denoiser(blind)(COPIES, 0.5), COPIES + 1)

    @pytest.mark.parametrize(
        "full",
        [
            WithSigma(),
            Method(),
            WithSigma().forward,
            lambda noisy, sigma: noisy + sigma,
            lambda noisy, sigma=0.1: noisy + sigma,
            lambda *inputs: inputs[0] + inputs[1],
            torch.add,  # has no signature to be read
        ],
    )
    def test_is_the_callable_itself_where_sigma_is_taken(self, full: Callable[..., Tensor]) -> None:
        assert as_denoiser(full) is full
        assert torch.equal(as_denoiser(full)(COPIES, 0.5), COPIES + 0.5)
