"""diffusion.py: pipelines of diffusers from folders, and one that is trained here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from denoised_smoothing import SmoothedClassifier, load_dataset, load_denoiser
from denoised_smoothing.errors import ImageError, SettingError, SpecError, WeightsError
from denoised_smoothing.models.denoisers.diffusion import DiffusionDenoiser
from denoised_smoothing.models.denoisers.files import load_card
from denoised_smoothing.models.fingerprints import fingerprint

diffusers = pytest.importorskip("diffusers")


def small_unet(**changes: Any) -> Any:
    torch.manual_seed(0)
    arguments = {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DModel(**{**arguments, **changes}).eval()


def save(folder: Path, unet: Any, scheduler: Any) -> Path:
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return folder


def noisy(channels: int = 3, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, channels, side, side, generator=generator) + 0.25 * torch.randn(
        3, channels, side, side, generator=generator
    )


def loaded(spec: str) -> DiffusionDenoiser:
    denoiser = load_denoiser(spec)
    assert isinstance(denoiser, DiffusionDenoiser)
    return denoiser


SCHEDULERS = {
    "ddpm": lambda: diffusers.DDPMScheduler(clip_sample=False),
    "ddim-v": lambda: diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
    "sample": lambda: diffusers.DDPMScheduler(prediction_type="sample"),
    "cosine": lambda: diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    "euler": lambda: diffusers.EulerDiscreteScheduler(),
    "edm": lambda: diffusers.EDMEulerScheduler(),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_saved_pipeline_is_a_denoiser(tmp_path: Path, kind: str) -> None:
    spec = f"diffusers:{save(tmp_path / 'p', small_unet(), SCHEDULERS[kind]())}"
    denoiser, images = loaded(spec), noisy()
    with torch.no_grad():
        denoised = denoiser(images, 0.25)
    assert denoised.shape == images.shape
    assert denoised.isfinite().all()
    assert torch.equal(denoised, denoiser(images, 0.25))
    torch.testing.assert_close(denoised[1:2], denoiser(images[1:2], 0.25), rtol=1e-4, atol=1e-5)
    assert denoiser.config["image_channels"] == 3
    assert denoiser.size == 16
    assert fingerprint(denoiser) == fingerprint(loaded(spec))
    halved = loaded(spec).to(torch.bfloat16)(images.bfloat16(), 0.25)
    assert float((halved - denoised).detach().abs().mean()) < 0.05


def test_one_step_is_what_diffusers_itself_estimates(tmp_path: Path) -> None:
    unet, scheduler = small_unet(), diffusers.DDPMScheduler()
    denoiser = loaded(f"diffusers:{save(tmp_path / 'p', unet, scheduler)}")
    step = 200
    alpha = scheduler.alphas_cumprod[step]
    sigma = float(((1 - alpha) / alpha).sqrt() / 2)
    scaled = (2 * noisy() - 1) * alpha.sqrt()
    with torch.inference_mode():
        answer = scheduler.step(unet(scaled, step).sample, step, scaled).pred_original_sample
        denoised = denoiser(noisy(), sigma)
    torch.testing.assert_close(denoised, (answer + 1) / 2, rtol=0, atol=1e-4)
    assert float(denoised.min()) >= -1e-6
    assert float(denoised.max()) <= 1 + 1e-6, "the scheduler clips"


def test_learned_variance_and_tables_of_times(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    save(tmp_path / "variance", small_unet(out_channels=6), scheduler)
    assert loaded(f"diffusers:{tmp_path}/variance")(noisy(), 0.25).shape == noisy().shape
    learned = small_unet(time_embedding_type="learned", num_train_timesteps=1000)
    save(tmp_path / "table", learned, diffusers.DDPMScheduler())
    assert loaded(f"diffusers:{tmp_path}/table")(noisy(), 0.25).isfinite().all()


def test_the_layout_without_subfolders(tmp_path: Path) -> None:
    nested = save(tmp_path / "nested", small_unet(), diffusers.DDPMScheduler())
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(nested / "model_index.json", flat)
    for part in ("unet", "scheduler"):
        for file in (nested / part).iterdir():
            shutil.copy(file, flat)
    expected = loaded(f"diffusers:{nested}")(noisy(), 0.25)
    torch.testing.assert_close(loaded(f"diffusers:{flat}")(noisy(), 0.25), expected)


def test_steps_and_samples_come_from_the_spec(tmp_path: Path) -> None:
    folder = save(tmp_path / "p", small_unet(), diffusers.DDPMScheduler())
    denoiser = loaded(f"diffusers:{folder}?steps=3&samples=2&seed=5")
    assert (denoiser.reverse.steps, denoiser.samples, denoiser.model_calls) == (3, 2, 6)
    assert fingerprint(denoiser) != fingerprint(loaded(f"diffusers:{folder}?steps=3&samples=2"))
    with pytest.raises(SettingError, match=r"samples of 1 step are all equal, .* got samples=2"):
        loaded(f"diffusers:{folder}?samples=2")
    with pytest.raises(SpecError, match=r"votes is now samples\. Write samples=2"):
        loaded(f"diffusers:{folder}?steps=2&votes=2")
    with pytest.raises(SpecError, match="steps must be a whole number above 0, got 'many'"):
        loaded(f"diffusers:{folder}?steps=many")
    with pytest.raises(SpecError, match=r"seed must be a whole number, got '0\.5'"):
        loaded(f"diffusers:{folder}?steps=2&seed=0.5")


def test_an_image_of_another_size_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = save(tmp_path / "p", small_unet(), diffusers.DDPMScheduler())
    denoiser = loaded(f"diffusers:{folder}")
    smoothed = SmoothedClassifier(torch.nn.Flatten(), 0.25, denoiser)
    said = r"16x16 pixels, .* got 8x8\. Use resolution 16 \(--resolution 16\)"
    with pytest.raises(ImageError, match=said):
        smoothed.certify(torch.zeros(3, 8, 8))
    with pytest.raises(ImageError, match=said):
        smoothed.prepare(torch.zeros(3, 8, 8).numpy())
    assert smoothed.prepare(torch.zeros(3, 8, 8).numpy(), 16).shape == (3, 16, 16)


class TestRefused:
    def refused(self, spec: str, said: str) -> None:
        with pytest.raises(WeightsError, match=said):
            loaded(spec)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        self.refused(f"diffusers:{tmp_path}/none", "there is no folder .*/none\\. Check the path")

    def test_a_folder_without_a_pipeline(self, tmp_path: Path) -> None:
        (tmp_path / "x.txt").touch()
        self.refused(f"diffusers:{tmp_path}", r"must hold model_index.json, got x.txt")

    def test_a_model_that_wants_a_class(self, tmp_path: Path) -> None:
        unet = small_unet(num_class_embeds=10)
        folder = save(tmp_path / "p", unet, diffusers.DDPMScheduler())
        self.refused(f"diffusers:{folder}", r"got .* with 3 channels and classes\.")

    def test_a_model_of_latents(self, tmp_path: Path) -> None:
        unet = small_unet(in_channels=4, out_channels=4)
        folder = save(tmp_path / "p", unet, diffusers.DDPMScheduler())
        self.refused(
            f"diffusers:{folder}",
            r"unconditional model of 1 or 3 channels, got .* with 4 channels\.",
        )

    def test_a_model_of_another_kind(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "p", small_unet(), diffusers.DDPMScheduler())
        path = folder / "unet" / "config.json"
        config = json.loads(path.read_text()) | {"_class_name": "UNet2DConditionModel"}
        path.write_text(json.dumps(config))
        self.refused(
            f"diffusers:{folder}", "a diffusion denoiser needs .*got UNet2DConditionModel in"
        )

    def test_an_unknown_scheduler(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "p", small_unet(), diffusers.DDPMScheduler())
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({"_class_name": "NewScheduler"}))
        self.refused(f"diffusers:{folder}", "this version of diffusers knows, got NewScheduler in")

    def test_missing_weights(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "p", small_unet(), diffusers.DDPMScheduler())
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(path)
        tensors.pop("conv_out.weight")
        save_file(tensors, path)
        self.refused(f"diffusers:{folder}", "conv_out.weight")
        path.unlink()
        self.refused(f"diffusers:{folder}", "cannot load the UNet2DModel of ")


def test_one_is_trained_saved_as_a_pipeline_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from denoised_smoothing.training.config import TrainingConfig
    from denoised_smoothing.training.data import Preparation
    from denoised_smoothing.training.fit import TrainingJob, train_denoiser

    job = TrainingJob(
        config=TrainingConfig(sigma=0.1, sigma_max=0.5, steps=6, batch_size=8, epoch_steps=3),
        architecture="diffusion",
        architecture_options={"size": 8, "width": 8, "depth": 2},
        dataset=load_dataset("digits:train"),
        preparation=Preparation(channels=1, flip=False),
        output=tmp_path / "small",
        validation_limit=10,
        trainer_flags={"enable_progress_bar": False, "accelerator": "cpu"},
    )
    folder = train_denoiser(job)
    assert load_card(folder)["architecture"] == "diffusion"
    assert (load_card(folder)["sigma_min"], load_card(folder)["sigma_max"]) == ("0.1", "0.5")
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    assert pipeline.unet.config.sample_size == 8
    denoiser = loaded(f"diffusers:{folder}")
    assert denoiser.card["objective"] == "mse"
    images = noisy(1, 8)
    assert denoiser(images, 0.25).shape == images.shape
    with pytest.raises(SettingError, match="small exists already"):
        train_denoiser(job)
    again = TrainingJob(
        **{**vars(job), "output": tmp_path / "next", "start": folder, "architecture_options": {}}
    )
    assert load_card(train_denoiser(again))["start"] == "small"
    with pytest.raises(SettingError, match=r"in full precision, got half\. Omit half"):
        train_denoiser(TrainingJob(**{**vars(job), "output": tmp_path / "half", "half": True}))
