"""Odd answers of every vendor through its real SDK: no traceback, and no label from a non-answer.

``FAULTS=10`` sends ten times as many.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fake import FakeVendor
from test_faults import ask
from vendors import CASES, Case, prepare

from denoised_smoothing.remote.client import QueryClient
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import MemoryLog
from denoised_smoothing.remote.records import Outcome

ANSWERS = 200 * int(os.environ.get("FAULTS", "1"))
LABELS = ("cat", "dog")
ENDS = (Outcome.ANSWERED, Outcome.GARBLED, Outcome.FAILED, Outcome.REJECTED, Outcome.THROTTLED)
RAW = ("1e400", "-1e400", "NaN", "Infinity", "-0", "1" * 5000, "[" * 5000, '"\\ud83d"', '"\\u0000"')
"""JSON that Python's own writer does not write."""


class Raw(str):
    """Stands in an answer for a text of JSON."""


def value(source: random.Random, depth: int = 0) -> Any:
    """A JSON value of any kind."""
    kind = source.randrange(11 if depth < 3 else 8)
    if kind == 0:
        return None
    if kind == 1:
        return source.random() < 0.5
    if kind == 2:
        return source.choice((0, -1, 1, 2**31, 2**63, -(2**64), 10**40))
    if kind == 3:
        return source.choice((0.0, -1.5, 1e308, 5e-324, 0.9))
    if kind in (4, 5):
        length = source.choice((0, 1, 2, 10, 5000))
        return "".join(chr(source.randrange(0x110000)) for _ in range(length))
    if kind == 6:
        return Raw(source.choice(RAW))
    if kind == 7:
        return source.choice(
            ("", " ", "-1", "nan", "null", "cat ", "{}", "<think>", '{"label": "cat"')
        )
    if kind in (8, 9):
        return [value(source, depth + 1) for _ in range(source.randrange(4))]
    return {str(value(source, 9)): value(source, depth + 1) for _ in range(source.randrange(4))}


def places(answer: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object of an answer with every key of it."""
    keys = list(answer) if isinstance(answer, dict) else range(len(answer))
    for key in keys:
        yield answer, key
        if isinstance(answer[key], (dict, list)):
            yield from places(answer[key])


def changed(answer: Any, source: random.Random) -> bytes:
    """The body of an answer of which a few places are changed, removed or doubled."""
    root = [copy.deepcopy(answer)]
    for _ in range(source.randint(1, 3)):
        spots = list(places(root))
        if not spots:
            break
        held, key = source.choice(spots)
        way = source.randrange(5)
        if way == 0 and held is not root:
            del held[key]
        elif way == 1:
            held[key] = [held[key], held[key]]
        elif way == 2 and isinstance(held, dict):
            held[str(value(source, 9))] = held[key]
        else:
            held[key] = value(source)
    text = written(root[0]) if root else ""
    end = source.randrange(20)
    if end == 0:
        return text.encode("utf-8", "surrogatepass")[: source.randrange(len(text) + 1)]
    if end == 1:
        return text.encode("utf-16", "surrogatepass")
    if end == 2:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    if end == 3:
        return bytes(source.randrange(256) for _ in range(source.randrange(50)))
    return text.encode("utf-8", "surrogatepass")


def written(answer: Any) -> str:
    """JSON, with raw texts as they are."""
    if isinstance(answer, Raw):
        return str(answer)
    if isinstance(answer, dict):
        inner = (f"{json.dumps(str(key))}:{written(each)}" for key, each in answer.items())
        return "{" + ",".join(inner) + "}"
    if isinstance(answer, list):
        return "[" + ",".join(map(written, answer)) + "]"
    return json.dumps(answer)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_odd_answers_end_in_a_label_or_in_none(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ClientSettings(
        in_flight=8, rate=None, timeout=30.0, attempts=1, patience=1e6, first_wait=1e-3
    )
    log, source = MemoryLog(), random.Random(case.name)
    with FakeVendor() as fake:
        vendor = prepare(monkeypatch, case, fake.url)
        # A changed version would rightly end the run.
        reply = vendor.reply
        monkeypatch.setattr(vendor, "reply", lambda answer: replace(reply(answer), version=None))
        vendor.connect(timeout=settings.timeout, in_flight=settings.in_flight)
        client = QueryClient(vendor, AnswerRule(allowed=LABELS), log, settings)
        try:
            assert ask(client, [0])[0].result(30) in LABELS
            fake.body = lambda answer: changed(answer, source)
            found = [future.result(60) for future in ask(client, range(1, ANSWERS + 1))]
        finally:
            client.close()
            vendor.close()
    assert set(found) <= {*LABELS, None}
    assert None in found
    last = {attempt.key: attempt for attempt in log.history() if attempt.final}
    assert len(last) == ANSWERS + 1
    for attempt in last.values():
        assert attempt.outcome in ENDS
        text = attempt.answer or ""
        text.encode()  # can be stored
        assert len(text) < 2**20
        if attempt.label is not None:
            assert f'"{attempt.label}' in text or f'\\"{attempt.label}' in text
