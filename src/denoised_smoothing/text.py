r"""Text from outside, as text that can be stored.

A file name need not be UTF-8: Python then reads its bytes as lone surrogates. Valid JSON may hold
half of a surrogate pair. No encoding has these, databases in LATIN1 lack most characters, and
PostgreSQL lacks NUL. Here such characters are written as ``\u{HEX}``, by rules that can be reversed
and leave ordinary text as it is:

- :func:`escaped` and :func:`unescaped`: names that the program uses, such as image ids.
- :func:`stored` and :func:`loaded`: what is written to a database and read from it.
- :func:`shown`: text for messages and pages. It cannot be reversed.
"""

from __future__ import annotations

import re
from typing import Any

MARK = r"\u{}"
"""Begins a stored text that was escaped; :func:`escaped` never writes it."""
_ESCAPE = re.compile(r"\\u\{(10[0-9a-f]{4}|[0-9a-f]{1,5})\}")
_LIKE = re.compile(rf"{_ESCAPE.pattern}|{re.escape(MARK)}")


def fits(text: str, charset: str = "utf-8") -> bool:
    """Return whether a text has neither NUL nor a character that an encoding lacks.

    Args:
        charset: the encoding, by its name in Python; one that has ASCII.
    """
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def escaped(text: str, charset: str = "utf-8") -> str:
    r"""Return the text with ``\u{HEX}`` for NUL and for each character that an encoding lacks.

    A backslash in front of what looks like such a sequence becomes ``\u{5c}``, so that different
    texts stay different. All other text is unchanged.
    """
    return shown(_LIKE.sub(lambda found: rf"\u{{5c}}{found[0][1:]}", text), charset)


def unescaped(text: str) -> str:
    """Return the text that :func:`escaped` was given, with any encoding."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def stored(text: str, charset: str = "utf-8") -> str:
    """Return a text for a database in this encoding; :func:`loaded` reverses it.

    Text that the database can hold is unchanged, also if it was escaped before.
    """
    if fits(text, charset) and not text.startswith(MARK):
        return text
    return MARK + escaped(text, charset)


def loaded(text: str) -> str:
    """Return the text that :func:`stored` was given, with any encoding."""
    return unescaped(text.removeprefix(MARK)) if text.startswith(MARK) else text


def shown(text: str, charset: str = "utf-8") -> str:
    r"""Return the text to show, with ``\u{HEX}`` for what an encoding lacks, and for NUL."""
    if fits(text, charset):
        return text
    return "".join(each if fits(each, charset) else rf"\u{{{ord(each):x}}}" for each in text)


def shown_values(value: Any) -> Any:
    """Return plain values (of dicts, lists, tuples) with every text as :func:`shown`."""
    if isinstance(value, dict):
        return {shown_values(key): shown_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [shown_values(each) for each in value]
    return shown(value) if isinstance(value, str) else value
