"""models/labels.py: classes of data and labels of a classifier are matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from denoised_smoothing.errors import DatasetError, SettingError
from denoised_smoothing.models.labels import (
    LabelIndex,
    imagenet_classes,
    match_labels,
)

IMAGENET = list(imagenet_classes())
NAMES = [names[0] for names in imagenet_classes().values()]
"""The first names of the classes of ImageNet, as torchvision has them but for the crane bird."""


def numbers(
    classes: Sequence[str] | None, labels: Sequence[str] | None, given: dict[str, str] | None = None
) -> list[int | None]:
    """The classifier's numbers of all classes of the data."""
    count = len(classes or labels or ())
    return match_labels(classes, range(count), labels, given).labels(range(count))


class TestByName:
    def test_the_order_does_not_matter(self) -> None:
        assert numbers(("blue", "green", "red"), ("red", "green", "blue")) == [2, 1, 0]

    def test_a_subset_of_the_classes_is_enough(self) -> None:
        assert numbers(("blue", "red"), ("red", "green", "blue")) == [2, 0]

    @pytest.mark.parametrize(
        "name",
        ["african elephant", "African_elephant", "AFRICAN  ELEPHANT", "AfricanElephant",
         "african-elephant", "n02504458", "n02504458_African_elephant", "n02504458-African",
         "African elephant (n02504458)", "African elephant, Loxodonta africana"],
    )  # fmt: skip
    def test_spellings_of_one_name(self, name: str) -> None:
        assert numbers([name], NAMES) == [386]
        assert numbers(["African_elephant"], ["cat", name]) == [1]

    def test_labels_with_several_names(self) -> None:
        assert numbers(["Loxodonta africana", "man-eater"], NAMES) == [386, 2]
        labels = ["tench, Tinca tinca", "goldfish, Carassius auratus"]
        assert numbers(["Goldfish", "tinca_tinca"], labels) == [1, 0]

    def test_digits_are_numbers(self) -> None:
        assert numbers(["01", "2", "10"], ["10", "2", "1"]) == [2, 1, 0]

    @pytest.mark.parametrize("name", ["crane", "Cardigan", "maillot"])
    def test_a_name_of_two_classes_of_imagenet_is_refused(self, name: str) -> None:
        labels = [
            {134: "crane bird", 639: "maillot tank suit"}.get(n, x) for n, x in enumerate(NAMES)
        ]
        for known in (labels, NAMES):
            with pytest.raises(DatasetError, match=rf"{name!r} .* fits the labels \d+ .* WordNet"):
                numbers([name, "tench"], known)

    @pytest.mark.parametrize("number", [134, 517, 264, 474, 638, 639])
    def test_the_wordnet_id_decides(self, number: int) -> None:
        for name in (IMAGENET[number], f"{IMAGENET[number]}_{NAMES[number]}"):
            assert numbers([name, "tench"], NAMES) == [number, 0]

    def test_labels_as_written_decide_where_the_data_has_them_all(self) -> None:
        assert numbers(["cardigan", "Cardigan"], ["Cardigan", "dog", "cardigan"]) == [2, 0]
        turned = list(reversed(NAMES[:134] + NAMES[135:]))
        assert numbers(turned[:5], NAMES) == [999, 998, 997, 996, 995]

    def test_equal_names_need_no_match(self) -> None:
        assert numbers(NAMES, tuple(NAMES)) == list(range(1000))

    def test_another_wordnet_id_is_another_class(self) -> None:
        assert LabelIndex(["n02012849 crane"]).find("n03126707_crane") == []

    def test_names_of_another_kind_are_refused_with_the_nearest(self) -> None:
        with pytest.raises(DatasetError) as caught:
            numbers(["kat", "red", "gren"], ["red", "green", "cat"])
        said = str(caught.value)
        assert said.startswith("2 of 3 classes of the data match no label")
        assert "'kat' (nearest: 'cat'), 'gren' (nearest: 'green')." in said
        assert "--labels FILE with lines such as 'CLASS = LABEL'" in said
        with pytest.raises(DatasetError, match="2 of 2 classes"):
            numbers(["x", "y"], ["red", "green"])

    @pytest.mark.parametrize(
        ("classes", "labels"),
        [(["n02012849", "n03126707"], ["crane", "dog"]), (["Cat", "cat"], ["dog", "cat"])],
    )
    def test_two_classes_of_one_label_are_refused(
        self, classes: list[str], labels: list[str]
    ) -> None:
        a, b = classes
        with pytest.raises(DatasetError, match=f"'{a}' and '{b}' of the data both fit the label"):
            numbers(classes, labels)
        for given in ({a: labels[1], b: labels[1]}, {b: labels[0]}):
            assert None not in numbers(classes, labels, given)
        assert len(match_labels(classes, [1], labels).numbers) == 1

    def test_classes_without_images_need_no_label(self) -> None:
        match = match_labels(["cat", "unicorn"], [0, 0, None], ["dog", "cat"])
        assert (match.numbers, match.names) == ({0: 1}, ("dog", "cat"))
        assert match.labels([0, None]) == [1, None]


class TestByNumber:
    def test_where_the_classifier_has_no_names(self) -> None:
        match = match_labels(["cat", "dog"], [0, 1], None)
        assert (match.numbers, match.names) == ({0: 0, 1: 1}, ("cat", "dog"))
        assert match.note is not None
        assert "has no label names" in match.note
        assert "(0 = cat, 1 = dog)" in match.note

    def test_where_the_data_has_no_names(self) -> None:
        match = match_labels(None, [2, 0], ["cat", "dog", "fox"])
        assert match.numbers == {0: 0, 2: 2}
        assert "(0 = cat, 2 = fox)" in str(match.note)

    def test_where_nothing_has_a_name(self) -> None:
        assert match_labels(None, [0, 3], None).note is None

    def test_folders_of_digits_are_compared_by_value(self) -> None:
        folders = sorted(str(n) for n in range(12))
        match = match_labels(folders, range(12), None)
        assert {folders[label]: n for label, n in match.numbers.items()} == {
            str(n): n for n in range(12)
        }
        assert "alphabetical order" in str(match.note)
        assert match_labels(["0", "1"], range(2), None).note is None
        assert match_labels(["0", "2"], range(2), ["a", "b", "c"]).numbers == {0: 0, 1: 2}

    @pytest.mark.parametrize("labels", [None, ["a", "b", "c"], ["0", "1", "2"]])
    @pytest.mark.parametrize("classes", [["1", "2", "3"], None])
    def test_classes_from_1_are_refused(
        self, classes: list[str] | None, labels: list[str] | None
    ) -> None:
        used = [1, 2, 3] if classes is None else [0, 1, 2]
        with pytest.raises(DatasetError, match=r"numbered 1 to 3, but .*\(1 = 0, ..., 3 = 2\)"):
            match_labels(classes, used, labels)

    @pytest.mark.parametrize("classes", [["1", "2", "3"], None])
    def test_classes_from_1_must_all_be_given(self, classes: list[str] | None) -> None:
        used = [1, 2, 3] if classes is None else [0, 1, 2]
        with pytest.raises(DatasetError, match=r"numbered 1 to 3, but .* Name all of them"):
            match_labels(classes, used, None, {"1": "0"})
        given = {"1": "0", "2": "1", "3": "2"}
        assert match_labels(classes, used, None, given).labels(used) == [0, 1, 2]

    def test_very_long_numbers_are_names(self) -> None:
        long = "1" * 5000
        assert numbers([long, "2"], ["2", long]) == [1, 0]
        with pytest.raises(SettingError, match="has the labels 0 to 999999 at most"):
            numbers(["a"], None, {"a": "9" * 18})
        with pytest.raises(SettingError, match="has no label names"):
            numbers(["a"], None, {"a": long})

    def test_labels_that_start_at_1_are_names(self) -> None:
        assert numbers(["1", "2", "3"], ["1", "2", "3", "4"]) == [0, 1, 2]

    def test_a_number_beyond_the_labels_is_refused(self) -> None:
        with pytest.raises(DatasetError, match=r"class 7, but the labels .* numbered 0 to 1"):
            match_labels(None, [0, 7], ["a", "b"])


class TestGiven:
    def test_settles_what_names_do_not(self) -> None:
        given = {"kat": "cat", "crane": "517"}
        assert numbers(["kat", "crane", "tench"], [*NAMES, "cat"], given) == [1000, 517, 0]

    def test_numbers_of_classes(self) -> None:
        given = {"1": "0", "2": "1"}
        assert numbers(["1", "2"], None, given) == [0, 1]
        assert match_labels(None, [1, 2], ["a", "b"], given).numbers == {1: 0, 2: 1}

    def test_goes_before_the_names(self) -> None:
        assert numbers(["red", "green"], ["red", "green"], {"RED": "green"}) == [1, 1]

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"rad": "red"}, r"class 'rad', which the data does not have\. Did you mean 'red'"),
            ({"red": "9"}, "label 9, but the classifier has the labels 0 to 1"),
            ({"red": "rot"}, "label 'rot', which is no label"),
        ],
    )
    def test_refuses(self, given: dict[str, str], said: str) -> None:
        with pytest.raises(SettingError, match=said):
            numbers(["red"], ["red", "green"], given)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"a": -1}, "label -1, but the classifier has"),
            ({0: -1}, "label -1, but the classifier has"),
            ({7: 0}, "class 7, which the data does not have"),
            ({-1: 0}, "class -1, which the data does not have"),
            ({"a": 0, "A": 1}, "gives the class 'A' two labels, 0 and 1"),
        ],
    )
    @pytest.mark.parametrize("labels", [None, ["a", "b", "c"]])
    def test_refuses_numbers_that_do_not_exist(
        self, given: dict[Any, int], said: str, labels: list[str] | None
    ) -> None:
        with pytest.raises(SettingError, match=said):
            match_labels(["a", "b"], [0, 1], labels, given)

    @pytest.mark.parametrize("name", [7, "7"])
    def test_refuses_a_class_that_no_image_has(self, name: int | str) -> None:
        with pytest.raises(SettingError, match="class 7, which the data does not have"):
            match_labels(None, [0, 1], ["a", "b"], {name: "b"})

    def test_refuses_names_where_there_are_none(self) -> None:
        with pytest.raises(SettingError, match=r"has no label names\. Use its number"):
            numbers(["red"], None, {"red": "rot"})
        with pytest.raises(SettingError, match="'red', but the classes are numbers"):
            match_labels(None, [0], ["red"], {"red": "red"})
