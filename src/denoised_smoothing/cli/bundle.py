"""bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.cli.certify import load_smoothed
from denoised_smoothing.cli.options import (
    AsJson,
    CalibrationData,
    ClassifierSpec,
    DenoiserSpec,
    Device,
    Engine,
    NoiseName,
    PrecisionName,
    Resolution,
    Sigma,
)
from denoised_smoothing.cli.output import err, out, print_json


def bundle(
    classifier: ClassifierSpec,
    sigma: Sigma,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    denoiser: DenoiserSpec = "none",
    noise: NoiseName = Noise.GRID,
    resolution: Resolution = None,
    device: Device = "auto",
    engine: Engine = EngineName.AUTO,
    precision: PrecisionName = Precision.FLOAT32,
    calibration: CalibrationData = None,
    as_json: AsJson = False,
) -> None:
    """Write all that answers into one folder, for --bundle of predict and certify."""
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.runs.run import calibrate
    from denoised_smoothing.smoothing.bundle import shape_of
    from denoised_smoothing.smoothing.bundle_file import read_bundle

    smoothed = load_smoothed(
        classifier, denoiser, sigma, noise=noise, device=device, engine=engine, precision=precision
    )
    if calibration is not None:
        calibrate(smoothed, load_dataset(calibration), resolution)
    side = smoothed.resolution if resolution is None else resolution
    shape = shape_of(smoothed.execution, smoothed.channels, side)
    smoothed.save(output, shape=shape, classifier=classifier, denoiser=denoiser)
    written = read_bundle(output)
    if as_json:
        print_json({"output": str(output), **written.to_dict()})
        return
    for note in smoothed.execution.notes(shape):
        err.print(f"note: {note}", markup=False)
    out.print(
        f"Bundle: {output} ({written.engine} {written.engine_version} in {written.precision}, "
        f"sigma {written.sigma:g}, images of shape {list(written.shape)})",
        markup=False,
        soft_wrap=True,
    )
