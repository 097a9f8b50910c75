"""trained_range.py: where the range of sigma comes from, and what is said outside of it."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import load_denoiser
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.denoisers.diffusion import DiffusionDenoiser
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.ensemble import MeanDenoiser
from denoised_smoothing.models.denoisers.noise_schedule import Preconditioned, Prediction
from denoised_smoothing.models.denoisers.trained_range import range_notes, trained_range
from denoised_smoothing.models.shipped import shipped_denoisers


def trained(low: float | None = None, high: float | None = None) -> DnCNN:
    """A denoiser whose card states these sigmas."""
    denoiser = DnCNN(image_channels=1, depth=3, width=4)
    denoiser.card = {} if low is None else {"sigma_min": str(low), "sigma_max": str(high)}
    return denoiser


class Wrapped(nn.Module):
    """Calls another denoiser, and states a range if it is given one."""

    def __init__(self, inner: nn.Module, stated: Any = None) -> None:
        super().__init__()
        self.inner = inner
        if stated is not None:
            self.sigma_range = stated

    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        answer: Tensor = self.inner(noisy, sigma)
        return answer


def test_shipped_denoisers_state_their_range() -> None:
    ranges = {name: trained_range(load_denoiser(name)) for name in shipped_denoisers()}
    assert ranges == {
        "cifar10": (0.05, 1.0),
        "cifar10-resnet20": (0.1, 1.0),
        "cifar10-resnet56": (0.1, 1.0),
        "cifar10-resnet56-consistency": (0.1, 1.0),
        "digits-mse": (0.1, 0.6),
        "digits-stability": (0.1, 0.6),
        "photo": (0.05, 0.6),
        "photo-efficientnet-lite0": (0.05, 1.0),
        "photo-mse": (0.05, 1.0),
    }


def test_of_a_mean_it_is_what_its_members_have_in_common() -> None:
    assert trained_range(MeanDenoiser([trained(0.1, 0.6), trained(0.25, 1.0)])) == (0.25, 0.6)
    assert trained_range(MeanDenoiser([trained(0.1, 0.6), trained()])) == (0.1, 0.6)
    assert trained_range(MeanDenoiser([trained(), trained()])) is None
    assert trained_range(MeanDenoiser([trained(0.1, 0.6)], mirror=True)) == (0.1, 0.6)


def test_of_a_wrapper_it_is_that_of_what_it_wraps() -> None:
    inner = trained(0.1, 0.6)
    wrappers = (
        Wrapped(inner), Wrapped(Wrapped(inner)), nn.DataParallel(inner), torch.compile(inner),
        inner.forward, functools.partial(inner), functools.partial(Wrapped(inner).forward, sigma=1),
    )  # fmt: skip
    assert [trained_range(wrapper) for wrapper in wrappers] == [(0.1, 0.6)] * len(wrappers)
    assert trained_range(Wrapped(inner, stated=(0.2, 2))) == (0.2, 2.0)


def test_a_diffusion_model_knows_its_noise_levels() -> None:
    levels = Preconditioned(0.002, 80.0, 0.5, Prediction.EPSILON)
    denoiser = DiffusionDenoiser(nn.Identity(), levels)
    assert trained_range(denoiser) == (0.001, 40.0)
    denoiser.card = {"sigma_min": "0.1", "sigma_max": "0.5"}
    assert trained_range(denoiser) == (0.1, 0.5)


@pytest.mark.parametrize(
    "denoiser",
    [
        None,
        lambda noisy: noisy,
        nn.Identity(),
        trained(),
        SimpleNamespace(sigma_range=None),
        functools.partial(torch.clamp, min=0),
    ],
)
def test_others_are_unknown(denoiser: object) -> None:
    assert trained_range(denoiser) is None
    assert range_notes(denoiser, 100.0) == ()


def test_a_card_of_another_program_states_none() -> None:
    denoiser = trained()
    denoiser.card = {"sigma_min": "small", "sigma_max": "1"}
    assert trained_range(denoiser) is None


@pytest.mark.parametrize("stated", [0.25, (0.25,), (0.1, 0.2, 0.3), ("low", "high")])
def test_a_stated_range_must_be_two_numbers(stated: Any) -> None:
    with pytest.raises(SettingError, match=r"sigma_range of the denoiser .* two numbers, the"):
        trained_range(SimpleNamespace(sigma_range=stated))


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.6, 0.1 - 1e-9, 0.6 + 1e-9])
def test_nothing_is_said_within_it(sigma: float) -> None:
    assert range_notes(trained(0.1, 0.6), sigma) == ()


@pytest.mark.parametrize("sigma", [0.001, 0.0999, 0.601, 3.0])
def test_a_note_outside_says_what_to_do(sigma: float) -> None:
    assert range_notes(trained(0.1, 0.6), sigma) == (
        f"sigma {sigma:g} is outside the range for which the denoiser was trained (0.1 to 0.6). "
        "It may not restore the images, so that few or no certificates follow. Use a sigma in the "
        "range, or train a denoiser for this one: denoised-smoothing train DATA --sigma "
        f"{sigma:g} --output FILE",
    )


def test_a_range_of_one_sigma_or_of_none_is_named_as_such() -> None:
    [one] = range_notes(trained(0.25, 0.25), 0.5)
    assert "for which the denoiser was trained (0.25). It may" in one
    assert range_notes(trained(0.25, 0.25), 0.25) == ()
    mean = MeanDenoiser([trained(0.1, 0.25), trained(0.5, 1.0)])
    for sigma in (0.1, 0.3, 1.0):
        [none] = range_notes(mean, sigma)
        assert "was trained (none that all of its parts have in common). It may" in none
