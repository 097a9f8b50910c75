"""Diffusion models as denoisers: one step, several steps, or several samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.models.denoisers.base import DenoiserNetwork, per_image
from denoised_smoothing.models.denoisers.noise_schedule import Level, Levels, levels_of
from denoised_smoothing.models.protocols import Images, Sigma

CARD = "card.json"
_RHO = 7.0
"""The exponent that spaces the levels of several steps (Karras et al. 2022, equation 5)."""


@dataclass(frozen=True)
class ReverseDiffusion:
    """The steps and samples of reverse diffusion.

    Args:
        steps: network passes, from the image's noise level down. One step is the estimate of
            Carlini et al. 2023.
        samples: samples, with a noise of their own, over which the classifier votes (Xiao et al.
            2023, section 3.2). One sample draws no noise.
        seed: seed of that noise, which is equal for all images: the base classifier stays a
            function.

    Raises:
        SettingError: several samples of one step, which draws no noise.
    """

    steps: int = 1
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.samples) < 1:
            raise SettingError(
                f"steps and samples must be at least 1, got {self.steps} and {self.samples}. "
                "Use whole numbers above 0."
            )
        if self.samples > 1 and self.steps == 1:
            raise SettingError(
                "samples of 1 step are all equal, because noise is drawn between steps, got "
                f"samples={self.samples}. Use steps=2 or more, or samples=1."
            )


class DiffusionDenoiser(DenoiserNetwork):
    """An unconditional diffusion model as a denoiser of images in [0, 1].

    The noise of standard deviation sigma on [0, 1] has level s = 2 sigma on [-1, 1], the range of
    the model. One step is the model's estimate of the clean image at that level, which for an
    ideal model is the posterior mean (Carlini et al. 2023, section 3). Several steps solve the
    probability flow: DDIM without noise (Song et al. 2021, equation 13), the same for every
    parametrisation. Several samples draw noise between steps, as DDPM does.

    Args:
        unet: a ``UNet2DModel``: images and times to outputs. The second half of the outputs of
            one with learned variance is not used.
        levels: the noise levels that it knows, and the meaning of its output.
        size: height and width of the images that it was trained on, or None for any.
        clip: limit of the estimate in [-1, 1] units, or None.
        reverse: steps and samples.
        scheduler: of diffusers, with the same levels, to be saved with the network.
        config: further arguments of a subclass's constructor.
    """

    def __init__(
        self,
        unet: nn.Module,
        levels: Levels,
        *,
        image_channels: int = 3,
        size: int | None = None,
        clip: float | None = None,
        reverse: ReverseDiffusion | None = None,
        scheduler: Any = None,
        **config: Any,
    ) -> None:
        super().__init__(image_channels=image_channels, **config)
        self.unet, self.levels, self.scheduler = unet, levels, scheduler
        self.size, self.clip, self.reverse = size, clip, reverse or ReverseDiffusion()

    @property
    def samples(self) -> int:
        """The number of samples over which the classifier votes."""
        return self.reverse.samples

    @property
    def sigma_range(self) -> tuple[float, float] | None:
        """The range of its card, or the noise levels that the model knows."""
        return super().sigma_range or (self.levels.smallest / 2, self.levels.largest / 2)

    @property
    def model_calls(self) -> int:
        """Passes of the network for one noisy copy."""
        return self.reverse.steps * self.reverse.samples

    def forward(self, noisy: Images, sigma: Sigma) -> Images:
        """Return the estimate of the clean images; of several samples, the first.

        Raises:
            ImageError: the images have another size than the model's.
            SettingError: sigma is out of the model's range.
        """
        return next(self.denoise_samples(noisy, sigma))

    def denoise_samples(self, noisy: Images, sigma: Sigma) -> Iterator[Images]:
        """Yield the samples; errors as :meth:`forward`."""
        self._check(noisy, sigma)
        s = 2 * per_image(sigma, noisy)
        for sample in range(self.reverse.samples):
            yield (self._denoise(2 * noisy - 1, s, sample) + 1) / 2

    def estimate(self, y: Images, s: Level) -> Images:
        """Return the model's estimate of the clean image in [-1, 1] from one of level s."""
        scaled, time = self.levels.inputs(y, s)
        output = self.unet(scaled, time)
        output = output if isinstance(output, Tensor) else output.sample
        clean = self.levels.estimate(y, s, output[:, : y.shape[1]])
        if self.clip is None or self.training:
            return clean
        return clean.clamp(-self.clip, self.clip)

    def _denoise(self, y: Tensor, s: Tensor, sample: int) -> Tensor:
        steps, lowest = self.reverse.steps, self.levels.smallest ** (1 / _RHO)
        highest = s ** (1 / _RHO)
        for step in range(1, steps):
            clean = self.estimate(y, s)
            lower = (highest + step / steps * (lowest - highest)) ** _RHO
            y = self._stepped(y, clean, lower, s, (sample, step))
            s = lower
        return self.estimate(y, s)

    def _stepped(
        self, y: Tensor, clean: Tensor, lower: Tensor, s: Tensor, key: tuple[int, int]
    ) -> Tensor:
        """Return the image at the lower level; of several samples, with noise as in DDPM."""
        share = lower / s
        if self.reverse.samples == 1:
            return clean + share * (y - clean)
        seed = (self.reverse.seed * 1_000_003 + key[0]) * 1_000_003 + key[1]
        source = torch.Generator().manual_seed(seed % 2**63)
        noise = torch.randn(y.shape[1:], generator=source).to(y)
        return clean + share**2 * (y - clean) + lower * (1 - share**2).sqrt() * noise

    def _check(self, noisy: Tensor, sigma: float | Tensor) -> None:
        check_size(self, noisy.shape[-2], noisy.shape[-1])
        low, high = self.levels.smallest / 2, self.levels.largest / 2
        ends = torch.as_tensor(sigma).detach()
        if not (low <= float(ends.min()) and float(ends.max()) <= high * (1 + 1e-6)):
            raise SettingError(
                f"sigma must be in the range of this diffusion model, {low:.4g} to {high:.4g}, got "
                f"{float(ends.min()):.4g} to {float(ends.max()):.4g}. Use a sigma in that range, "
                "or another model."
            )

    def save(self, folder: str | Path, card: Mapping[str, str]) -> None:
        """Write a folder that ``DDPMPipeline.from_pretrained`` of diffusers opens, or nothing.

        The card is in ``card.json``.

        Raises:
            SettingError: the denoiser has no scheduler.
        """
        from diffusers import DDPMPipeline

        if self.scheduler is None:
            raise SettingError(
                "cannot save a diffusion denoiser without a scheduler, got scheduler=None. "
                "Build it with a scheduler, or save its network yourself."
            )
        folder = Path(folder)
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        DDPMPipeline(self.unet, self.scheduler).save_pretrained(part)
        (part / CARD).write_text(json.dumps(dict(card), indent=1), encoding="utf-8")
        part.replace(folder)


class DiffusionUNet(DiffusionDenoiser):
    """A diffusion model to train: UNet of diffusers, linear schedule of DDPM, epsilon.

    Args:
        image_channels: channels C of the images.
        size: height and width of the images.
        width: channels at full resolution, a multiple of 8; lower resolutions have twice as many.
        depth: number of resolutions, each half of the one before.
        layers: residual blocks at each resolution, on the way down and up.
        attention: 1 for self-attention at the lowest resolution.

    Raises:
        ImportError: diffusers is not installed.
    """

    def __init__(
        self,
        image_channels: int = 3,
        size: int = 32,
        width: int = 32,
        depth: int = 3,
        layers: int = 1,
        attention: int = 0,
    ) -> None:
        from diffusers import DDPMScheduler, UNet2DModel

        down, up = ["DownBlock2D"] * depth, ["UpBlock2D"] * depth
        if attention:
            down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
        unet = UNet2DModel(
            sample_size=size,
            in_channels=image_channels,
            out_channels=image_channels,
            layers_per_block=layers,
            block_out_channels=(width, *([2 * width] * (depth - 1))),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            norm_num_groups=8,
            add_attention=bool(attention),
        )
        scheduler = DDPMScheduler()
        super().__init__(
            unet,
            levels_of(scheduler, whole=False),
            image_channels=image_channels,
            size=size,
            clip=1.0,
            scheduler=scheduler,
            width=width,
            depth=depth,
            layers=layers,
            attention=attention,
        )
        self.config["size"] = size


def check_size(denoiser: object, height: int, width: int) -> None:
    """Check that images have the size that a denoiser was trained on, if it has one.

    Raises:
        ImageError: they have another size.
    """
    size = getattr(denoiser, "size", None)
    if isinstance(size, int) and (height, width) != (size, size):
        raise ImageError(
            f"images must be {size}x{size} pixels, as those that the denoiser was trained on, got "
            f"{height}x{width}. Use resolution {size} (--resolution {size}), or another denoiser."
        )
