"""The command ``bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import AsJson, in_output
from denoised_smoothing.cli.output import note, print_json, say

TAKEN = (
    "classifier", "sigma", "denoiser", "noise", "resolution", "device", "engine", "precision",
    "calibration",
)  # fmt: skip


@command()
def bundle(
    model: Annotated[ModelOptions, Take(TAKEN, required=("classifier", "sigma"))],
    output: Annotated[Path, in_output("New folder to write.", metavar="FOLDER")],
    as_json: AsJson = False,
) -> None:
    """Export classifier, denoiser and parameters to one folder for --bundle.

    Example: denoised-smoothing bundle --classifier digits --sigma 0.5 --output digits-bundle

    'predict' and 'certify' load the folder with --bundle FOLDER.
    """
    from denoised_smoothing.runs.run import calibrate
    from denoised_smoothing.smoothing.bundle import shape_of
    from denoised_smoothing.smoothing.bundle_file import read_bundle

    smoothed = model.build()
    if (data := model.calibration_data()) is not None:
        calibrate(smoothed, data, model.resolution)
    side = smoothed.resolution if model.resolution is None else model.resolution
    shape = shape_of(smoothed.prepared, smoothed.channels, side)
    classifier, denoiser = model.specs(smoothed)
    smoothed.save(output, shape=shape, classifier=classifier, denoiser=denoiser)
    written = read_bundle(output)
    if as_json:
        print_json({"output": str(output), **written.to_dict()})
        return
    for text in smoothed.prepared.notes(shape):
        note(text)
    say(
        f"Bundle: {output} ({written.engine} {written.engine_version} in {written.precision}, "
        f"sigma {written.sigma:g}, images of shape {list(written.shape)})"
    )
