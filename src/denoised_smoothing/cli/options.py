"""Options that several commands share, and functions that read them."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from denoised_smoothing.errors import MissingExtraError, SettingError

FAILED, INTERRUPTED = 1, 130
"""Exit codes of a command that failed midway, and of one stopped by Ctrl-C."""
REACH = "those within reach"
ALPHA = "Maximum probability that a result is wrong, in (0, 1)."


def option(panel: str, help: str, *flags: str, **more: Any) -> Any:
    """Return a ``typer.Option`` in a group of the help."""
    return typer.Option(*flags, help=help, rich_help_panel=panel, **more)


def length(value: str | float) -> float:
    """Read the value of an option that is a sigma or a radius.

    Raises:
        typer.BadParameter: it is neither a number nor a fraction such as 64/255.
    """
    from denoised_smoothing.certificates.radii import parse_length

    try:
        return parse_length(value) if isinstance(value, str) else value
    except ValueError as error:
        raise typer.BadParameter(f"{value!r} is not {error}.") from error


LENGTH: dict[str, Any] = {"parser": length, "metavar": "NUMBER"}
"""Keywords of an option that is a sigma or a radius."""
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="photos, digits, cifar10[:train|test], folder:PATH, parquet:FILE, hf:NAME, or a file.",
    ),
]
Radius = Annotated[
    float,
    option(
        "Copies",
        "L2 radius to certify, in pixel values in [0, 1]: 0.25 or 64/255.",
        **LENGTH,
    ),
]
Alpha = Annotated[float, option("Copies", ALPHA)]
Seed = Annotated[int | None, option("Copies", "Seed of the noise.", show_default="random")]
MaxN = Annotated[int, option("Copies", "Maximum number of copies per image.")]
Limit = Annotated[int | None, option("Data and model", "Use at most N images.", show_default="all")]
Stride = Annotated[int, option("Data and model", "Use every N-th image.")]
Labels = Annotated[
    Path | None,
    option(
        "Data and model",
        "File that assigns classes of the data to labels of the classifier, with lines CLASS = "
        "LABEL, each a name or a number.",
        show_default="by name",
        metavar="FILE",
    ),
]
Sigmas = Annotated[str, option("Data and model", "Values of sigma to compare.")]
Radii = Annotated[
    str | None, option("Output", "L2 radii of the table, such as 0.25,0.5.", show_default=REACH)
]
StoreUrl = Annotated[
    str, option("Output", "Store of the runs: an SQLite file or a SQLAlchemy URL.", metavar="URL")
]
File = Annotated[Path, option("Output", "File to write.")]
AsJson = Annotated[bool, option("Output", "Print one JSON object instead of text.", "--json")]


def read_labels(path: Path | None) -> dict[str, str] | None:
    """Read the file of ``--labels``."""
    from denoised_smoothing.files import expand_home, read_pairs
    from denoised_smoothing.models.labels import LINES

    if path is None:
        return None
    try:
        return read_pairs(expand_home(path), f"a file with {LINES}")
    except ValueError as error:
        raise SettingError(f"--labels must be {error}, got {str(path)!r}.") from error


def parse_radii(text: str) -> tuple[float, ...]:
    """Read ``"0.25,0.5"`` as ``(0.25, 0.5)``."""
    from denoised_smoothing.certificates.radii import check_radii

    return check_radii(parse_numbers("--radii", text))


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """Read ``"0.25,64/255"`` as ``(0.25, 64 / 255)``."""
    from denoised_smoothing.certificates.radii import parse_length

    try:
        return tuple(parse_length(part) for part in text.split(","))
    except ValueError as error:
        raise SettingError(
            f"{option} must be numbers separated by commas, got {text!r}. "
            f"Write for example {option} 0.25,0.5,1.0."
        ) from error


def require(extra: str, purpose: str, *packages: str) -> None:
    """Refuse a command whose packages are not installed.

    Raises:
        MissingExtraError: names the extra that installs them.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra, purpose)


def is_typed(context: typer.Context, name: str) -> bool:
    """Return whether an option was typed, not taken from its default or the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def command_line() -> str:
    """Return the command that was typed, for the record."""
    return shlex.join(["denoised-smoothing", *sys.argv[1:]])
