"""From the text that a chat model writes to the one label that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from denoised_smoothing.models.labels import normalised

LONGEST = 4_000
"""Characters of an answer that are read, the last ones: a label is at its end."""
_THOUGHTS = r"(?:think|thinking|thought|thoughts|reasoning|reflection)"
_BEGIN, _END = (re.compile(rf"<{slash}{_THOUGHTS}>", re.IGNORECASE) for slash in ("", "/"))
_AROUND = " \t\r\n`'\"*_.:,;!"
"""Characters around a label that stands alone."""
_DECODER = json.JSONDecoder()


def named_label(content: object, known: Mapping[str, str]) -> str | None:
    """Return the label that an answer names; None if it names none, or several.

    The label is in a JSON object ``{"label": ...}``, as text or as a list of one, alone or with
    other text or a code fence around it; or the answer is the label. Thoughts in front of the
    answer (``<think>...</think>``) do not count.

    Args:
        content: text, or a list of parts with a ``text``.
        known: the labels by their normalised names.
    """
    text = _without_thoughts(_text(content))[-LONGEST:]
    found = {known.get(normalised(name)) for name in _candidates(text)}
    return found.pop() if len(found) == 1 else None


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _without_thoughts(text: str) -> str:
    """Return what follows the thoughts; some servers omit where they begin."""
    return _BEGIN.split(_END.split(text)[-1])[0]


def _candidates(text: str) -> Iterator[str]:
    """Yield the names in the JSON objects of a text or, without one, the text itself."""
    values = list(_labels_in(text)) or [_alone(text)]
    for value in values:
        yield from _names(value)


def _alone(text: str) -> Any:
    """Return the value of a text that is JSON or a label, with or without a code fence."""
    inner = re.sub(r"^\s*```(?:\w*\n)?|```\s*$", "", text)
    try:
        return json.loads(inner)
    except (ValueError, RecursionError):
        return inner.strip(_AROUND)


def _names(value: object) -> Iterator[str]:
    """Yield a text, or those of a list; whatever else stands there is no label."""
    for each in value if isinstance(value, list) else [value]:
        yield each if isinstance(each, str) else ""


def _labels_in(text: str) -> Iterator[Any]:
    """Yield the labels of all JSON objects in a text that have any."""
    place = text.find("{")
    while place >= 0:
        try:
            value, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            value, end = {}, place + 1
        found = [value[name] for name in ("label", "labels") if name in value]
        yield from found
        place = text.find("{", end if found else place + 1)
