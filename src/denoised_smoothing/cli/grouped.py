"""Commands that take dataclasses: an option is written once, as the field that it sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from denoised_smoothing.cli.options import LENGTH

PANELS = (
    "Data and model", "Training", "Copies", "Prediction sets", "Time and cost", "Output", "Limits",
    "Access", "Speed", "Paid queries", "Cluster",
)  # fmt: skip
"""The groups of options, in the order of the help."""


@dataclass(frozen=True)
class Take:
    """Choose the fields of a dataclass that are options of a command.

    Args:
        only: their names; none for all fields that describe an option.
        without: those that are no options of this command.
        required: those without a default in this command.
        defaults: those with another default in this command.
        panel: group of the options in the help, where the fields name none.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    panel: str | None = None


def option_group(panel: str) -> Callable[..., Any]:
    """Return a function that makes fields which are options of a group of the help.

    Its arguments are the help, the flags if they are not the name of the field, the default, and
    keywords of ``typer.Option``. ``length=True`` reads a fraction such as 64/255, too.
    """

    def option(help: str, *flags: str, default: Any = None, **more: Any) -> Any:
        about = {"help": help, "flags": flags, "rich_help_panel": panel, **more}
        if isinstance(default, list):
            return field(default_factory=default.copy, metadata=about)
        return field(default=default, metadata=about)

    return option


def command(
    name: str | None = None, cls: type[TyperCommand] | None = None
) -> Callable[[Callable[..., None]], TyperCommand]:
    """Make a command of a function; its parameters that are dataclasses become options.

    A field is an option if its metadata hold a ``help``.
    ``Annotated[ModelOptions, Take(("device",))]`` takes some of the fields.
    """

    def decorate(function: Callable[..., None]) -> TyperCommand:
        options: list[inspect.Parameter] = []
        groups: dict[str, tuple[type[Any], list[str]]] = {}
        hints = get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            hint = hints[parameter.name]
            kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            if isinstance(kind, type) and is_dataclass(kind):
                made = list(_options(kind, *marks))
                groups[parameter.name] = kind, [option.name for option in made]
                options += made
            else:
                options.append(parameter.replace(annotation=hint, kind=parameter.KEYWORD_ONLY))
        options.sort(key=_place)

        def call(**given: Any) -> None:
            for parameter, (kind, names) in groups.items():
                given[parameter] = kind(**{name: given.pop(name) for name in names})
            function(**given)

        call.__doc__ = function.__doc__
        call.__annotations__ = {option.name: option.annotation for option in options}
        call.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        program.command(name or function.__name__.replace("_", "-"), cls=cls)(call)
        return cast(TyperCommand, typer.main.get_command(program))

    return decorate


def _options(kind: type[Any], take: Take = Take()) -> Iterator[inspect.Parameter]:
    """Yield the parameters of a command that the fields of a dataclass stand for."""
    hints, known = get_type_hints(kind, include_extras=True), inspect.signature(typer.Option)
    for held in fields(kind):
        about = {"rich_help_panel": take.panel, **held.metadata}
        unused = held.name in take.without or (take.only and held.name not in take.only)
        if unused or "help" not in about:
            continue
        texts = {key: about[key] for key in known.parameters.keys() & about}
        if about.get("length"):
            texts |= LENGTH
        default = take.defaults.get(held.name, held.default)
        if held.default_factory is not MISSING:
            default = held.default_factory()
        if default is MISSING or held.name in take.required:
            default = inspect.Parameter.empty
        yield inspect.Parameter(
            held.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[hints[held.name], typer.Option(*about.get("flags", ()), **texts)],
        )


def _place(option: inspect.Parameter) -> int:
    """Return the place of an option in the help; arguments come first."""
    panels = [getattr(mark, "rich_help_panel", None) for mark in get_args(option.annotation)]
    return next((PANELS.index(panel) for panel in panels if panel), -1)
