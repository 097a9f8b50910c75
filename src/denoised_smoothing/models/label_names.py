"""The names of classes, as specs and files list them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from denoised_smoothing.files import expand_home, read_lines
from denoised_smoothing.text import escaped, fits

_NUMBERED = re.compile(r"(\d+)[\s:,;=]+(\S.*)")


def read_names(text: str, least: int = 2) -> tuple[str, ...]:
    """Return the names of a file, or those between commas, in the order of the classes.

    A file has a name on each line, or all on one line between commas; empty lines and those that
    begin with ``#`` are left out. Numbers in front of all names are those of the classes, from 0.
    A JSON file has a list, or a dictionary of numbers to names or of names to numbers.

    Raises:
        ValueError: there are fewer than ``least``; completes "labels must be".
    """
    few = "at least two " if least > 1 else ""
    form = f"{few}names between commas, or a file of UTF-8 with one a line or a list as JSON"
    path, names = expand_home(text), text.split(",")
    if len(names) == 1 or os.path.isfile(path):  # noqa: PTH113 (takes text of any length)
        lines = read_lines(path, form)
        try:
            names = _of_lines(lines)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{form} ({error})") from error
    found = tuple(name for part in names if (name := part.strip()))
    if len(found) < least:
        raise ValueError(form)
    return found if all(map(fits, found)) else tuple(map(escaped, found))


def _of_lines(lines: list[str]) -> list[str]:
    if lines and lines[0][0] in "[{":
        return _of_json(json.loads("\n".join(lines)))
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    numbers = {int(match[1]): match[2] for match in numbered if match}
    if len(lines) > 1 and sorted(numbers) == list(range(len(lines))):
        return [numbers[number] for number in range(len(lines))]
    return lines[0].split(",") if len(lines) == 1 else lines


def _of_json(held: object) -> list[str]:
    """Return the names of a list, of numbers to names, or of names to numbers."""
    if isinstance(held, Mapping):
        by_name = all(type(value) is int for value in held.values())
        pairs = ((value, key) if by_name else (key, value) for key, value in held.items())
        numbers = {int(number): name for number, name in pairs}
        if sorted(numbers) != list(range(len(numbers))):
            raise ValueError("its numbers must be 0, 1, 2, ...")
        held = [numbers[number] for number in range(len(numbers))]
    if not isinstance(held, list):
        raise ValueError("it is neither a list nor a dictionary")
    names = [" ".join(map(str, name)) if isinstance(name, list) else name for name in held]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name is no text")
    return names
