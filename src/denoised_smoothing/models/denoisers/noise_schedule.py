"""The input of a diffusion network for a noise level, and the meaning of its output.

Images are in [-1, 1] here, and ``s`` is the standard deviation of the noise on them, twice that
on images in [0, 1]. A noisy image is y = x0 + s * noise.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.errors import WeightsError
from denoised_smoothing.models.protocols import Images

Level: TypeAlias = Float[Tensor, "b 1 1 1"]
"""The level s of each image."""


class Prediction(StrEnum):
    """The quantity that a network was trained to predict, as diffusers names it."""

    EPSILON = "epsilon"
    """The noise."""
    SAMPLE = "sample"
    """The clean image."""
    V = "v_prediction"
    """The velocity (Salimans & Ho 2022, section 4)."""


class VariancePreserving:
    """DDPM, DDIM and similar: x_t = √ᾱ_t x0 + √(1−ᾱ_t) noise (Ho et al. 2020, equation 4).

    The level of timestep t is s_t = √((1−ᾱ_t)/ᾱ_t) (Carlini et al. 2023, section 3). A level
    between two timesteps scales the image exactly, by √ᾱ = 1/√(1+s²). Its time is the fraction
    between them that is linear in log s, because networks pass the time through sines. A network
    with a table of times gets the nearest timestep.

    Args:
        alphas_cumprod: ᾱ of each timestep, falling.
        prediction: the quantity that the network predicts.
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

    def inputs(self, y: Images, s: Level) -> tuple[Images, Num[Tensor, " b"]]:
        """Return the network's inputs: the scaled image and its time."""
        return y / (1 + s**2).sqrt(), self.timestep(s.flatten())

    def timestep(self, s: Float[Tensor, " b"]) -> Num[Tensor, " b"]:
        """Return the timestep of each level, with fractions."""
        wanted, table = s.float().log(), torch.from_numpy(self.logs).float().to(s.device)
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        time = (above - 1 + (wanted - low) / (high - low)).clamp(0, len(table) - 1)
        return time.round().long() if self.whole else time

    def estimate(self, y: Images, s: Level, output: Images) -> Images:
        """Return the clean image that the network's output stands for."""
        if self.prediction is Prediction.SAMPLE:
            return output
        if self.prediction is Prediction.EPSILON:
            return y - s * output
        return y / (1 + s**2) - output * s / (1 + s**2).sqrt()


class Preconditioned:
    """EDM: c_in(s), c_noise(s), c_skip(s) and c_out(s) of Karras et al. 2022, Table 1.

    Args:
        smallest, largest: the levels that the network was trained on.
        data: standard deviation of the clean images in [-1, 1].
        prediction: epsilon, or v, which is its negative.
    """

    def __init__(
        self, smallest: float, largest: float, data: float, prediction: Prediction
    ) -> None:
        self.smallest, self.largest, self.data = float(smallest), float(largest), float(data)
        self.sign = -1.0 if prediction is Prediction.V else 1.0

    def inputs(self, y: Images, s: Level) -> tuple[Images, Num[Tensor, " b"]]:
        return y / (s**2 + self.data**2).sqrt(), s.flatten().log() / 4

    def estimate(self, y: Images, s: Level, output: Images) -> Images:
        variance = s**2 + self.data**2
        return y * (self.data**2 / variance) + output * (self.sign * s * self.data) / (
            variance.sqrt()
        )


Levels = VariancePreserving | Preconditioned


def levels_of(scheduler: Any, *, whole: bool) -> Levels:
    """Return the noise levels of a scheduler of diffusers.

    Args:
        whole: whether the network's time must be a whole number.

    Raises:
        WeightsError: the scheduler has an unknown process or prediction.
    """
    name, config = type(scheduler).__name__, scheduler.config
    stated = config.get("prediction_type", "epsilon")
    if stated not in list(Prediction):
        raise WeightsError(
            f"the prediction_type of a scheduler must be one of {', '.join(Prediction)}, got "
            f"{stated!r} in {name}. Use another model."
        )
    prediction = Prediction(stated)
    if name.startswith("EDM") and prediction is not Prediction.SAMPLE:
        return Preconditioned(config.sigma_min, config.sigma_max, config.sigma_data, prediction)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if name.startswith("EDM") or not isinstance(alphas, Tensor):
        raise WeightsError(
            f"the noise levels of {name} with prediction_type {stated!r} are unknown. Use a model "
            "whose scheduler has alphas_cumprod (DDPM, DDIM, PNDM, DPM-Solver, Euler), or EDM."
        )
    return VariancePreserving(alphas, prediction, whole=whole)
