"""The label in what a chat model writes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from denoised_smoothing.remote.vendors.chat import LONGEST, named_label

KNOWN = {"cat": "cat", "dog": "dog", "golden retriever": "Golden Retriever"}


@pytest.mark.parametrize(
    "content",
    [
        '{"label": "cat"}',
        ' {"label": " CAT "}\n',
        '```json\n{"label": "cat"}\n```',
        '```\n{"label": "cat"}\n```',
        "```cat```",
        'Sure! Here is the answer:\n{"label": "cat"}\nI am certain.',
        '<think>a dog? {"label": "dog"} no</think>{"label": "cat"}',
        '<Thinking>dog</Thinking>\n\n```json\n{"label": "cat"}\n```',
        'a dog? {"label": "dog"} no</think>{"label": "cat"}',  # the server omits the beginning
        '<think>one</think> <think>{"label": "dog"}</think> cat',
        '{"label": ["cat"]}',
        '{"labels": ["cat"]}',
        '["cat"]',
        '"cat"',
        "cat",
        "**Cat**.",
        "'cat'",
        '{"reason": "it purrs", "label": "cat"}',
        '{"answer": {"label": "cat"}}',
        '{"reason": {"score": 1}} {"label": "cat"}',
        '{"label": "cat"} {"label": "Cat"}',
        '{{{ {\'a\'} {"label": "cat"}',
        [{"type": "text", "text": '{"label": '}, {"type": "text", "text": '"cat"}'}],
    ],
)
def test_the_label_is_found(content: Any) -> None:
    assert named_label(content, KNOWN) == "cat"


def test_it_has_the_name_of_the_list() -> None:
    assert named_label('{"label": "golden  RETRIEVER"}', KNOWN) == "Golden Retriever"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        7,
        True,
        [],
        [None, "cat", {"type": "image"}],
        '{"label": NaN}',
        '{"label": true}',
        '{"label": 1}',
        '{"label": null}',
        '{"label": ""}',
        '{"label": []}',
        '{"label": ["cat", "dog"]}',
        '{"label": ["cat", 1]}',
        '{"label": {"cat": 1}}',
        '{"label": "horse"}',
        '{"label": "cat"} or {"label": "dog"}',
        '{"label": "cat"} or {"label": "horse"}',
        '{"label": "cat',
        "It is not a cat.",
        "cat or dog",
        '<think>{"label": "cat"}',
        '<think>{"label": "cat"}</think>',
        "I cannot say.",
        "null",
        "{}",
    ],
)
def test_anything_else_is_no_label(content: Any) -> None:
    assert named_label(content, KNOWN) is None


@pytest.mark.parametrize(
    "text", ["{", "[", '{"label":', '{"a":{"a":', "<think>", "</think>", "``` "]
)
def test_a_long_answer_takes_little_time(text: str) -> None:
    began = time.monotonic()
    assert named_label(text * 100_000, KNOWN) is None
    assert named_label(text * LONGEST + '{"label": "cat"}', KNOWN) in ("cat", None)
    assert time.monotonic() - began < 20
