"""Diffusion models of diffusers as denoisers: one step, several, or several votes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.models.denoisers.base import DenoiserNetwork, per_image
from denoised_smoothing.models.denoisers.noise_schedule import Levels, levels_of

CARD = "card.json"
_RHO = 7.0
"""How levels are spaced on the way down (Karras et al. 2022, equation 5)."""


@dataclass(frozen=True)
class ReverseDiffusion:
    """How a noisy image goes down to a clean one.

    Args:
        steps: passes of the network, from the image's noise level down; 1 is the estimate of
            Carlini et al. 2023.
        votes: walks with noise of their own, over which the classifier votes (Xiao et al. 2023,
            section 3.2); with 1, nothing is drawn.
        seed: of that noise. It is the same for every image: the base classifier stays a function.

    Raises:
        SettingError: votes over a single step, which draws no noise.
    """

    steps: int = 1
    votes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.votes) < 1:
            raise SettingError(f"steps and votes must be at least 1, got {self}")
        if self.votes > 1 and self.steps == 1:
            raise SettingError(
                f"{self.votes} votes over walks of 1 step are all the same: noise is drawn "
                "between steps; ask for steps=2 or more, or for 1 vote"
            )


class DiffusionDenoiser(DenoiserNetwork):
    """An unconditional diffusion model as a denoiser of images in [0, 1].

    The noise of standard deviation sigma on [0, 1] is of level s = 2 sigma on [-1, 1], where the
    model lives. One step is the model's estimate of the clean image at that level, which for an
    ideal model is the posterior mean (Carlini et al. 2023, section 3). Several steps solve the
    probability flow: DDIM without noise (Song et al. 2021, equation 13), the same for every
    parametrisation. Several votes are walks that draw noise, as DDPM does.

    Args:
        unet: a ``UNet2DModel``: images and times to outputs; those of learned variance have twice
            the channels, of which the second half is left out.
        levels: how it is told the level, and what its output means.
        size: height and width of the images that it was trained on, or None for any.
        clip: limit of the estimate in [-1, 1] units, or None.
        walk: steps and votes.
        scheduler: of diffusers, from which the levels are; only to be saved again.
        config: what else the constructor of a sub-class takes.
    """

    def __init__(
        self,
        unet: nn.Module,
        levels: Levels,
        *,
        image_channels: int = 3,
        size: int | None = None,
        clip: float | None = None,
        walk: ReverseDiffusion | None = None,
        scheduler: Any = None,
        **config: Any,
    ) -> None:
        super().__init__(image_channels=image_channels, **config)
        self.unet, self.levels, self.scheduler = unet, levels, scheduler
        self.size, self.clip, self.walk = size, clip, walk or ReverseDiffusion()

    @property
    def votes(self) -> int:
        """Walks over which the classifier votes."""
        return self.walk.votes

    @property
    def model_calls(self) -> int:
        """Passes of the network that one noisy copy takes."""
        return self.walk.steps * self.walk.votes

    def forward(
        self, noisy: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """The estimate of the clean images; of several votes, the first.

        Raises:
            ImageError: the images are of another size than the model's.
            SettingError: sigma is out of the model's range.
        """
        return next(self.drafts(noisy, sigma))

    def drafts(
        self, noisy: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"]
    ) -> Iterator[Float[Tensor, "b c h w"]]:
        """One estimate for each vote; errors as :meth:`forward`."""
        self._check(noisy, sigma)
        s = 2 * per_image(sigma, noisy)
        for vote in range(self.walk.votes):
            yield (self._walk_down(2 * noisy - 1, s, vote) + 1) / 2

    def estimate(
        self, y: Float[Tensor, "b c h w"], s: Float[Tensor, "b 1 1 1"]
    ) -> Float[Tensor, "b c h w"]:
        """The clean image in [-1, 1] that the model sees in one of level s."""
        scaled, time = self.levels.inputs(y, s)
        output = self.unet(scaled, time)
        output = output if isinstance(output, Tensor) else output.sample
        clean = self.levels.estimate(y, s, output[:, : y.shape[1]])
        if self.clip is None or self.training:
            return clean
        return clean.clamp(-self.clip, self.clip)

    def _walk_down(self, y: Tensor, s: Tensor, vote: int) -> Tensor:
        steps, lowest = self.walk.steps, self.levels.smallest ** (1 / _RHO)
        highest = s ** (1 / _RHO)
        for step in range(1, steps):
            clean = self.estimate(y, s)
            lower = (highest + step / steps * (lowest - highest)) ** _RHO
            y = self._stepped(y, clean, lower, s, (vote, step))
            s = lower
        return self.estimate(y, s)

    def _stepped(
        self, y: Tensor, clean: Tensor, lower: Tensor, s: Tensor, key: tuple[int, int]
    ) -> Tensor:
        """The image at the lower level: without noise for one vote, as in DDPM for several."""
        share = lower / s
        if self.walk.votes == 1:
            return clean + share * (y - clean)
        seed = (self.walk.seed * 1_000_003 + key[0]) * 1_000_003 + key[1]
        source = torch.Generator().manual_seed(seed % 2**63)
        noise = torch.randn(y.shape[1:], generator=source).to(y)
        return clean + share**2 * (y - clean) + lower * (1 - share**2).sqrt() * noise

    def _check(self, noisy: Tensor, sigma: float | Tensor) -> None:
        check_size(self, noisy.shape[-2], noisy.shape[-1])
        low, high = self.levels.smallest / 2, self.levels.largest / 2
        ends = torch.as_tensor(sigma).detach()
        if not (low <= float(ends.min()) and float(ends.max()) <= high * (1 + 1e-6)):
            raise SettingError(
                f"this diffusion model knows noise of sigma {low:.4g} to {high:.4g} on images in "
                f"[0, 1], got {float(ends.min()):.4g} to {float(ends.max()):.4g}; choose a sigma "
                "in its range, or another model"
            )

    def save(self, folder: str | Path, card: Mapping[str, str]) -> None:
        """Write a folder that diffusers' own ``DDPMPipeline.from_pretrained`` opens.

        The card is in ``card.json``. All of the folder is written, or none of it.

        Raises:
            SettingError: it was made without a scheduler.
        """
        from diffusers import DDPMPipeline

        if self.scheduler is None:
            raise SettingError(
                "this diffusion denoiser has no scheduler to save; make it with one, or save its "
                "network yourself"
            )
        folder = Path(folder)
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        DDPMPipeline(self.unet, self.scheduler).save_pretrained(part)
        (part / CARD).write_text(json.dumps(dict(card), indent=1), encoding="utf-8")
        part.replace(folder)


class DiffusionUNet(DiffusionDenoiser):
    """A diffusion model to train: the UNet of diffusers, DDPM's linear schedule, epsilon.

    Args:
        image_channels: channels C of the images.
        size: their height and width.
        width: channels at full resolution, a multiple of 8; twice as many below.
        depth: resolutions, each half of the one before.
        layers: residual blocks at each, before and after.
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
            scheduler=scheduler,
            image_channels=image_channels,
            size=size,
            clip=1.0,
            width=width,
            depth=depth,
            layers=layers,
            attention=attention,
        )
        self.config["size"] = size


def check_size(denoiser: object, height: int, width: int) -> None:
    """Refuse images of another size than a denoiser was made for, if it says so.

    Raises:
        ImageError: naming the resolution to ask for.
    """
    size = getattr(denoiser, "size", None)
    if isinstance(size, int) and (height, width) != (size, size):
        raise ImageError(
            f"this denoiser was trained on images of {size}x{size} pixels, got {height}x{width}; "
            f"ask for a resolution of {size} (--resolution {size}), or take another denoiser"
        )
