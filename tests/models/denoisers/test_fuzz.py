"""Damaged and odd files of denoisers: they load, or an error of ours says why not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from denoised_smoothing import load_denoiser
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.errors import WeightsError
from denoised_smoothing.models.denoisers.diffusers import load_diffusion
from denoised_smoothing.models.denoisers.diffusion import CARD
from denoised_smoothing.models.denoisers.files import (
    build_denoiser,
    load_card,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.models.denoisers.trained_range import range_notes

from ...fuzz import (
    damaged,
    files_in,
    one_damaged,
    shapes_changed,
    survives,
    with_odd_value,
)
from ...fuzz import quiet as quiet

pytestmark = pytest.mark.usefixtures("quiet")

IMAGE = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"width": 8, "outer": 1, "inner": 1, "levels": 2},
    "dncnn": {"width": 4, "depth": 3},
    "memnet": {"width": 4, "blocks": 1, "recursions": 1},
}


def use(denoiser: Any) -> None:
    """Note the range of sigma and denoise an image, as a run does."""
    range_notes(denoiser, 0.25)
    with torch.inference_mode():
        Pipeline(torch.nn.Flatten(), denoiser, 0.25, torch.device("cpu")).denoise(IMAGE)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_files(architecture: str, tmp_path: Path) -> None:
    denoiser = build_denoiser(architecture, image_channels=1, **CONFIGS[architecture])
    weights, path = denoiser.state_dict(), tmp_path / "a.safetensors"
    card = {"architecture": architecture, "config": denoiser.config, "sigma_min": "0.1"}
    save_denoiser(path, denoiser, architecture, {"sigma_min": "0.1", "sigma_max": "0.5"})
    content = path.read_bytes()

    def make(dice: random.Random, number: int) -> None:
        odd = card if number % 3 else with_odd_value(card, dice)
        text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in odd.items()}
        if number % 3 == 2:
            path.write_bytes(damaged(content, dice))
        else:
            save_file(shapes_changed(weights, dice) if number % 3 else weights, path, text)
        load_card(path)
        use(load_denoiser_file(path) if number % 2 else load_denoiser(f"{architecture}:{path}"))

    survives(make)


def test_published_files(tmp_path: Path) -> None:
    denoiser = build_denoiser("dncnn", image_channels=1, **CONFIGS["dncnn"])
    path = tmp_path / "checkpoint.pth.tar"
    weights = {
        f"module.{name.replace('noise.', 'dncnn.')}": tensor
        for name, tensor in denoiser.state_dict().items()
    }
    held = {"arch": "cifar_dncnn", "state_dict": {"a": 1}, "epoch": 3}
    torch.save({**held, "state_dict": weights}, path)
    content = path.read_bytes()

    def make(dice: random.Random, number: int) -> None:
        odd = held if number % 3 else with_odd_value(held, dice)
        if number % 3 == 2:
            path.write_bytes(damaged(content, dice))
        else:
            changed = shapes_changed(weights, dice) if number % 3 else weights
            torch.save(odd | {"state_dict": changed} if dice.random() < 0.9 else odd, path)
        arch = dice.choice(("", "?arch=cifar_dncnn", "?arch=memnet"))
        use(load_denoiser(f"checkpoint:{path}{arch}"))

    survives(make)


def diffusion_folder(folder: Path, scheduler: str) -> Path:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        add_attention=False,
    )
    diffusers.DDPMPipeline(unet, getattr(diffusers, scheduler)()).save_pretrained(folder)
    (folder / CARD).write_text('{"architecture": "diffusion", "sigma_min": "0.1"}')
    return folder


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "EDMEulerScheduler"])
def test_folders_of_diffusers(scheduler: str, tmp_path: Path) -> None:
    folder = diffusion_folder(tmp_path / "a", scheduler)
    files = files_in(folder)

    def make(dice: random.Random, number: int) -> None:
        with one_damaged(files, dice):
            load_card(folder)
            name = str(folder)
            use(load_diffusion(name) if number % 2 else load_denoiser(f"diffusers:{name}"))

    survives(make, 120)


@pytest.mark.parametrize("config", [{"depth": 2**40}, {"width": 2**40, "depth": 3}])
def test_a_config_beyond_the_weights_is_refused_at_once(
    config: dict[str, int], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    weights = build_denoiser("dncnn", **CONFIGS["dncnn"]).state_dict()
    save_file(weights, path, {"architecture": "dncnn", "config": json.dumps(config)})
    with pytest.raises(WeightsError, match=r"must be at most \d+ for these weights, got 1099511"):
        load_denoiser_file(path)


@pytest.mark.parametrize("config", ["[" * 100_000, "3", '[["depth", 3], 1]', "null"])
def test_a_config_without_options_is_refused(config: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights = build_denoiser("dncnn", **CONFIGS["dncnn"]).state_dict()
    save_file(weights, path, {"architecture": "dncnn", "config": config})
    with pytest.raises(WeightsError, match="describes a denoiser that this version cannot build"):
        load_denoiser_file(path)


@pytest.mark.parametrize("card", [b"\x82", b"[1]", b"{", b"[" * 100_000])
def test_a_damaged_card_of_a_diffusion_model(card: bytes, tmp_path: Path) -> None:
    folder = diffusion_folder(tmp_path / "a", "DDPMScheduler")
    (folder / CARD).write_bytes(card)
    for load in (load_card, load_diffusion):
        with pytest.raises(WeightsError, match=r"cannot read .*card\.json .*Copy it again"):
            load(str(folder))


def test_a_scheduler_without_levels_is_refused(tmp_path: Path) -> None:
    folder = diffusion_folder(tmp_path / "a", "DDPMScheduler")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_train_timesteps": 0}))
    with pytest.raises(WeightsError, match=r"cannot (use|load) the .*[sS]cheduler"):
        load_diffusion(str(folder))
