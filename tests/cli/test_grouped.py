"""Options that are generated from the fields of dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import pytest
import typer

from denoised_smoothing.cli.grouped import Take, command, option_group


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


_option = option_group("Output")


@dataclass(frozen=True)
class Made:
    colour: Colour = _option("A colour.", default=Colour.RED)
    size: int | None = _option("A size.", show_default="none", metavar="S")
    flag: bool = _option("A flag.", "--flag", default=False)
    several: list[str] = _option("Several.", default=[])


@dataclass(frozen=True)
class Metadata:
    steps: int = field(default=3, metadata={"help": "Steps.", "least": 1})
    renamed: str = field(default="x", metadata={"help": "Renamed.", "flags": ("--other",)})
    inner: int = 7


@dataclass(frozen=True)
class Mixed:
    device: str = option_group("Speed")("A device.", default="cpu")
    n: int = option_group("Copies")("Copies.", default=1)


@pytest.fixture
def calls() -> list[dict[str, Any]]:
    return []


def run(made: Any, *arguments: str) -> None:
    made.main(list(arguments), standalone_mode=False)


def options(made: Any) -> dict[str, Any]:
    return {parameter.name: parameter for parameter in made.params}


def test_a_field_becomes_an_option_and_is_filled(calls: list[dict[str, Any]]) -> None:
    @command()
    def paint(
        place: Annotated[str, typer.Argument(help="A place.")], group: Made, n: int = 1
    ) -> None:
        """Paint."""
        calls.append({"place": place, "group": group, "n": n})

    assert (paint.name, paint.help) == ("paint", "Paint.")
    size = options(paint)["size"]
    assert (size.help, size.metavar, size.show_default) == ("A size.", "S", "none")
    assert size.rich_help_panel == "Output"
    assert options(paint)["several"].multiple
    run(paint, "here")
    assert calls.pop() == {"place": "here", "group": Made(), "n": 1}
    run(paint, "here", "--colour", "blue", "--size", "4", "--flag", "--several", "a", "--n", "2",
        "--several", "b")  # fmt: skip
    expected = Made(Colour.BLUE, 4, flag=True, several=["a", "b"])
    assert calls.pop() == {"place": "here", "group": expected, "n": 2}


def test_metadata_of_another_room_describe_options(calls: list[dict[str, Any]]) -> None:
    @command("go")
    def _(group: Annotated[Metadata, Take(panel="Training")]) -> None:
        """Go."""
        calls.append({"group": group})

    made = _
    assert made.name == "go"
    assert list(options(made)) == ["steps", "renamed"]
    assert options(made)["steps"].rich_help_panel == "Training"
    run(made, "--steps", "5", "--other", "y")
    assert calls.pop() == {"group": Metadata(5, "y")}


def test_options_are_in_the_order_of_their_groups() -> None:
    @command()
    def mixed(group: Mixed, place: Annotated[str, typer.Argument(help="A place.")]) -> None:
        """Mixed."""

    assert list(options(mixed)) == ["place", "n", "device"]


def test_a_command_takes_some_fields_and_requires_some(calls: list[dict[str, Any]]) -> None:
    @command()
    def some(group: Annotated[Made, Take(("size", "flag"), required=("size",))]) -> None:
        """Some."""
        calls.append({"group": group})

    assert list(options(some)) == ["size", "flag"]
    assert options(some)["size"].required
    run(some, "--size", "2")
    assert calls.pop() == {"group": Made(size=2)}

    @command()
    def others(
        group: Annotated[Made, Take(without=("flag", "several"), defaults={"size": 7})],
    ) -> None:
        """Others."""
        calls.append({"group": group})

    assert list(options(others)) == ["colour", "size"]
    run(others)
    assert calls.pop() == {"group": Made(size=7)}
