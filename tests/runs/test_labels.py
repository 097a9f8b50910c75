"""runs/labels.py: the labels of data as numbers of a classifier, and as a run setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.vendors.http import HttpEndpoint
from denoised_smoothing.runs.labels import as_setting, matched

DATA = ImageDataset(
    name="made",
    fingerprint="f",
    image_ids=["0", "1", "2"],
    read=lambda index: np.zeros((1, 2, 2), np.float32),
    labels=[0, 1, 2],
    label_names=("Dog", "cat", "wolf"),
)


def remote(**rule: Any) -> RemoteClassifier:
    return RemoteClassifier(HttpEndpoint("http://127.0.0.1:1/x", "label"), AnswerRule(**rule))


class TestOpenVocabulary:
    @pytest.mark.parametrize("key", ["Dog", "dog", "DOG", 0])
    def test_a_chosen_name_is_part_of_the_setting(self, key: str | int) -> None:
        given = {key: "Canine"}
        match = matched(DATA, remote(), given)
        assert match.names == ("canine", "cat", "wolf")
        assert match.labels([0, 1, 2]) == [0, 1, 2]
        chosen = {"Dog": "canine", "cat": "cat", "wolf": "wolf"}
        assert as_setting(match, DATA, given) == {"labels": chosen}

    def test_nothing_chosen_is_no_setting(self) -> None:
        assert as_setting(matched(DATA, remote()), DATA, None) == {}

    def test_names_of_the_data_stay_as_they_are(self) -> None:
        assert matched(DATA, remote(synonyms={"dog": "cat", "cat": "x"})).names == DATA.label_names

    def test_classes_may_share_a_name(self) -> None:
        assert matched(DATA, remote(), {"dog": "wolf"}).labels([0, 1, 2]) == [0, 1, 0]

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"dgo": "canine"}, "class 'dgo', which the data does not have"),
            ({3: "canine"}, "class 3, which the data does not have"),
            ({"dog": 1}, "label 1 for the class 'Dog', but .* any name. Give the name"),
            ({"dog": "a", "Dog": "b"}, "gives the class 'Dog' two labels, 'a' and 'b'"),
        ],
    )
    def test_refuses(self, given: dict[Any, Any], said: str) -> None:
        with pytest.raises(SettingError, match=said):
            matched(DATA, remote(), given)


def test_a_synonym_joins_classes() -> None:
    """Also if the classes and labels are numbers then."""
    classifier = remote(synonyms={"dog": "wolf"}, allowed=["cat", "wolf"])
    assert matched(DATA, classifier).labels([0, 1, 2]) == [1, 0, 1]
    classifier = remote(synonyms={"dog": "1", "cat": "3", "wolf": "3"}, allowed=["3", "1"])
    assert matched(DATA, classifier).labels([0, 1, 2]) == [1, 0, 0]


def test_given_classes_are_named_as_in_the_data() -> None:
    """Also where a synonym stands for them."""
    classifier = remote(synonyms={"dog": "canine"}, allowed=["canine", "cat", "wolf"])
    assert matched(DATA, classifier).labels([0, 1, 2]) == [0, 1, 2]
    assert matched(DATA, classifier, {"dog": "wolf"}).labels([0, 1, 2]) == [2, 1, 2]
    assert as_setting(matched(DATA, classifier, {"dog": "wolf"}), DATA, {"dog": "wolf"}) == {
        "labels": {"Dog": 2, "cat": 1, "wolf": 2}
    }
