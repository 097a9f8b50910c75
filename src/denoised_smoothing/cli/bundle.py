"""The command ``bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import AsJson, option
from denoised_smoothing.cli.output import note, print_json, say
from denoised_smoothing.files import named

OTHERS = ("bundle", "devices", "batch_size")


@command()
def bundle(
    model: Annotated[ModelOptions, Take(without=OTHERS, required=("classifier", "sigma"))],
    output: Annotated[Path, option("Output", "New folder to write.", metavar="FOLDER")],
    as_json: AsJson = False,
) -> None:
    """Export classifier, denoiser and parameters to one folder for --bundle.

    Example: denoised-smoothing bundle --classifier digits --sigma 0.5 --output digits-bundle

    'predict' and 'certify' load the folder with --bundle FOLDER.
    """
    from denoised_smoothing.smoothing.bundle import shape_of, specs_of_code
    from denoised_smoothing.smoothing.bundle_file import read_bundle

    named(output)
    smoothed = model.build()
    model.calibrate(smoothed)
    side = smoothed.resolution if model.resolution is None else model.resolution
    shape = shape_of(smoothed.prepared, smoothed.channels, side)
    smoothed.save(output, shape=shape, classifier=model.classifier, denoiser=model.denoiser)
    written = read_bundle(output)
    if as_json:
        print_json({"output": str(output), **written.to_dict()})
        return
    for text in smoothed.prepared.notes(shape):
        note(text)
    for role, spec in specs_of_code(written).items():
        note(
            f"The bundle holds the weights of {spec}, not its code, and no command runs code "
            f"because a bundle names it. Add --{role} {spec} next to --bundle, or export with "
            "--engine openvino."
        )
    say(
        f"Bundle: {output} ({written.engine} {written.engine_version} in {written.precision}, "
        f"sigma {written.sigma:g}, images of shape {list(written.shape)})"
    )
