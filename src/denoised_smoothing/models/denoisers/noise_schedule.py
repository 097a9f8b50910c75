"""How a diffusion network is told the noise level, and what its output means.

Images are in [-1, 1] here and ``s`` is the standard deviation of the noise on them, twice that
on images in [0, 1]. A noisy image is y = x0 + s * noise, whatever the network itself wants.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.errors import WeightsError


class Prediction(StrEnum):
    """What a network was trained to answer, as diffusers names it."""

    EPSILON = "epsilon"
    """The noise."""
    SAMPLE = "sample"
    """The clean image."""
    V = "v_prediction"
    """The velocity (Salimans & Ho 2022, section 4)."""


@runtime_checkable
class Levels(Protocol):
    """The noise levels of a network."""

    smallest: float
    """The lowest level s that it knows."""
    largest: float
    """The highest."""

    def inputs(
        self, y: Float[Tensor, "b c h w"], s: Float[Tensor, "b 1 1 1"]
    ) -> tuple[Float[Tensor, "b c h w"], Num[Tensor, " b"]]:
        """What the network takes: the scaled image and its time."""

    def estimate(
        self,
        y: Float[Tensor, "b c h w"],
        s: Float[Tensor, "b 1 1 1"],
        output: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The clean image that the network's output amounts to."""


class VariancePreserving:
    """DDPM, DDIM and their kin: x_t = √ᾱ_t x0 + √(1−ᾱ_t) noise (Ho et al. 2020, equation 4).

    The level of timestep t is s_t = √((1−ᾱ_t)/ᾱ_t) (Carlini et al. 2023, section 3). A level
    between two timesteps scales the image exactly, by √ᾱ = 1/√(1+s²), and is told to the
    network as the fraction between them that is linear in log s: the time goes through sines,
    which take fractions as well. A network that looks its time up in a table gets the nearest.

    Args:
        alphas_cumprod: ᾱ of each timestep, falling.
        prediction: what the network answers.
        whole: whether the time must be a whole number.
    """

    def __init__(
        self, alphas_cumprod: Float[Tensor, " t"], prediction: Prediction, *, whole: bool = False
    ) -> None:
        alphas = alphas_cumprod.double()
        table = ((1 - alphas[alphas > 0]) / alphas[alphas > 0]).sqrt()
        self.smallest, self.largest = float(table[0]), float(table[-1])
        self.logs = table.log().cpu().numpy()  # no buffer: it stays exact in half precision
        self.prediction, self.whole = prediction, whole

    def inputs(
        self, y: Float[Tensor, "b c h w"], s: Float[Tensor, "b 1 1 1"]
    ) -> tuple[Float[Tensor, "b c h w"], Num[Tensor, " b"]]:
        """What the network takes: the scaled image and its timestep."""
        return y / (1 + s**2).sqrt(), self.timestep(s.flatten())

    def timestep(self, s: Float[Tensor, " b"]) -> Num[Tensor, " b"]:
        """The timestep of each level, fractions included."""
        wanted, table = s.float().log(), torch.from_numpy(self.logs).float().to(s.device)
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        time = (above - 1 + (wanted - low) / (high - low)).clamp(0, len(table) - 1)
        return time.round().long() if self.whole else time

    def estimate(
        self,
        y: Float[Tensor, "b c h w"],
        s: Float[Tensor, "b 1 1 1"],
        output: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The clean image that the network's output amounts to."""
        if self.prediction is Prediction.SAMPLE:
            return output
        if self.prediction is Prediction.EPSILON:
            return y - s * output
        return y / (1 + s**2) - output * s / (1 + s**2).sqrt()


class Preconditioned:
    """EDM: the network sees unit variance and predicts unit variance (Karras et al. 2022, Table 1).

    Args:
        smallest, largest: levels that it was trained on.
        data: standard deviation of the clean images in [-1, 1].
        prediction: epsilon, or v, which is its negative.
    """

    def __init__(
        self, smallest: float, largest: float, data: float, prediction: Prediction
    ) -> None:
        self.smallest, self.largest, self.data = smallest, largest, data
        self.sign = -1.0 if prediction is Prediction.V else 1.0

    def inputs(
        self, y: Float[Tensor, "b c h w"], s: Float[Tensor, "b 1 1 1"]
    ) -> tuple[Float[Tensor, "b c h w"], Num[Tensor, " b"]]:
        """What the network takes: c_in(s) y and c_noise(s)."""
        return y / (s**2 + self.data**2).sqrt(), s.flatten().log() / 4

    def estimate(
        self,
        y: Float[Tensor, "b c h w"],
        s: Float[Tensor, "b 1 1 1"],
        output: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The clean image: c_skip(s) y + c_out(s) output."""
        variance = s**2 + self.data**2
        return y * (self.data**2 / variance) + output * (self.sign * s * self.data) / (
            variance.sqrt()
        )


def levels_of(scheduler: Any, *, whole: bool) -> Levels:
    """The noise levels that a scheduler of diffusers describes.

    Args:
        scheduler: the object.
        whole: whether the network's time must be a whole number.

    Raises:
        WeightsError: it describes another process, or another prediction.
    """
    name, config = type(scheduler).__name__, scheduler.config
    stated = config.get("prediction_type", "epsilon")
    if stated not in list(Prediction):
        raise WeightsError(
            f"the scheduler {name} predicts {stated!r}; known are {', '.join(Prediction)}"
        )
    prediction = Prediction(stated)
    if name.startswith("EDM") and prediction is not Prediction.SAMPLE:
        return Preconditioned(config.sigma_min, config.sigma_max, config.sigma_data, prediction)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if name.startswith("EDM") or not isinstance(alphas, Tensor):
        raise WeightsError(
            f"the scheduler {name} with prediction_type {stated!r} is none of those whose noise "
            "levels are known: schedulers with alphas_cumprod (DDPM, DDIM, PNDM, DPM-Solver, "
            "Euler), and EDM"
        )
    return VariancePreserving(alphas, prediction, whole=whole)
