"""The command ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import Alpha, AsJson, Seed, option
from denoised_smoothing.cli.output import print_json, print_spending, say, stopped
from denoised_smoothing.cli.remote_options import RemoteOptions


@command()
def predict(
    context: typer.Context,
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An 8-bit PNG, JPEG, BMP or WebP file.")
    ],
    model: Annotated[ModelOptions, Take(without=("devices", "batch_size"))],
    remote: Annotated[RemoteOptions, Take(without=("offline",))],
    n: Annotated[int, option("Copies", "Maximum number of noisy copies.")] = 1_000,
    alpha: Alpha = 0.001,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Predict the label of one image. Needs fewer copies than 'certify'.

    Example: denoised-smoothing predict digit.png --classifier digits --sigma 0.25

    Prints no radius, and stores nothing.
    """
    from denoised_smoothing.datasets import load_image
    from denoised_smoothing.remote.records import Spending
    from denoised_smoothing.reporting.results import label_name
    from denoised_smoothing.runs.paid import QueryEstimate

    smoothed = model.build(context)
    spec = model.classifier or str(model.bundle)
    paid = remote.apply(smoothed.classifier, spec)
    if paid is not None:
        remote.confirm(
            QueryEstimate(n, paid.settings, Spending(), paid.price), paid, spec, kept=False
        )
    try:
        model.calibrate(smoothed)
        pixels = smoothed.prepare(load_image(image), model.resolution)
        answer = smoothed.predict(pixels, n=n, alpha=alpha, seed=seed)
    except KeyboardInterrupt:
        if paid is not None:
            print_spending(paid.spent)
        stopped("'predict' stores nothing. Repeat the command to start again.")
    names = getattr(smoothed.classifier, "label_names", None)
    name = label_name(answer.label, names) if names else None
    if as_json:
        print_json({**answer.to_dict(), "label_name": name})
    else:
        say(f"{answer}" if name is None else f"{name}: {answer}")
