r"""text.py: any text can be stored in any encoding, and is the same when it is read."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from denoised_smoothing.text import (
    MARK,
    escaped,
    fits,
    loaded,
    shown,
    shown_values,
    stored,
    unescaped,
)

CHARSETS = ("utf-8", "ascii", "latin-1")
EVERY = st.text(st.characters(codec=None, exclude_categories=()))
"""All texts of Python, with lone surrogates and NUL."""
LIKE = st.text(st.sampled_from(["\\", "u", "{", "}", "0", "4", "c", "5", "\0", "\udce9", "é"]))
"""Texts that are nearly escapes."""
PARTS = st.lists(st.sampled_from([r"\u{41}", r"\u{5c}", MARK, "\0", "x", "\\"])).map("".join)
TEXTS = EVERY | LIKE | PARTS
charsets = pytest.mark.parametrize("charset", CHARSETS)


@charsets
@given(text=TEXTS)
@example(text=r"\u{41}")
@example(text="\\\0u{41}")
@example(text=r"\u{110000}")
@example(text="\ud83d\ude00")
def test_escaping_is_reversed(charset: str, text: str) -> None:
    assert unescaped(escaped(text, charset)) == text
    assert fits(escaped(text, charset), charset)


@charsets
@given(text=TEXTS)
@example(text=MARK)
@example(text=f"{MARK}\0")
def test_what_is_stored_is_loaded(charset: str, text: str) -> None:
    held = stored(text, charset)
    assert loaded(held) == text
    held.encode(charset)
    assert "\0" not in held


@given(one=TEXTS, other=TEXTS)
def test_different_texts_stay_different(one: str, other: str) -> None:
    for charset in CHARSETS:
        for rule in (escaped, stored):
            assert (rule(one, charset) == rule(other, charset)) == (one == other)


@given(text=TEXTS)
def test_an_escaped_name_is_stored_as_it_is(text: str) -> None:
    assert stored(escaped(text)) == escaped(text)


@pytest.mark.parametrize(
    "text",
    ["", "cat", "Café 猫 🐈", r"C:\users\u", r'{"label":"caf\u00e9","path":"a\\b"}', "a\nb\t{u}"],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert escaped(text) == stored(text) == shown(text) == text


@pytest.mark.parametrize(
    ("text", "charset", "expected"),
    [
        (os.fsdecode(b"caf\xe9.png"), "utf-8", r"caf\u{dce9}.png"),
        ("cat \ud83d", "utf-8", r"cat \u{d83d}"),
        ("cat\0", "utf-8", r"cat\u{0}"),
        ("é 猫", "latin-1", r"é \u{732b}"),
        ("é 🐈", "ascii", r"\u{e9} \u{1f408}"),
        (r"\u{41}", "utf-8", r"\u{5c}u{41}"),
    ],
)
def test_escapes(text: str, charset: str, expected: str) -> None:
    assert escaped(text, charset) == expected


def test_values_are_shown() -> None:
    values = {"a\ud83d": ["b\0", ("c", 1)], "d": None}
    assert shown_values(values) == {r"a\u{d83d}": [r"b\u{0}", ["c", 1]], "d": None}
