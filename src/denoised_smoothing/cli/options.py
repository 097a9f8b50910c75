"""Options that several commands share, and functions that read them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from denoised_smoothing.errors import SettingError

FAILED, INTERRUPTED = 1, 130
"""Exit codes of a command that failed midway, and of one stopped by Ctrl-C."""


def option_group(panel: str) -> Callable[..., Any]:
    """Return the function that makes the options of a group in the help."""

    def option(help: str, *flags: str, **more: Any) -> Any:
        return typer.Option(*flags, help=help, rich_help_panel=panel, **more)

    return option


in_data, in_copies, in_output = map(option_group, ("Data and model", "Copies", "Output"))
in_speed, in_training = map(option_group, ("Speed", "Training"))

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, cifar10[:train|test], folder:PATH, parquet:FILE, or an image file.",
    ),
]
Radius = Annotated[float, in_copies("L2 radius to certify, in pixel values in [0, 1].")]
Alpha = Annotated[float, in_copies("Maximum probability that a result is wrong, in (0, 1).")]
Seed = Annotated[int | None, in_copies("Seed of the noise.", show_default="random, and recorded")]
Limit = Annotated[int | None, in_data("Use at most N images.", show_default="all")]
Stride = Annotated[int, in_data("Use every N-th image.")]
Sigmas = Annotated[str, in_data("Values of sigma to compare.")]
Radii = Annotated[
    str | None,
    in_output("L2 radii of the table, such as 0.25,0.5.", show_default="those within reach"),
]
StoreUrl = Annotated[
    str, in_output("Store of the runs: an SQLite file or a SQLAlchemy URL.", metavar="URL")
]
File = Annotated[Path, in_output("File to write.")]
AsJson = Annotated[bool, in_output("Print one JSON object instead of text.", "--json")]


def parse_radii(text: str | None) -> tuple[float, ...] | None:
    """Read ``"0.25,0.5"`` as ``(0.25, 0.5)``; None stays None."""
    from denoised_smoothing.certificates.radii import check_radii

    return None if text is None else check_radii(parse_numbers("--radii", text))


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """Read ``"0.25,0.5"`` as ``(0.25, 0.5)``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingError(
            f"{option} must be numbers separated by commas, got {text!r}. "
            f"Write for example {option} 0.25,0.5,1.0."
        ) from error


def is_typed(context: typer.Context, name: str) -> bool:
    """Return whether an option was typed, not taken from its default or the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def command_line() -> str:
    """Return the command that was typed, for the record."""
    return shlex.join(["denoised-smoothing", *sys.argv[1:]])
