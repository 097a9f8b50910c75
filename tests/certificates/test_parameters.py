from __future__ import annotations

import math
from typing import Any

import pytest

from denoised_smoothing.certificates.grid import grid_error
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters, choose_by_name
from denoised_smoothing.errors import SettingError

from .samples import setting_of


@pytest.mark.parametrize(
    ("sigma", "alpha", "message"),
    [
        (0.0, 0.001, "sigma .* got 0.0"),
        (math.nan, 0.001, "sigma .* got nan"),
        (0.25, 0.0, "alpha .* got 0.0"),
        (0.25, 1.0, "alpha .* got 1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(sigma: float, alpha: float, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        setting_of(sigma, alpha)


@pytest.mark.parametrize("seed", [1.5, "1", True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(SettingError, match=f"^seed must be a whole number, got {seed!r}"):
        SmoothingParameters(0.25, 0.001, 3072, seed)


@pytest.mark.parametrize("value", ["0.1", None])
def test_alpha_and_sigma_are_numbers(value: Any) -> None:
    with pytest.raises(SettingError, match="alpha must lie strictly"):
        SmoothingParameters(0.25, value, 3072, 0)
    with pytest.raises(SettingError, match="sigma must be above 0"):
        SmoothingParameters(value, 0.001, 3072, 0)


def test_noise_is_on_the_grid_by_default() -> None:
    assert SmoothingParameters(0.25, 0.001, 3072, 0).noise is Noise.GRID


def test_the_error_of_a_copy_is_that_of_its_pixels_together() -> None:
    assert setting_of(noise=Noise.GRID).error == 3072 * grid_error(0.25)
    assert 0.0 < setting_of(noise=Noise.GRID).error < 1e-12
    assert setting_of(noise=Noise.FLOAT).error == 0.0


@pytest.mark.parametrize("name", ["grid", "float"])
def test_noise_is_found_by_its_name(name: str) -> None:
    assert (
        choose_by_name(Noise, name, "noise")
        is choose_by_name(Noise, Noise(name), "noise")
        is Noise(name)
    )


@pytest.mark.parametrize("name", ["white", "", "GRID"])
def test_unknown_noise_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=rf"one of grid, float, got '{name}'"):
        choose_by_name(Noise, name, "noise")
