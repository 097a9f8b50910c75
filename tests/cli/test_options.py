"""Options that are a sigma or a radius read fractions, in every command."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from denoised_smoothing.cli import COMMANDS, app
from denoised_smoothing.cli.options import length, parse_numbers, parse_radii
from denoised_smoothing.errors import SettingError

GROUP: Any = typer.main.get_command(app)
FOUND = [
    (command, option)
    for command in COMMANDS
    for option in GROUP.get_command(typer.Context(GROUP), command).params
    if option.name in ("sigma", "sigma_max", "radius")
    or (command, option.name) == ("train-classifier", "noise")
]


def test_every_command_with_such_an_option_is_found() -> None:
    names = [f"{command} --{option.name.replace('_', '-')}" for command, option in FOUND]
    assert sorted(names) == [
        "bundle --sigma", "certify --sigma", "plan --radius", "plan --sigma",
        "predict --radius", "predict --sigma", "serve --sigma", "sweep --radius", "train --sigma",
        "train --sigma-max", "train-classifier --noise",
    ]  # fmt: skip


@pytest.mark.parametrize(("command", "option"), FOUND, ids=lambda part: getattr(part, "name", part))
def test_it_reads_a_fraction(command: str, option: Any) -> None:
    context = typer.Context(GROUP)
    for text, value in (("64/255", 64 / 255), ("0.25", 0.25)):
        given, expected = ([text], [value]) if option.multiple else (text, value)
        read = option.process_value(context, given)
        assert (list(read) if option.multiple else read) == expected
    with pytest.raises(typer.BadParameter, match="'0,25' is not a number or a fraction such as"):
        option.process_value(context, ["0,25"] if option.multiple else "0,25")


def test_a_default_is_a_number_already() -> None:
    assert length(0.25) == 0.25


def test_lists_of_numbers() -> None:
    assert parse_radii("0.5,64/255") == (64 / 255, 0.5)
    assert parse_numbers("--sigmas", "0.12, 32/255") == (0.12, 32 / 255)
    for text in ("64/0", "a/b", "", "1/2/3", "0.5;0.25"):
        with pytest.raises(SettingError, match="--sigmas must be numbers separated by commas"):
            parse_numbers("--sigmas", text)
