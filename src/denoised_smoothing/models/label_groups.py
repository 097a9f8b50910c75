"""Groups of labels from a file, and the shipped groups of ImageNet's classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from denoised_smoothing.certificates.groups import DEFAULT_LEVEL, Groups, check_nested
from denoised_smoothing.errors import SettingError
from denoised_smoothing.files import expand_home, read_lines
from denoised_smoothing.models.labels import (
    LabelIndex,
    imagenet_classes,
    is_number,
    label_number,
)
from denoised_smoothing.models.shipped import shipped_folder

IMAGENET = "imagenet"
"""Name of the shipped groups."""
FORM = (
    "'imagenet', or a file with lines 'GROUP = LABEL, LABEL' or the same as JSON; labels are names "
    "or numbers, and 3-7 is a range"
)
_Names = Mapping[int, str] | Sequence[str] | None
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


def read_groups(text: str, labels: _Names = None) -> tuple[Groups, ...]:
    """Return the levels of groups of a file, from fine to coarse, or the shipped ``imagenet``.

    A line is ``GROUP = LABEL, LABEL``, with ``;`` instead of ``,`` where names have commas. A line
    ``[LEVEL]`` begins a level, and ``#`` a comment. JSON is an object of groups to lists of
    labels, or of levels to such objects.

    Args:
        text: ``imagenet``, or the path of a UTF-8 file.
        labels: names of the classifier's labels, by number; None or empty if unknown. Where some
            numbers have no name, as for a remote classifier, any other number may be a label.

    Raises:
        SettingError: the file cannot be read, a label does not exist, groups of one level share a
            label, levels are not nested, or the classifier does not have ImageNet's classes.
    """
    names, path = _complete(labels), expand_home(text)
    if text == IMAGENET:
        _check_imagenet(names)
        path = shipped_folder("imagenet_groups.txt")
    try:
        lines = read_lines(path, FORM)
    except ValueError as error:
        raise SettingError(f"--groups must be {error}, got {text!r}.") from error
    try:
        is_json = bool(lines) and lines[0].startswith("{")
        held = _of_json("\n".join(lines)) if is_json else _of_lines(lines)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"--groups must be {FORM}, got {text!r}: {error}.") from error
    return check_nested(
        Groups(
            {
                group: [number for each in members for number in _numbers(each, names)]
                for group, members in groups.items()
            },
            level,
        )
        for level, groups in held.items()
    )


def _of_lines(lines: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    levels, level = dict[str, dict[str, list[Any]]](), DEFAULT_LEVEL
    for line in lines:
        if line.startswith("[") and line.endswith("]"):
            level = line[1:-1].strip()
            continue
        name, equals, members = map(str.strip, line.partition("="))
        if not equals or name in levels.setdefault(level, {}):
            raise ValueError(f"{line!r} is no group, or a second one of its name")
        parts = members.split(";" if ";" in members else ",")
        levels[level][name] = [part for each in parts if (part := each.strip())]
    return levels


def _of_json(text: str) -> dict[str, dict[str, list[Any]]]:
    held = json.loads(text)
    if not all(isinstance(value, dict) for value in held.values()):
        held = {DEFAULT_LEVEL: held}
    for name, members in [pair for groups in held.values() for pair in groups.items()]:
        if not isinstance(members, list) or not all(type(each) in (int, str) for each in members):
            raise ValueError(f"the group {name!r} has no list of labels")
    return dict(held)


def _numbers(member: int | str, names: _Names) -> list[int]:
    """Return the labels that an entry of a group stands for."""
    if isinstance(member, str) and (found := _RANGE.fullmatch(member)):
        first, last = int(found[1]), int(found[2])
        ends = (_number(end, names) for end in (first, last))
        return list(range(next(ends), next(ends) + 1))
    return [_number(member, names)]


def _number(member: int | str, names: _Names) -> int:
    """Return the number of a label; where only some names are known, any number may be one."""
    if not isinstance(names, Mapping):
        return label_number(member, names, "--groups")
    known = list(names.values())
    if isinstance(member, int) or (is_number(member) and not all(map(is_number, known))):
        return label_number(int(member), None, "--groups")
    return list(names)[label_number(member, known, "--groups")]


def _complete(labels: _Names) -> _Names:
    """Return names as a list if every number from 0 on has one."""
    if not labels:
        return None
    if not isinstance(labels, Mapping):
        return list(labels)
    numbers = range(len(labels))
    return [labels[n] for n in numbers] if all(n in labels for n in numbers) else labels


def _check_imagenet(names: _Names) -> None:
    """Refuse the shipped groups where labels are not the 1,000 classes in the usual order."""
    known = imagenet_classes()
    index = LabelIndex([" ".join((wordnet, *names[:1])) for wordnet, names in known.items()])
    named = names if isinstance(names, Mapping) else dict(enumerate(names or ()))
    fitting = sum(number in index.find(name) for number, name in named.items())
    if fitting < 0.9 * len(known) or named.keys() != set(range(len(known))):
        raise SettingError(
            "--groups imagenet needs a classifier of ImageNet's 1,000 classes in the usual order, "
            f"got one of {len(named)} named labels of which {fitting} fit. Write a file with "
            "your own groups."
        )
