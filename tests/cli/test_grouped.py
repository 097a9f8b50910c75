"""Options that are generated from the fields of dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import pytest
import typer

from denoised_smoothing.cli.grouped import Take, command


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Annotations:
    colour: Annotated[Colour, typer.Option(help="A colour.")] = Colour.RED
    size: Annotated[int | None, typer.Option(help="A size.", rich_help_panel="Sizes")] = None
    flag: Annotated[bool, typer.Option("--flag", help="A flag.")] = False
    several: Annotated[list[str], typer.Option(help="Several.")] = field(default_factory=list)


@dataclass(frozen=True)
class Metadata:
    steps: int = field(default=3, metadata={"help": "Steps.", "least": 1})
    rate: float | None = field(
        default=None, metadata={"help": "A rate.", "show_default": "none", "metavar": "R"}
    )
    renamed: str = field(default="x", metadata={"help": "Renamed.", "flag": "--other"})
    inner: int = 7


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
        place: Annotated[str, typer.Argument(help="A place.")], group: Annotations, n: int = 1
    ) -> None:
        """Paint."""
        calls.append({"place": place, "group": group, "n": n})

    assert (paint.name, paint.help) == ("paint", "Paint.")
    assert options(paint)["size"].rich_help_panel == "Sizes"
    assert options(paint)["several"].multiple
    run(paint, "here")
    assert calls.pop() == {"place": "here", "group": Annotations(), "n": 1}
    run(paint, "here", "--colour", "blue", "--size", "4", "--flag", "--several", "a", "--n", "2",
        "--several", "b")  # fmt: skip
    expected = Annotations(Colour.BLUE, 4, flag=True, several=["a", "b"])
    assert calls.pop() == {"place": "here", "group": expected, "n": 2}


def test_metadata_describe_options_as_well(calls: list[dict[str, Any]]) -> None:
    @command("go")
    def _(group: Annotated[Metadata, Take(panel="Training")]) -> None:
        """Go."""
        calls.append({"group": group})

    made = _
    assert made.name == "go"
    assert list(options(made)) == ["steps", "rate", "renamed"]
    rate = options(made)["rate"]
    assert (rate.help, rate.metavar, rate.show_default) == ("A rate.", "R", "none")
    assert rate.rich_help_panel == "Training"
    run(made, "--steps", "5", "--other", "y")
    assert calls.pop() == {"group": Metadata(5, None, "y")}


def test_a_command_takes_some_fields_and_requires_some(calls: list[dict[str, Any]]) -> None:
    @command()
    def some(group: Annotated[Annotations, Take(("size", "flag"), required=("size",))]) -> None:
        """Some."""
        calls.append({"group": group})

    assert list(options(some)) == ["size", "flag"]
    assert options(some)["size"].required
    run(some, "--size", "2")
    assert calls.pop() == {"group": Annotations(size=2)}

    @command()
    def others(group: Annotated[Annotations, Take(without=("size", "flag"))]) -> None:
        """Others."""

    assert list(options(others)) == ["colour", "several"]
