"""Commands that take dataclasses: an option is written once, as the field that it sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ParameterInfo


@dataclass(frozen=True)
class Take:
    """Choose the fields of a dataclass that are options of a command.

    Args:
        only: their names; none for all fields that describe an option.
        without: those that are no options of this command.
        required: those without a default in this command.
        panel: group of the options in the help, where the fields name none.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    panel: str | None = None


def command(
    name: str | None = None, cls: type[TyperCommand] | None = None
) -> Callable[[Callable[..., None]], TyperCommand]:
    """Make a command of a function; its parameters that are dataclasses become options.

    A field is an option if its annotation holds a ``typer.Option``, or its metadata a ``help``.
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
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, about = hints[field.name], dict(field.metadata)
        if field.name in take.without or (take.only and field.name not in take.only):
            continue
        if not any(isinstance(mark, ParameterInfo) for mark in get_args(hint)):
            if "help" not in about:
                continue
            flags = [about["flag"]] if "flag" in about else []
            known = ("help", "metavar", "show_default")
            texts = {key: about[key] for key in known if key in about}
            hint = Annotated[hint, typer.Option(*flags, rich_help_panel=take.panel, **texts)]
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        if default is MISSING or field.name in take.required:
            default = inspect.Parameter.empty
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
        )
