"""The contract of denoising networks, for every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from denoised_smoothing.errors import ImageError
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.files import ARCHITECTURES, build_denoiser
from denoised_smoothing.models.protocols import Denoiser

SMALL: dict[str, dict[str, Any]] = {
    "dncnn": {"depth": 4, "width": 8},
    "dncnn-wide": {"depth": 3},
    "memnet": {"blocks": 2, "recursions": 2, "width": 8},
    "unet": {"width": 8, "outer": 1, "inner": 1},
    "multiscale-unet": {"widths": [4, 8, 8], "blocks": [1, 1, 1], "levels": 4},
    "diffusion": {"size": 12, "width": 8, "depth": 2},
}
SMALL["published-memnet"] = {**SMALL["memnet"], "shared": False}
FIXED_SIZE = ("diffusion",)
USES_SIGMA = ("unet", "multiscale-unet", "diffusion")
every_architecture = pytest.mark.parametrize("architecture", SMALL)


def trained(architecture: str, channels: int = 3) -> DenoiserNetwork:
    """A network in which no weight is at its (zero) start, and whose statistics have been used."""
    torch.manual_seed(1)
    name = architecture.removeprefix("published-")
    denoiser = build_denoiser(name, image_channels=channels, **SMALL[architecture])
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        denoiser.train()(images(8, channels), 0.25)
    return denoiser.eval()


def images(count: int, channels: int = 3, size: tuple[int, int] = (12, 12)) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(2))


def test_the_table_covers_all_architectures() -> None:
    assert SMALL.keys() == {*ARCHITECTURES, "published-memnet"}


@every_architecture
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(12, 12), (9, 13), (32, 32), (2, 2)])
def test_keeps_the_shape_in_float32(
    architecture: str, channels: int, size: tuple[int, int]
) -> None:
    denoiser = trained(architecture, channels)
    assert isinstance(denoiser, Denoiser)
    noisy = images(1, channels, size)
    if architecture in FIXED_SIZE and size != (12, 12):
        with pytest.raises(ImageError, match=rf"12x12 pixels, .* got {size[0]}x{size[1]}\. Use"):
            denoiser(noisy, 0.25)
        return
    denoised = denoiser(noisy, 0.25)
    assert denoised.shape == noisy.shape
    assert denoised.dtype == torch.float32
    assert denoised.isfinite().all()
    assert not torch.equal(denoised, noisy)


@every_architecture
def test_one_sigma_is_the_same_as_that_sigma_for_each_image(architecture: str) -> None:
    denoiser, noisy = trained(architecture), images(3)
    torch.testing.assert_close(denoiser(noisy, 0.3), denoiser(noisy, torch.full((3,), 0.3)))


@every_architecture
def test_the_same_input_gives_the_same_output(architecture: str) -> None:
    denoiser, noisy = trained(architecture), images(3)
    assert torch.equal(denoiser(noisy, 0.25), denoiser(noisy, 0.25))


@every_architecture
def test_an_image_does_not_depend_on_the_others(architecture: str) -> None:
    denoiser, noisy, sigmas = trained(architecture), images(4), torch.tensor([0.1, 0.25, 0.5, 1.0])
    together = denoiser(noisy, sigmas)
    for index in range(4):
        alone = denoiser(noisy[index : index + 1], float(sigmas[index]))
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-5)


@every_architecture
def test_gradients_reach_every_weight_and_the_image(architecture: str) -> None:
    denoiser, noisy = trained(architecture), images(2).requires_grad_()
    denoiser(noisy, 0.25).square().sum().backward()
    assert noisy.grad is not None
    assert noisy.grad.abs().sum() > 0
    without = [
        name
        for name, parameter in denoiser.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not without


@every_architecture
def test_only_the_unet_uses_sigma(architecture: str) -> None:
    denoiser, noisy = trained(architecture), images(2)
    same = torch.equal(denoiser(noisy, 0.1), denoiser(noisy, 0.5))
    assert same == (architecture not in USES_SIGMA)


@every_architecture
def test_config_rebuilds_the_network(architecture: str) -> None:
    denoiser = trained(architecture)
    again = type(denoiser)(**denoiser.config)
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (denoiser, again)]
    assert shapes[0] == shapes[1]
