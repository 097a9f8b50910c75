from __future__ import annotations

from itertools import islice, permutations

import pytest

from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.labels import (
    FIRST_NUMBER,
    AnswerRule,
    Scored,
    normalised,
    numbers_of,
)
from denoised_smoothing.remote.vendors.simulated import Simulated


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


def test_the_number_of_a_label_does_not_depend_on_the_order() -> None:
    for names in permutations(["zebra", "7", "1", "cat \N{CAT FACE}", "dog"]):
        remote = RemoteClassifier(Simulated())
        remote.expect(["cat", "dog"])
        found = {name: remote.number(name) for name in names}
        assert (found["dog"], found["7"]) == (1, 7)
        assert found["1"] > FIRST_NUMBER  # not that of the class 1, which is dog
        assert found["zebra"] == next(numbers_of("zebra"))
        known = {number: name for name, number in found.items()}
        assert remote.label_names == known | {0: "cat"}
        assert len(known) == len(names)


def test_numbers_are_hashes_that_json_keeps() -> None:
    first, second = islice(numbers_of("cat"), 2)
    assert FIRST_NUMBER <= first < 2 * FIRST_NUMBER < 2**53
    assert second == first + 1
    assert next(numbers_of("07")) > FIRST_NUMBER
    assert next(numbers_of("9" * 18)) > FIRST_NUMBER
    assert next(numbers_of("cat")) == first


def test_a_label_whose_number_is_taken_gets_another_one() -> None:
    remote, (first, second) = RemoteClassifier(Simulated()), islice(numbers_of("cat"), 2)
    remote.learn({first: "dog"})
    assert remote.number("cat") == second
    assert remote.number(None) == -1
