from __future__ import annotations

from pathlib import Path

import pytest

from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.label_groups import read_groups
from denoised_smoothing.models.labels import imagenet_classes

NAMES = ["tench", "goldfish", "great white shark", "cock", "hen, chicken"]


def written(folder: Path, text: str) -> str:
    path = folder / "groups.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_lines_of_names_numbers_and_ranges(tmp_path: Path) -> None:
    text = "# fish first\nfish = tench, 1-2\nbird = 3; hen, chicken;\n"
    [groups] = read_groups(written(tmp_path, text), NAMES)
    assert groups.pairs == (("fish", (0, 1, 2)), ("bird", (3, 4)))
    [by_number] = read_groups(written(tmp_path, "fish = 0-2, 7"), None)
    assert by_number.of(7) == ("fish", (0, 1, 2, 7))


def test_where_some_names_are_known_any_number_may_be_a_label(tmp_path: Path) -> None:
    """As of a remote classifier, whose labels get names when they are seen."""
    seen = {0: "tench", 7: "hen", 1_900_000_000: "eel"}
    [groups] = read_groups(written(tmp_path, "fish = tench, eel, 12\nbird = hen, 3-4"), seen)
    assert groups.pairs == (("fish", (0, 12, 1_900_000_000)), ("bird", (3, 4, 7)))
    numbered = {5: "5", 9: "7"}  # the names are numbers, and go before numbers
    [groups] = read_groups(written(tmp_path, "a = 7"), numbered)
    assert groups.pairs == (("a", (9,)),)
    for text, names in (("a = cod", seen), ("a = 3", numbered)):
        with pytest.raises(SettingError, match="which is no label of the classifier"):
            read_groups(written(tmp_path, text), names)
    with pytest.raises(SettingError, match="the labels 0 to 4"):
        read_groups(written(tmp_path, "fish = 9"), dict(enumerate(NAMES)))


def test_levels(tmp_path: Path) -> None:
    text = "[kinds]\nfish = 0-1\n[all]\nanimal = 0-4\n"
    kinds, every = read_groups(written(tmp_path, text), dict(enumerate(NAMES)))
    assert (kinds.level, every.level) == ("kinds", "all")
    assert every.of(3) == ("animal", (0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ('{"fish": [0, "goldfish"], "bird": ["3-4"]}', ["groups"]),
        ('{"kinds": {"fish": ["0", 1]},\n "all": {"animal": ["0-4"]}}', ["kinds", "all"]),
    ],
)
def test_json(tmp_path: Path, text: str, levels: list[str]) -> None:
    found = read_groups(written(tmp_path, text), NAMES)
    assert [groups.level for groups in found] == levels
    assert found[0].pairs[0] == ("fish", (0, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fish", "'fish' is no group"),
        ("fish = 1\nfish = 2", "a second one of its name"),
        ("", "at least one level"),
        ("fish =", "must have labels"),
        ("fish = 3-2", "must have labels"),
        ("fish = 0, 0-1", "The label 0 is in the group 'fish'"),
        ("fish = 9", "--groups names the label 9, but the classifier has the labels 0 to 4"),
        ("fish = dog", "--groups names the label 'dog', which is no label"),
        ('{"fish": 3}', "'fish' has no list of labels"),
        ('{"fish": [[3]]}', "'fish' has no list of labels"),
        ('{"fish": [3}', "must be 'imagenet', or a file"),
        ("[a]\nx = 0-1\n[b]\ny = 1-2", "not within one group of the level 'b'"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message.replace("(", r"\(")):
        read_groups(written(tmp_path, text), NAMES)


def test_a_file_that_is_missing() -> None:
    with pytest.raises(SettingError, match=r"No such file or directory: 'missing\.txt'"):
        read_groups("missing.txt", NAMES)


def test_the_shipped_groups_of_imagenet() -> None:
    names = [found[0] for found in imagenet_classes().values()]
    kinds, families, realms = read_groups("imagenet", names)
    assert [level.level for level in (kinds, families, realms)] == ["kinds", "families", "realms"]
    for name in ("Chihuahua", "Mexican hairless"):  # the first and the last breed
        assert kinds.of(names.index(name)) == ("dog", tuple(range(151, 269)))
    dingo, elephant, kite = map(names.index, ("dingo", "Indian elephant", "kite"))
    assert kinds.of(dingo) == (None, (dingo,))
    assert families.of(dingo)[0] == "mammal"
    assert kinds.of(elephant)[0] == "elephant"
    assert kinds.of(kite)[0] == "bird of prey"
    assert families.of(names.index("school bus"))[0] == "vehicle"
    assert realms.of(names.index("tench")) == ("animal", tuple(range(398)))


@pytest.mark.parametrize("names", [None, NAMES, [str(n) for n in range(1000)]])
def test_the_shipped_groups_of_another_classifier(names: list[str] | None) -> None:
    with pytest.raises(SettingError, match="Write a file with your own groups"):
        read_groups("imagenet", names)


def test_the_shipped_groups_in_another_order() -> None:
    names = sorted(found[0] for found in imagenet_classes().values())
    with pytest.raises(SettingError, match="in the usual order"):
        read_groups("imagenet", names)
