"""Which engine executes a pipeline for images of a size, and what of it is recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.engines import EngineChoice, PassThrough, Pipeline, choose_engine
from denoised_smoothing.engines.locks import tracing
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.denoisers import (
    DenoiserNetwork,
    EnsembleClassifier,
    MultiSampleDenoiser,
    as_denoiser,
)
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.noise import noisy_copies

CALIBRATION_SEED = 0
"""Of the copies on which engines are checked, measured and calibrated. Their image id is their
own, so that no certificate counts them whatever its seed."""


@dataclass(frozen=True)
class Fixed:
    """An execution that was settled before: for images of one shape [C, H, W].

    ``choice`` is the engine where the model is a converted one, ``calibration`` what was
    recorded of the calibration of int8.
    """

    shape: tuple[int, ...]
    calibration: Mapping[str, str]
    choice: EngineChoice | None = None


class PreparedPipeline:
    """Chooses an engine for images of a size, once, and again where weights have changed since.

    Args:
        classifier: images [B, C, H, W] to logits [B, K] or labels [B].
        denoiser: (noisy, sigma) or (noisy) to denoised images, or None. Where it has several
            answers, the classifier's majority over them, or mean, is executed.
        sigma: standard deviation of the noise on images in [0, 1].
        noise: the sampler of the noisy copies.
        engine, precision: what is asked for.
        device: where.

    ``fixed`` is what was settled before, or None.

    Raises:
        SettingError: the denoiser has several answers, and the classifier is elsewhere.
    """

    def __init__(
        self,
        classifier: Classifier,
        denoiser: Callable[..., Tensor] | None,
        sigma: float,
        noise: Noise,
        engine: EngineName,
        precision: Precision,
        device: torch.device,
    ) -> None:
        self._parts = classifier, denoiser
        front = None if denoiser is None else as_denoiser(denoiser)
        self.pipeline = self._shown = Pipeline(classifier, front, sigma, device)
        if isinstance(denoiser, MultiSampleDenoiser) and denoiser.samples > 1:
            if isinstance(classifier, PassThrough):
                raise SettingError(
                    "a remote classifier needs a denoiser with one sample, got "
                    f"{denoiser.samples}. Use samples=1, or one denoiser of the mean."
                )
            ensemble = EnsembleClassifier(classifier, denoiser, sigma)
            # What is not made of modules must not look like one: it is neither shared nor traced.
            whole = self._shown.is_module
            self.pipeline = Pipeline(ensemble if whole else ensemble.forward, None, sigma, device)
        self.noise, self.device = noise, device
        self.engine, self.precision = engine, precision
        self.fixed: Fixed | None = None
        self._forward: int | None = None
        self._images: Float[np.ndarray, "n c h w"] | None = None
        self._calibration: dict[str, str] = {}
        self._choices: dict[tuple[int, ...], tuple[object, EngineChoice]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without engines, which belong to a process."""
        return {**self.__dict__, "_choices": {}}

    def on(self, device: torch.device) -> PreparedPipeline:
        """The same, with copies of all modules, on another device."""
        classifier, denoiser = copy.deepcopy(self._parts)
        there = PreparedPipeline(
            classifier, denoiser, self.pipeline.sigma, self.noise,
            self.engine, self.precision, device,
        )  # fmt: skip
        there.fixed, there._forward = self.fixed, self._forward
        there._images, there._calibration = self._images, self._calibration
        return there

    @property
    def needs_calibration(self) -> bool:
        """Whether it is int8 without images to take its ranges from, and none were before."""
        return self.precision is Precision.INT8 and self._images is None and self.fixed is None

    @property
    def calibration_shape(self) -> tuple[int, int, int] | None:
        """The shape [C, H, W] of the calibration images, if there are any."""
        if self._images is None:
            return None
        _, channels, height, width = self._images.shape
        return channels, height, width

    def calibrate(self, images: Any, **source: str) -> None:
        """Take the ranges of int8 from noisy copies of images [N, C, H, W]; record ``source``."""
        self._images = image_forms.as_images(images)
        self._calibration = {"calibration": image_forms.digest(self._images), **source}
        self._choices.clear()

    def choice(self, image: Float[np.ndarray, "c h w"]) -> EngineChoice:
        """The engine for images of this size, and the copies of a forward pass.

        Raises:
            SettingError, MissingExtraError, ClassifierError: the engine is not to be had.
        """
        if self.fixed is not None:
            if image.shape != self.fixed.shape:
                raise SettingError(
                    f"this bundle answers images of shape {list(self.fixed.shape)}, got "
                    f"{list(image.shape)}; bring them to that size, or write a bundle for this one"
                )
            if self.fixed.choice is not None:
                return self.fixed.choice
        if self.needs_calibration:
            raise SettingError(
                "int8 takes its ranges from noisy copies of images like those to be certified: "
                "give some as calibration=images [N, C, H, W], on the command line --calibration"
            )
        state, held = self.pipeline.state(), self._choices.get(image.shape)
        if held is None or held[0] != state:
            choice = choose_engine(
                self.pipeline, partial(self._sample, image), engine=self.engine,
                precision=self.precision, device=self.device, forward=self._forward,
            )  # fmt: skip
            held = self._choices[image.shape] = (state, choice)
        return held[1]

    @property
    def forward(self) -> int | None:
        """Copies of a forward pass, where that is settled."""
        return self._forward

    def adopt(self, engine: EngineName, forward: int | None) -> None:
        """Execute as counts were executed that others shall be added to; None: to be chosen."""
        self.engine, self._forward = engine, forward
        self._choices.clear()

    def record(self, image: Float[np.ndarray, "c h w"]) -> dict[str, Any]:
        """What executes images of this size, as far as counts depend on it: plain values."""
        choice = self.choice(image)
        return {
            "forward_shape": [choice.forward, *image.shape],
            **choice.engine.identity(),
            **self.calibration,
        }

    @torch.inference_mode()
    def denoise(self, copies: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What the classifier sees of noisy copies; where it sees several versions, the first.

        Raises:
            ClassifierError: the denoiser failed, or changed the shape.
        """
        with tracing():
            return self._shown.denoise(copies)

    def notes(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """What is to be told about the engine for images of this shape."""
        return self.choice(np.full(shape, 128 / 255, np.float32)).notes

    @property
    def calibration(self) -> dict[str, str]:
        """What is recorded of the calibration; nothing where the precision needs none."""
        if self.precision is not Precision.INT8:
            return {}
        return dict(self._calibration if self.fixed is None else self.fixed.calibration)

    def _sample(self, image: Float[np.ndarray, "c h w"], count: int) -> Float[Tensor, "n c h w"]:
        """Noisy copies to prepare an engine with, of the calibration images or else of this one."""
        images = image[None] if self._images is None else self._images
        if images.shape[1:] != image.shape:
            raise SettingError(
                f"the calibration images have shape {list(images.shape[1:])}, those to certify "
                f"{list(image.shape)}; bring them to one size"
            )
        each = -(-count // len(images))
        drawn = [
            noisy_copies(
                torch.tensor(pixels, device=self.device), self.pipeline.sigma, noise=self.noise,
                seed=CALIBRATION_SEED, image_id=f"calibration {number}",
                stage=Stage.SELECTION, start=0, stop=each,
            )
            for number, pixels in enumerate(images)
        ]  # fmt: skip
        return torch.stack(drawn, dim=1).flatten(0, 1)[:count]  # some of each image


def stated_channels(classifier: object, denoiser: object) -> int | None:
    """The channels of the images, where classifier or denoiser say so.

    Raises:
        SettingError: they are for images of different channels.
    """
    stated = {
        "classifier": getattr(classifier, "channels", None),
        "denoiser": isinstance(denoiser, DenoiserNetwork) and denoiser.config["image_channels"],
    }
    # A network's own attribute of that name may be something else.
    known = {role: channels for role, channels in stated.items() if channels in (1, 3)}
    if len(set(known.values())) > 1:
        raise SettingError(
            f"the classifier takes images of {known['classifier']} channels, the denoiser of "
            f"{known['denoiser']}; take a denoiser that was trained on such images"
        )
    return next(iter(known.values()), None)
