"""Arguments that several commands share, and how they are read."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.certificates.radii import check_radii
from denoised_smoothing.cli.output import err
from denoised_smoothing.errors import SettingError

FAILED, INTERRUPTED = 1, 130
"""Exit codes of a failure that kept what was done, and of Ctrl-C."""

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, cifar10[:train|test], folder:PATH, parquet:FILE, or an image file.",
    ),
]
_CLASSIFIER = typer.Option(
    "--classifier",
    metavar="SPEC",
    help="torchvision:NAME, cifar-resnet56:FILE, python:MODULE:FACTORY, a bundled name, or a "
    "remote one: aws, google, azure, clarifai:MODEL, openai:MODEL, http:URL, simulated.",
)
ClassifierSpec = Annotated[str, _CLASSIFIER]
OptionalClassifier = Annotated[str | None, _CLASSIFIER]
DenoiserSpec = Annotated[
    str,
    typer.Option(
        "--denoiser",
        metavar="SPEC",
        help="unet:FILE, dncnn:FILE, dncnn-wide:FILE, memnet:FILE, python:MODULE:FACTORY, "
        "a bundled name, or none.",
    ),
]
_SIGMA = typer.Option(help="Standard deviation of the noise on pixel values in [0, 1].")
Sigma = Annotated[float, _SIGMA]
OptionalSigma = Annotated[float | None, _SIGMA]
BundleFolder = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="FOLDER",
        help="What 'bundle' wrote, instead of classifier, denoiser, sigma, noise, engine and "
        "precision.",
    ),
]
Alpha = Annotated[float, typer.Option(help="Probability that an answer is wrong, in (0, 1).")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the noise.", show_default="fresh entropy, recorded")
]
Resolution = Annotated[
    int | None,
    typer.Option(
        help="Side in pixels to which images are brought before the noise.",
        show_default="the classifier's own",
    ),
]
NoiseName = Annotated[
    Noise, typer.Option(help="Sampler of the noise; the proof of grid holds in floating point.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0.")]
Devices = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Several of one kind instead of one device: cuda:0,cuda:1."),
]
Engine = Annotated[
    EngineName,
    typer.Option(
        help="What executes denoiser and classifier; auto takes the fastest that is installed and "
        "agrees with torch.",
        envvar="DENOISED_SMOOTHING_ENGINE",
        show_envvar=False,
    ),
]
PrecisionName = Annotated[
    Precision,
    typer.Option("--precision", help="Arithmetic of the classifier that is certified."),
]
CalibrationData = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="DATA",
        help="Images from whose noisy copies int8 takes its ranges.",
        show_default="DATA",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="The most noisy copies on their way at once; results do not depend on it.",
        show_default="chosen for the image size",
    ),
]
StoreUrl = Annotated[
    str, typer.Option("--store", metavar="URL", help="SQLite file, or a URL of SQLAlchemy.")
]
Radii = Annotated[
    str | None,
    typer.Option(
        help="Radii of the table, such as 0.25,0.5,1.0.", show_default="what is reachable"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def parse_radii(text: str | None) -> tuple[float, ...] | None:
    """``"0.25,0.5"`` to ``(0.25, 0.5)``; None stays None."""
    if text is None:
        return None
    return check_radii(parse_numbers("--radii", text))


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """``"0.25,0.5"`` to ``(0.25, 0.5)``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingError(f"{option} takes numbers such as 0.25,0.5,1.0, got {text!r}") from error


def given_by_hand(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, and is not a default or from the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def command_line() -> str:
    """What was typed, for the record."""
    return shlex.join(["denoised-smoothing", *sys.argv[1:]])


def fail(error: Exception, code: int) -> NoReturn:
    """Print the message of an error and end with an exit code."""
    err.print(f"error: {error}", markup=False, soft_wrap=True)
    sys.exit(code)
