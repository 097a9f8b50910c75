"""Options of prediction sets: their coverage, and the images that calibrate them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from denoised_smoothing.cli.grouped import option_group
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import is_typed, read_labels
from denoised_smoothing.cli.output import progress_bar
from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.runs.prediction_sets import PredictionSets
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier

_option = option_group("Prediction sets")
_WITH_DATA = ("copies", "limit", "stride", "labels")


@dataclass(frozen=True)
class SetOptions:
    """The options as typed; without coverage there are no sets."""

    coverage: float | None = _option(
        "Answer with a set of labels that holds the true one with this probability, in (0, 1)."
    )
    radius: float | None = _option(
        "L2 change of the image up to which that holds: 0.25 or 64/255.",
        length=True,
        show_default="0",
    )
    calibration_run: str | None = _option(
        "Finished run on labelled images, whose votes calibrate the sets.", metavar="RUN"
    )
    calibration_data: str | None = _option(
        "Labelled images, whose scores calibrate the sets. Needs a local classifier with logits.",
        metavar="DATA",
    )
    copies: int = _option(
        "Noisy copies of each image for --calibration-data. More give smaller sets.", default=1
    )
    store: str = _option("Store of the calibration run.", default="runs.sqlite", metavar="URL")
    limit: int | None = _option("Use at most N images of the data.", show_default="all")
    stride: int = _option("Use every N-th image of the data.", default=1)
    labels: Path | None = _option(
        "File that assigns classes of the data to labels of the classifier.",
        show_default="by name",
        metavar="FILE",
    )

    def check(self, context: typer.Context) -> None:
        """Check before a model is loaded that the options fit each other.

        Raises:
            SettingError: one is missing, or excludes another.
        """
        sources = (self.calibration_run is not None) + (self.calibration_data is not None)
        if self.coverage is None:
            given = ("radius", "calibration_run", "calibration_data", "store", *_WITH_DATA)
            if typed := _spelled(context, given):
                raise SettingError(
                    f"Option {typed} is for prediction sets. Give --coverage, such as 0.9, or "
                    "remove it."
                )
        elif sources != 1:
            got = "both" if sources else "neither"
            raise SettingError(
                "--coverage needs either --calibration-run RUN or --calibration-data DATA, got "
                f"{got}. Give one of them."
            )
        elif typed := _spelled(context, ("n", "alpha")):
            raise SettingError(
                f"--coverage does not accept {typed}: sets have their own probability, and as many "
                "copies as the calibration. Remove the option."
            )
        elif self.calibration_data is None and (typed := _spelled(context, _WITH_DATA)):
            raise SettingError(
                f"Option {typed} belongs to --calibration-data. Remove it with --calibration-run."
            )

    def calibrated(
        self, smoothed: SmoothedClassifier, model: ModelOptions, seed: int | None
    ) -> PredictionSets:
        """Calibrate the sets; show the progress where copies are drawn."""
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.runs.prediction_sets import PredictionSets
        from denoised_smoothing.store import Store

        assert self.coverage is not None
        radius = 0.0 if self.radius is None else self.radius
        if self.calibration_run is not None:
            with Store(self.store, read_only=True) as store:
                return PredictionSets.from_run(
                    smoothed, store, self.calibration_run, coverage=self.coverage, radius=radius
                )
        assert self.calibration_data is not None
        with progress_bar("", "calibrating") as show:
            return PredictionSets.from_data(
                smoothed, load_dataset(self.calibration_data), coverage=self.coverage,
                radius=radius, copies=self.copies, resolution=model.resolution, limit=self.limit,
                stride=self.stride, labels=read_labels(self.labels), seed=seed,
                progress=lambda done, images: show(completed=done, total=images),
            )  # fmt: skip


def _spelled(context: typer.Context, names: tuple[str, ...]) -> str:
    """Return those of the options that were typed, as text."""
    typed = [name for name in names if is_typed(context, name)]
    return ", ".join(f"--{name.replace('_', '-')}" for name in typed)
