from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from denoised_smoothing.errors import SpecError, WeightsError
from denoised_smoothing.models.denoisers.files import (
    build_denoiser,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.models.denoisers.unet import UNet

CARD = {"sigma_min": "0.25", "sigma_max": "0.25", "quality": '{"validation_mse": 0.004}'}


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "denoiser.safetensors"
    save_denoiser(path, UNet(image_channels=1, width=8, outer=1, inner=1), "unet", CARD)
    return path


def test_round_trip_with_card(tmp_path: Path) -> None:
    torch.manual_seed(0)
    denoiser = build_denoiser("memnet", image_channels=1, blocks=1, recursions=1, width=4)
    denoiser.train()(torch.rand(4, 1, 8, 8), 0.25)
    path = tmp_path / "memnet.safetensors"
    save_denoiser(path, denoiser, "memnet", CARD)
    loaded = load_denoiser_file(path, "memnet")
    assert not loaded.training
    assert loaded.config == denoiser.config
    assert loaded.card.items() >= {**CARD, "architecture": "memnet"}.items()
    noisy = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(noisy, 0.25), denoiser.eval()(noisy, 0.25))
    assert [file.name for file in tmp_path.iterdir()] == ["memnet.safetensors"]


def test_the_file_says_its_architecture(unet: Path) -> None:
    assert isinstance(load_denoiser_file(unet), UNet)


def test_another_architecture_is_refused(unet: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds unet, not dncnn\. Write the spec as unet:"):
        load_denoiser_file(unet, "dncnn")


def test_a_file_without_card_needs_the_architecture(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    dncnn = build_denoiser("dncnn")
    save_file(dncnn.state_dict(), path)
    assert load_denoiser_file(path, "dncnn").config == dncnn.config
    with pytest.raises(
        WeightsError, match=r"names no architecture\. Write the spec as ARCHITECTURE"
    ):
        load_denoiser_file(path)
    with pytest.raises(WeightsError, match=r"another architecture: extract.0.weight is missing"):
        load_denoiser_file(path, "memnet")


@pytest.mark.parametrize(
    "card",
    [{"architecture": "unet3"}, {"config": '{"heads": 4}'}, {"config": "{"}],
    ids=["architecture", "argument", "not JSON"],
)
def test_a_card_that_cannot_be_built_is_refused(tmp_path: Path, card: dict[str, str]) -> None:
    path = tmp_path / "future.safetensors"
    save_file(UNet(width=8).state_dict(), path, metadata={"architecture": "unet", **card})
    with pytest.raises(WeightsError, match=r"cannot build .* Update the package") as caught:
        load_denoiser_file(path)
    assert "Change the options" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file .*absent.safetensors"):
        load_denoiser_file(tmp_path / "absent.safetensors", "unet")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unet.pth"
    torch.save(UNet(width=8).state_dict(), path)
    with pytest.raises(WeightsError, match=r"is a pickle .* Convert the file"):
        load_denoiser_file(path, "unet")


def test_a_cut_file_is_refused(unet: Path) -> None:
    unet.write_bytes(unet.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        load_denoiser_file(unet)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(SpecError, match=r"one of dncnn, dncnn-wide, memnet, unet, .*got 'resnet'"):
        build_denoiser("resnet")


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = UNet(width=16, outer=1, inner=1).eval()
    save_denoiser(tmp_path / "whole", unet, "unet", CARD)
    save_denoiser(tmp_path / "half", unet, "unet", CARD, half=True)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size
    loaded = load_denoiser_file(tmp_path / "half")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    noisy = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(noisy, 0.25), unet(noisy, 0.25), rtol=0, atol=1e-3)


def test_weights_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    unet = UNet(width=8, outer=1, inner=1)
    unet.head.weight.data.fill_(1e6)
    with pytest.raises(WeightsError, match=r"in half precision, got 1e\+06 in head\.weight"):
        save_denoiser(tmp_path / "half", unet, "unet", CARD, half=True)
    assert not list(tmp_path.iterdir())
