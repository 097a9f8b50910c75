"""Options of the smoothed classifier: which one, and how it runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.cli.grouped import option_group
from denoised_smoothing.cli.options import is_typed
from denoised_smoothing.cli.output import note
from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier
    from denoised_smoothing.smoothing.cluster import RayCluster

IN_A_BUNDLE = (
    "classifier", "denoiser", "sigma", "noise", "engine", "precision", "calibration", "stochastic",
)  # fmt: skip
"""Options that a bundle sets."""
_data, _speed = option_group("Data and model"), option_group("Speed")


@dataclass(frozen=True)
class ModelOptions:
    """The options; a command takes those that it needs."""

    classifier: str | None = _data(
        "A shipped name, torchvision:NAME, cifar-resnet56:FILE, python:MODULE:FACTORY, or a remote "
        "classifier: aws, google, azure, clarifai:MODEL, openai:MODEL, http:URL, simulated. "
        "'list classifiers' prints all.",
        metavar="SPEC",
    )
    denoiser: str = _data(
        "A shipped name, unet:FILE, dncnn:FILE, python:MODULE:FACTORY, or none. 'list denoisers' "
        "prints all.",
        default="none",
        metavar="SPEC",
    )
    sigma: float | None = _data(
        "Standard deviation of the noise on pixel values in [0, 1]: 0.25 or 64/255.", length=True
    )
    noise: Noise = _data(
        "Sampler of the noise. Only the proof of grid holds in floating point.", default=Noise.GRID
    )
    stochastic: bool = _data(
        "Allow a classifier that is random by intention. Its counts do not repeat.",
        "--stochastic",
        default=False,
    )
    bundle: Path | None = _data(
        "Folder written by 'bundle'. Replaces classifier, denoiser, sigma, noise, engine and "
        "precision.",
        metavar="FOLDER",
    )
    resolution: int | None = _data(
        "Side in pixels to which images are resized and cropped before the noise.",
        show_default="the classifier's",
    )
    device: str = _speed("Device: auto, cpu, cuda or cuda:0.", default="auto")
    devices: str | None = _speed("Several of one kind: cuda:0,cuda:1.", metavar="NAMES")
    engine: EngineName = _speed(
        "Engine that runs denoiser and classifier. auto uses the fastest installed one that agrees "
        "with torch.",
        default=EngineName.AUTO,
        envvar="DENOISED_SMOOTHING_ENGINE",
        show_envvar=False,
    )
    precision: Precision = _speed("Number format of the models.", default=Precision.FLOAT32)
    calibration: str | None = _speed(
        "Images for the int8 calibration.", metavar="DATA", show_default="those to certify"
    )
    batch_size: int | None = _speed(
        "Maximum number of noisy copies in flight. Does not change the results.",
        show_default="by the image size",
    )

    def build(
        self, context: typer.Context | None = None, cluster: RayCluster | None = None
    ) -> SmoothedClassifier:
        """Build the smoothed classifier from its parts, or load the bundle; print its notes.

        Args:
            context: of a command that accepts bundles and remote classifiers.
            cluster: counts the labels; None for this machine.

        Raises:
            SettingError: options are missing, or exclude each other.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "sigma .* is outside")  # it is one of the notes
            smoothed = self._build(context, cluster)
        for text in smoothed.notes:
            note(text)
        return smoothed

    def _build(
        self, context: typer.Context | None, cluster: RayCluster | None
    ) -> SmoothedClassifier:
        from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
        from denoised_smoothing.smoothing.classifier import SmoothedClassifier

        if context is not None and self.devices is not None and is_typed(context, "device"):
            raise SettingError(
                f"Got both --device {self.device} and --devices {self.devices}. "
                "Use only one of them."
            )
        if context is not None and self.bundle is not None:
            return self._load(self.bundle, context, cluster)
        if self.classifier is None or self.sigma is None:
            missing = "--classifier" if self.classifier is None else "--sigma"
            raise SettingError(
                f"Option {missing} is missing. Give --classifier and --sigma, or --bundle FOLDER."
            )
        smoothed = SmoothedClassifier(
            load_classifier(self.classifier), self.sigma, load_denoiser(self.denoiser),
            noise=self.noise, device=self.devices or self.device, engine=self.engine,
            precision=self.precision, batch_size=self.batch_size, cluster=cluster,
            stochastic=self.stochastic,
        )  # fmt: skip
        if smoothed.is_remote and context is None:
            raise SettingError(
                f"This command does not support remote classifiers, got {self.classifier!r}. "
                "Use 'certify' or 'predict' with --max-cost."
            )
        return smoothed

    def _load(
        self, bundle: Path, context: typer.Context, cluster: RayCluster | None
    ) -> SmoothedClassifier:
        from denoised_smoothing.smoothing.classifier import SmoothedClassifier

        if cluster is not None:
            raise SettingError(
                f"--bundle {bundle} is a folder on this machine, which --ray does not support. "
                "Use --classifier and --denoiser instead."
            )
        typed = [name for name in IN_A_BUNDLE if is_typed(context, name)]
        parts = self._parts_of(bundle, typed) if {*typed} <= {"classifier", "denoiser"} else None
        if parts is None:
            raise SettingError(
                f"--bundle {bundle} already sets {', '.join(f'--{name}' for name in typed)}. "
                "Remove these options, or --bundle."
            )
        device = self.devices or self.device
        return SmoothedClassifier.load(bundle, **parts, device=device, batch_size=self.batch_size)

    def _parts_of(self, bundle: Path, typed: Sequence[str]) -> dict[str, Any] | None:
        """Make the parts of a bundle whose specs were typed, as it loads no code by itself.

        Returns:
            The parts by name; None where the bundle has no need of them, or names other specs.
        """
        from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
        from denoised_smoothing.smoothing.bundle import specs_of_code
        from denoised_smoothing.smoothing.bundle_file import read_bundle

        if not typed:
            return {}
        needed = specs_of_code(read_bundle(bundle))
        if any(needed.get(name) != getattr(self, name) for name in typed):
            return None
        make = {"classifier": load_classifier, "denoiser": load_denoiser}
        return {name: make[name](needed[name]) for name in typed}

    def calibrate(self, smoothed: SmoothedClassifier) -> None:
        """Calibrate int8 with the named images, if any."""
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.runs.calibration import calibrate

        if self.calibration is not None:
            calibrate(smoothed, load_dataset(self.calibration), self.resolution)
