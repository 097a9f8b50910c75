"""The command ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import Alpha, AsJson, Seed, option
from denoised_smoothing.cli.output import print_json, print_spending, say, stopped
from denoised_smoothing.cli.remote_options import RemoteOptions
from denoised_smoothing.cli.set_options import SetOptions

if TYPE_CHECKING:
    from denoised_smoothing.certificates.prediction import Prediction
    from denoised_smoothing.certificates.prediction_sets import PredictionSet
    from denoised_smoothing.reporting.results import LabelNames


@command()
def predict(
    context: typer.Context,
    image: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE", help="8-bit PNG, JPEG, BMP or WebP files."),
    ],
    model: Annotated[ModelOptions, Take(without=("devices", "batch_size"))],
    remote: Annotated[RemoteOptions, Take(without=("offline",))],
    sets: SetOptions,
    n: Annotated[int, option("Copies", "Maximum number of noisy copies.")] = 1_000,
    alpha: Alpha = 0.001,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Predict the label of an image. Needs fewer copies than 'certify'.

    Example: denoised-smoothing predict digit.png --classifier digits --sigma 0.25

    Prints no radius, and stores nothing. With --coverage and --radius it prints the labels of a
    set that holds the true one. Prints one line, or one JSON object, for each image.
    """
    from denoised_smoothing.datasets import load_image
    from denoised_smoothing.remote.records import Spending
    from denoised_smoothing.runs.paid import QueryEstimate

    sets.check(context)
    smoothed = model.build(context)
    spec = model.classifier or str(model.bundle)
    paid = remote.apply(smoothed.classifier, spec)
    try:
        model.calibrate(smoothed)
        calibrated = None
        if sets.coverage is not None:
            calibrated = sets.calibrated(smoothed, model, seed)
        if paid is not None:
            copies = len(image) * (n if calibrated is None else calibrated.rule.copies)
            estimate = QueryEstimate(copies, paid.settings, Spending(), paid.price)
            remote.confirm(estimate, paid, spec, kept=False)
        resolution = model.resolution
        if calibrated is not None and resolution is None:
            resolution = calibrated.resolution
        for path in image:
            pixels = smoothed.prepare(load_image(path), resolution)
            answer = (
                smoothed.predict(pixels, n=n, alpha=alpha, seed=seed)
                if calibrated is None
                else calibrated.predict(pixels, seed=seed)
            )
            # Names of a remote classifier are known once it has answered.
            text, values = _shown(answer, getattr(smoothed.classifier, "label_names", None))
            if as_json:
                print_json({"image": str(path), **values} if len(image) > 1 else values)
            else:
                say(f"{path}: {text}" if len(image) > 1 else text)
    except KeyboardInterrupt:
        if paid is not None:
            print_spending(paid.spent)
        stopped("'predict' stores nothing. Repeat the command to start again.")
    if calibrated is not None and not as_json:
        say(f"{calibrated.rule.statement} Calibration: {calibrated.calibration}.")


def _shown(answer: Prediction | PredictionSet, names: LabelNames) -> tuple[str, dict[str, Any]]:
    """Return an answer as text and as plain values, with the names of its labels."""
    from denoised_smoothing.certificates.prediction_sets import PredictionSet
    from denoised_smoothing.reporting.results import label_name

    if isinstance(answer, PredictionSet):
        labels = [str(label_name(label, names)) for label in answer.labels]
        return ", ".join(labels) or "no label", {**answer.to_dict(), "label_names": labels}
    name = label_name(answer.label, names) if names else None
    text = f"{answer}" if name is None else f"{name}: {answer}"
    return text, {**answer.to_dict(), "label_name": name}
