"""Options of the smoothed classifier: which one, and how it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.cli.options import in_data, in_speed, is_typed
from denoised_smoothing.cli.remote_options import refuse_paid
from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.datasets import ImageDataset
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier
    from denoised_smoothing.smoothing.cluster import RayCluster

IN_A_BUNDLE = (
    "classifier", "denoiser", "sigma", "noise", "engine", "precision", "calibration",
)  # fmt: skip
"""Options that a bundle sets."""


@dataclass(frozen=True)
class ModelOptions:
    """The options; a command takes those that it needs."""

    classifier: Annotated[
        str | None,
        in_data(
            "A shipped name, torchvision:NAME, cifar-resnet56:FILE, python:MODULE:FACTORY, or "
            "a remote classifier: aws, google, azure, clarifai:MODEL, openai:MODEL, http:URL, "
            "simulated. 'list classifiers' prints all.",
            metavar="SPEC",
        ),
    ] = None
    denoiser: Annotated[
        str,
        in_data(
            "A shipped name, unet:FILE, dncnn:FILE, python:MODULE:FACTORY, or none. 'list "
            "denoisers' prints all.",
            metavar="SPEC",
        ),
    ] = "none"
    sigma: Annotated[
        float | None, in_data("Standard deviation of the noise on pixel values in [0, 1].")
    ] = None
    noise: Annotated[
        Noise, in_data("Sampler of the noise. Only the proof of grid holds in floating point.")
    ] = Noise.GRID
    bundle: Annotated[
        Path | None,
        in_data(
            "Folder written by 'bundle'. Replaces classifier, denoiser, sigma, noise, engine "
            "and precision.",
            metavar="FOLDER",
        ),
    ] = None
    resolution: Annotated[
        int | None,
        in_data(
            "Side in pixels to which images are resized and cropped before the noise.",
            show_default="the classifier's",
        ),
    ] = None
    device: Annotated[str, in_speed("Device: auto, cpu, cuda or cuda:0.")] = "auto"
    devices: Annotated[
        str | None, in_speed("Several devices of one kind, such as cuda:0,cuda:1.", metavar="NAMES")
    ] = None
    engine: Annotated[
        EngineName,
        in_speed(
            "Engine that runs denoiser and classifier. auto uses the fastest installed one "
            "that agrees with torch.",
            envvar="DENOISED_SMOOTHING_ENGINE",
            show_envvar=False,
        ),
    ] = EngineName.AUTO
    precision: Annotated[
        Precision, in_speed("Number format in which denoiser and classifier compute.")
    ] = Precision.FLOAT32
    calibration: Annotated[
        str | None,
        in_speed("Images for the int8 calibration.", metavar="DATA", show_default="DATA"),
    ] = None
    batch_size: Annotated[
        int | None,
        in_speed(
            "Maximum number of noisy copies in flight. Does not change the results.",
            show_default="chosen for the image size",
        ),
    ] = None

    def load(self, context: typer.Context, cluster: RayCluster | None = None) -> SmoothedClassifier:
        """Load the bundle, or build the smoothed classifier; its classifier may be remote.

        Raises:
            SettingError: options are missing, or exclude each other.
        """
        if self.devices is not None and is_typed(context, "device"):
            raise SettingError(
                f"Got both --device {self.device} and --devices {self.devices}. "
                "Use only one of them."
            )
        if self.bundle is None:
            return self.build(cluster, paid=True)
        if cluster is not None:
            raise SettingError(
                f"--bundle {self.bundle} is a folder on this machine, which --ray does not "
                "support. Use --classifier and --denoiser instead."
            )
        typed = [f"--{name}" for name in IN_A_BUNDLE if is_typed(context, name)]
        if typed:
            raise SettingError(
                f"--bundle {self.bundle} already sets {', '.join(typed)}. "
                "Remove these options, or --bundle."
            )
        from denoised_smoothing.smoothing.classifier import SmoothedClassifier

        return SmoothedClassifier.load(
            self.bundle, device=self.devices or self.device, batch_size=self.batch_size
        )

    def build(self, cluster: RayCluster | None = None, *, paid: bool = False) -> SmoothedClassifier:
        """Build the smoothed classifier from its parts.

        Raises:
            SettingError: one is missing, or the classifier is remote and not ``paid``.
        """
        from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
        from denoised_smoothing.smoothing.classifier import SmoothedClassifier

        if self.classifier is None or self.sigma is None:
            missing = "--classifier" if self.classifier is None else "--sigma"
            raise SettingError(
                f"Option {missing} is missing. Give --classifier and --sigma, or --bundle FOLDER."
            )
        smoothed = SmoothedClassifier(
            load_classifier(self.classifier),
            self.sigma,
            load_denoiser(self.denoiser),
            noise=self.noise,
            device=self.devices or self.device,
            engine=self.engine,
            precision=self.precision,
            batch_size=self.batch_size,
            cluster=cluster,
        )
        if not paid:
            refuse_paid(smoothed, self.classifier)
        return smoothed

    def specs(self, smoothed: SmoothedClassifier) -> tuple[str, str]:
        """Return the specs of the classifier and the denoiser."""
        if smoothed.bundle is not None:
            return smoothed.bundle.classifier, smoothed.bundle.denoiser
        assert self.classifier is not None
        return self.classifier, self.denoiser

    def calibration_data(self) -> ImageDataset | None:
        """Load the images for the int8 calibration, where they are named."""
        from denoised_smoothing.datasets import load_dataset

        return None if self.calibration is None else load_dataset(self.calibration)
