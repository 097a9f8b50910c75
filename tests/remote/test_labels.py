from __future__ import annotations

import pytest

from denoised_smoothing.remote.labels import AnswerRule, Scored, normalised


@pytest.mark.parametrize(
    ("scored", "label"),
    [
        ([], None),
        ([Scored("Dog", 0.9), Scored("cat", 0.8)], "dog"),
        ([Scored("dog", 0.9), Scored("cat", 0.9)], "cat"),  # equal: by alphabet
        ([Scored("animal", 0.9), Scored("dog", 0.9, depth=2)], "dog"),  # the more specific one
        ([Scored("animal", 0.91), Scored("dog", 0.9, depth=2)], "animal"),
    ],
)
def test_the_top_label(scored: list[Scored], label: str | None) -> None:
    assert AnswerRule().label(scored) == label
    assert AnswerRule().label(reversed(scored)) == label


@pytest.mark.parametrize(
    ("name", "plain"),
    [(" Golden\n Retriever ", "golden retriever"), ("ＣＡＴ", "cat"), ("ß", "ss")],
)
def test_names_are_compared_in_one_form(name: str, plain: str) -> None:
    assert normalised(name) == plain == normalised(plain)


def test_synonyms_and_allowed_labels() -> None:
    rule = AnswerRule({"Automobile": "Car", "Canine": "dog"}, ["CAR", "dog"])
    assert rule.allowed == ("car", "dog")
    assert rule.label([Scored("AUTOMOBILE", 0.5)]) == "car"
    assert rule.label([Scored("tree", 0.9), Scored("canine", 0.5)]) == "dog"
    assert rule.label([Scored("tree", 0.9)]) is None
