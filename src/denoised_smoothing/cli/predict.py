"""The command ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import Alpha, AsJson, Seed, in_copies
from denoised_smoothing.cli.output import print_json, say
from denoised_smoothing.cli.remote_options import RemoteOptions

TAKEN = (
    "classifier", "sigma", "denoiser", "bundle", "resolution", "noise", "device", "engine",
    "precision", "calibration",
)  # fmt: skip


@command()
def predict(
    context: typer.Context,
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An 8-bit PNG, JPEG, BMP or WebP file.")
    ],
    model: Annotated[ModelOptions, Take(TAKEN)],
    remote: RemoteOptions,
    n: Annotated[int, in_copies("Maximum number of noisy copies.")] = 1_000,
    alpha: Alpha = 0.001,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Predict the label of one image. Needs fewer copies than 'certify'.

    Example: denoised-smoothing predict digit.png --classifier digits --sigma 0.25

    Prints no radius, and stores nothing.
    """
    from denoised_smoothing.images import load_image
    from denoised_smoothing.remote.records import Spending
    from denoised_smoothing.runs.paid import QueryEstimate
    from denoised_smoothing.runs.run import calibrate

    smoothed = model.load(context)
    spec, _ = model.specs(smoothed)
    paid = remote.apply(smoothed.classifier, spec)
    if paid is not None:
        remote.confirm(QueryEstimate(n, Spending(), paid.price), paid, spec, kept=False)
    if (data := model.calibration_data()) is not None:
        calibrate(smoothed, data, model.resolution)
    pixels = smoothed.prepare(load_image(image), model.resolution)
    answer = smoothed.predict(pixels, n=n, alpha=alpha, seed=seed)
    names = getattr(smoothed.classifier, "label_names", None)
    name = names[answer.label] if names and answer.label is not None else None
    if as_json:
        print_json({**answer.to_dict(), "label_name": name})
    else:
        say(f"{answer}" if name is None else f"{name}: {answer}")
