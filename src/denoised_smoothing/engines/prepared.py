"""A pipeline, the engine that executes it, and the record of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.identity import machine_of
from denoised_smoothing.certificates.parameters import Contract, EngineName, Noise, Precision
from denoised_smoothing.engines.canaries import Canaries
from denoised_smoothing.engines.choice import EngineChoice, choose_engine
from denoised_smoothing.engines.contract import ContractCheck
from denoised_smoothing.engines.locks import single_caller, tracing
from denoised_smoothing.engines.pipeline import PassThrough, Pipeline
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.denoisers.base import DenoiserNetwork, as_denoiser
from denoised_smoothing.models.denoisers.diffusion import check_size
from denoised_smoothing.models.denoisers.ensemble import EnsembleClassifier, MultiSampleDenoiser
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.noise import noisy_copies

CALIBRATION_SEED = 0
"""The seed of the copies on which engines are checked, measured and calibrated. Their image ids
are their own, so that no certificate counts them whatever its seed."""


class PreparedPipeline:
    """A pipeline, and the engine that executes it for images of each size.

    The engine of a size is chosen once, and again if weights have changed since.

    Args:
        classifier: images [B, C, H, W] to logits [B, K] or labels [B].
        denoiser: (noisy, sigma) or (noisy) to denoised images, or None. If it has several
            samples, the pipeline is the majority or the mean of the classifier's answers to them.
        sigma: standard deviation of the noise on images in [0, 1].
        noise: the sampler of the noisy copies.
        stochastic: the answers are random by intention.

    Raises:
        SettingError: the denoiser has several samples, and the classifier is remote.
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
        *,
        stochastic: bool = False,
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
        self.engine, self.precision, self.stochastic = engine, precision, stochastic
        self.canaries = Canaries(stochastic=stochastic)
        self.forward: int | None = None
        """Copies of a forward pass; None to choose them with the engine."""
        self.needs_calibration = precision is Precision.INT8
        """Whether int8 has no ranges yet: neither calibration images nor a bundle."""
        self.state: tuple[object, ...] = ()
        """State of the weights when the engine was last asked for."""
        self.chooser: Callable[[Float[np.ndarray, "c h w"]], EngineChoice] | None = None
        """Chooses the engine for images of a size elsewhere; None to choose it here."""
        self.bundle_shape: tuple[int, ...] | None = None
        """The shape [C, H, W] of all images, where an exported bundle sets it."""
        self._converted: EngineChoice | None = None
        self._images: Float[np.ndarray, "n c h w"] | None = None
        self._calibration: Mapping[str, str] = {}
        self._choices: dict[tuple[int, ...], tuple[object, EngineChoice]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without engines, which belong to a process."""
        return {**self.__dict__, "_choices": {}, "chooser": None}

    def on(self, device: torch.device) -> PreparedPipeline:
        """Return the same with copies of all modules on another device."""
        classifier, denoiser = copy.deepcopy(self._parts)
        there = PreparedPipeline(
            classifier, denoiser, self.pipeline.sigma, self.noise, self.engine, self.precision,
            device, stochastic=self.stochastic,
        )  # fmt: skip
        there.forward, there.bundle_shape = self.forward, self.bundle_shape
        there.needs_calibration = self.needs_calibration
        there._images, there._calibration = self._images, self._calibration
        return there

    def calibrate(self, images: Any, **source: str) -> None:
        """Take the ranges of int8 from noisy copies of images [N, C, H, W]; record ``source``."""
        self._images, self._calibration = image_forms.as_images(images), source
        self.needs_calibration = False
        self._choices.clear()

    @property
    def calibration(self) -> dict[str, str]:
        """The record of the calibration; empty if the precision needs none."""
        if self.precision is not Precision.INT8:
            return {}
        images = self._images
        digest = {} if images is None else {"calibration": image_forms.digest(images)}
        return {**digest, **self._calibration}

    @property
    def calibration_shape(self) -> tuple[int, int, int] | None:
        """The shape [C, H, W] of the calibration images, if there are any."""
        if self._images is None:
            return None
        _, channels, height, width = self._images.shape
        return channels, height, width

    @property
    def contract(self) -> Contract:
        """What is known about the base classifier."""
        if isinstance(self.pipeline.classifier, PassThrough):
            return Contract.ASSUMED
        return Contract.STOCHASTIC if self.stochastic else Contract.CHECKED

    def use_engine(self, engine: EngineName, forward: int | None) -> None:
        """Use this engine and forward pass, such as those of a stored run; None to choose."""
        self.engine, self.forward = engine, forward
        self._choices.clear()

    def use_bundle(
        self, shape: tuple[int, ...], calibration: Mapping[str, str], converted: EngineChoice | None
    ) -> None:
        """Execute as an exported bundle does, for images of its shape [C, H, W].

        ``calibration`` was recorded of it; ``converted`` is its engine, unless that is torch.
        """
        self.bundle_shape, self._calibration, self._converted = shape, calibration, converted
        self._images, self.needs_calibration = None, False

    def engine_for(
        self, image: Float[np.ndarray, "c h w"], state: tuple[object, ...] | None = None
    ) -> EngineChoice:
        """Return the engine for images of this size, and the copies of a forward pass.

        ``state`` is that of the weights now, if known. Answers were compared: each depends on its
        copy alone (see :mod:`.contract`).

        Raises:
            SettingError, MissingExtraError, ClassifierError: the engine is not available.
            ContractError: an answer depends on more than its copy.
        """
        self.state, held = state or self.pipeline.state(), self._choices.get(image.shape)
        if held is not None and held[0] == self.state:
            return held[1]
        if self.bundle_shape not in (None, image.shape):
            raise SettingError(
                f"This bundle answers images of shape {list(self.bundle_shape or ())}, got "
                f"{list(image.shape)}. Resize them, or export a bundle for this size."
            )
        if self.needs_calibration:
            raise SettingError(
                "int8 needs images like those to certify, and takes its ranges from their noisy "
                "copies. Give some as calibration=images [N, C, H, W], or with --calibration."
            )
        if self._converted is not None:
            choice = self._converted
        elif self.chooser is not None:
            choice = self.chooser(image)
        else:
            choice = choose_engine(
                self.pipeline, partial(self._sample, image), engine=self.engine,
                precision=self.precision, device=self.device, forward=self.forward,
            )  # fmt: skip
        if self.chooser is None:  # the process that chose the engine has checked it
            check = ContractCheck(
                choice.engine, self.pipeline, partial(self._sample, image), choice.forward,
                stochastic=self.stochastic,
            )  # fmt: skip
            notes = choice.notes + check.run()
            choice = replace(choice, notes=notes, known=check.known)
        self._choices[image.shape] = self.state, choice
        return choice

    @property
    def is_used(self) -> bool:
        """Whether copies pass through it. A remote classifier without a denoiser takes them."""
        classifier, denoiser = self._parts
        return denoiser is not None or not isinstance(classifier, PassThrough)

    def engine_if_used(
        self, image: Float[np.ndarray, "c h w"], state: tuple[object, ...] | None = None
    ) -> EngineChoice | None:
        """Return :meth:`engine_for`, or None where no copy passes through an engine."""
        return self.engine_for(image, state) if self.is_used else None

    def record(self, image: Float[np.ndarray, "c h w"]) -> dict[str, Any]:
        """Return what executes images of this size, as far as counts depend on it."""
        choice = self.engine_if_used(image)
        if choice is None:
            return {"engine": None, "precision": None}
        return self._record(image.shape, choice)

    def machine(self, shape: tuple[int, ...]) -> str | None:
        """Return on what the last bits of answers depend, for images of this shape [C, H, W].

        None before the engine was chosen for them, and where none is used.
        """
        if shape not in self._choices:
            return None
        _, choice = self._choices[shape]
        return machine_of(self._record(shape, choice))

    def _record(self, shape: tuple[int, ...], choice: EngineChoice) -> dict[str, Any]:
        return {
            "forward_shape": [choice.forward, *shape],
            **choice.engine.identity(),
            **self.calibration,
        }

    def notes(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return notes for the user about the engine for images of this shape."""
        return self.engine_for(np.full(shape, 128 / 255, np.float32)).notes

    @torch.inference_mode()
    def denoise(self, copies: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return what the classifier sees of noisy copies; of several samples, the first.

        Raises:
            ClassifierError: the denoiser failed, or changed the shape.
        """
        with tracing(), single_caller:  # as one that counts may share parts that keep state
            return self._shown.denoise(copies)

    def _sample(self, image: Float[np.ndarray, "c h w"], count: int) -> Float[Tensor, "n c h w"]:
        """Draw noisy copies to prepare an engine with, of the calibration images or of this one."""
        images = image[None] if self._images is None else self._images
        if images.shape[1:] != image.shape:
            raise SettingError(
                f"The calibration images have shape {list(images.shape[1:])}, those to certify "
                f"{list(image.shape)}. Resize all to one size."
            )
        each = -(-count // len(images))
        drawn = [
            noisy_copies(
                torch.tensor(pixels), self.pipeline.sigma, noise=self.noise, device=self.device,
                seed=CALIBRATION_SEED, image_id=f"calibration {number}",
                stage=Stage.SELECTION, start=0, stop=each,
            )
            for number, pixels in enumerate(images)
        ]  # fmt: skip
        return torch.stack(drawn, dim=1).flatten(0, 1)[:count]  # some of each image


def stated_channels(classifier: object, denoiser: object) -> int | None:
    """Return the channels of the images, where classifier or denoiser state them.

    Raises:
        SettingError: they are for images of different channels.
    """
    ours = getattr(classifier, "channels", None)
    ours = ours if ours in (1, 3) else None  # a network's own attribute may be something else
    theirs = denoiser.config["image_channels"] if isinstance(denoiser, DenoiserNetwork) else None
    if {ours, theirs} == {1, 3}:
        raise SettingError(
            f"The classifier takes images of {ours} channels, the denoiser of {theirs}. "
            "Use a denoiser that was trained on such images."
        )
    return ours or theirs


def check_shape(
    shape: tuple[int, ...], channels: int | None, denoiser: object, *, name: str = "the image"
) -> tuple[int, int, int]:
    """Return a shape [C, H, W] of images that classifier and denoiser take.

    Args:
        channels: those that they state, or None.

    Raises:
        ImageError: the channels differ, or the denoiser was trained on another size.
    """
    if channels is not None:
        image_forms.check_channels(shape[0], channels, name=name)
    check_size(denoiser, *shape[1:])
    depth, height, width = shape
    return depth, height, width
