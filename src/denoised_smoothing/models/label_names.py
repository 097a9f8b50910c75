"""The names of classes, as specs and files list them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

_FORM = "at least two names between commas, or a file of UTF-8 with one a line or a list as JSON"
_NUMBERED = re.compile(r"(\d+)[\s:,;=]+(\S.*)")


def read_names(text: str) -> tuple[str, ...]:
    """Return names between commas, or those of a file, in the order of the classes.

    A file has a name on each line, or all on one line between commas. Numbers in front of all
    names are those of the classes, from 0. A JSON file has a list, or a dictionary of numbers to
    names or of names to numbers.

    Raises:
        ValueError: there are fewer than two; completes "labels must be".
    """
    path = Path(text).expanduser()
    names = text.split(",")
    if len(names) == 1:
        if not path.is_file():
            raise ValueError(f"{_FORM}; there is no such file")
        try:
            names = _of_file(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{_FORM} ({error})") from error
    found = tuple(name for part in names if (name := part.strip()))
    if len(found) < 2:
        raise ValueError(_FORM)
    return found


def _of_file(content: str) -> list[str]:
    if content.lstrip()[:1] in ("[", "{"):
        return _of_json(json.loads(content))
    lines = [line.strip() for line in content.splitlines() if line.strip()]
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
