"""One rule by which the classes of data and the labels of a classifier are matched.

Where both have names, they are matched by name, and a name that fits none or several labels is
refused. Case, blanks, underscores, hyphens within a word and WordNet ids do not matter:
``n02504458_African_elephant``, ``African elephant`` and ``n02504458`` are one. Names of digits
alone are numbers. Numbers are compared with numbers where names are missing on one side.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from denoised_smoothing.errors import DatasetError, SettingError
from denoised_smoothing.files import read_lines
from denoised_smoothing.models.shipped import shipped_folder

_WORDNET = re.compile(r"(?<![^\W_])n\d{8}(?![^\W_])", re.IGNORECASE)
_IGNORED = re.compile(r"[\s_]+|(?<=[^\W\d])-(?=[^\W\d])")
_AROUND = " \t_-:,.()[]"
"""Characters between a WordNet id and a name."""
_MOST = 1_000_000
"""Labels of a classifier at most."""
_Names = Sequence[str] | None
GivenLabels = Mapping[Any, str | int]
"""From a class of the data to a label of the classifier, each by its name or number."""
_SHOWN = 5
"""Names that a message lists."""
LINES = "lines such as 'CLASS = LABEL', each side a name or a number"
_SETTLE = f"Use --labels FILE with {LINES} (in Python, labels={{'CLASS': 'LABEL'}})."


def normalised(name: str) -> str:
    """Return the name in Unicode's form NFKC, in lower case, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def is_number(name: str) -> bool:
    """Return whether a name consists of digits, not more than 18, and so is a number."""
    return name.isascii() and name.isdigit() and len(name) <= 18


@dataclass(frozen=True)
class LabelMatch:
    """The labels of data as numbers of a classifier's labels.

    Args:
        numbers: from each label that the images have to the classifier's number.
        names: by the classifier's numbers; None if no names are known.
        note: for the user, where labels are compared by number; else None.
        is_open: whether the names are chosen for the data, as for a classifier of any label.
    """

    numbers: Mapping[int, int]
    names: tuple[str, ...] | None
    note: str | None = None
    is_open: bool = False

    def labels(self, labels: Iterable[int | None]) -> list[int | None]:
        """Return the labels of images as the classifier's numbers; None stays None."""
        return [None if label is None else self.numbers[label] for label in labels]


def match_labels(
    classes: Sequence[str] | None,
    used: Iterable[int | None],
    labels: Sequence[str] | None,
    given: GivenLabels | None = None,
) -> LabelMatch:
    """Match the classes of data with the labels of a classifier.

    Args:
        classes: the names of the data's classes, None if unknown.
        used: the classes that images have, as numbers; only these must match.
        labels: the names of the classifier's labels, None if unknown.
        given: from a class to a label, each by its name or number; decides before all rules. A
            string of digits is a name where the other names are numbers, too.

    Raises:
        DatasetError: a class matches no label or several, or classes are numbered from 1.
        SettingError: ``given`` names a class or label that does not exist.
    """
    present = sorted({label for label in used if label is not None})
    if classes is not None and labels is not None and tuple(classes) == tuple(labels):
        numbers = {label: label for label in present}
    else:
        numbers = {}
    chosen = of_classes(given or {}, classes, present)
    numbers |= {label: label_number(target, labels) for label, target in chosen.items()}
    rest = [label for label in present if label not in numbers]
    numbers = {label: numbers[label] for label in present if label in numbers}
    if classes is not None and labels is not None and _numbered(classes) == _numbered(labels):
        numbers |= _by_name(classes, rest, labels)
        return LabelMatch(numbers, tuple(labels))
    by_number = _by_number(classes, present, rest, labels)
    note = _note(classes, by_number, labels)
    numbers |= by_number
    return LabelMatch(numbers, _names(classes, numbers, labels), note)


class LabelIndex:
    """Finds the labels that a name fits."""

    def __init__(self, names: Sequence[str]) -> None:
        self._by = [defaultdict[str, list[int]](list) for _ in range(3)]
        self._labels = _described(names)
        for number, label in enumerate(self._labels):
            for by, keys in zip(self._by, label.keys, strict=True):
                for key in keys:
                    by[key].append(number)

    def find(self, name: str) -> list[int]:
        """Return the numbers of all labels that a name fits equally well."""
        return self.fitting(_Label.of(name))

    def fitting(self, label: _Label) -> list[int]:
        """Return the labels with its WordNet id, else of its first names, else of any name."""
        wordnet, _, every = label.keys
        for by, keys in zip(self._by, (wordnet, label.asked, every), strict=True):
            found = sorted({number for key in keys for number in by.get(key, ())})
            if wordnet:  # a label with another id is another class, whatever its name
                found = [n for n in found if self._labels[n].keys[0] in (wordnet, frozenset())]
            if found:
                return found
        return []


@dataclass(frozen=True)
class _Label:
    """A label as it is compared: its WordNet id, its first names, and all its names.

    ``asked`` are the names by which it is looked up first.
    """

    keys: tuple[frozenset[str], frozenset[str], frozenset[str]]
    asked: frozenset[str]

    @classmethod
    def of(cls, text: str, wordnet: str | None = None) -> _Label:
        """Read ``n02504458_African_elephant`` or ``tench, Tinca tinca``."""
        found = _WORDNET.search(text)
        wordnet = found[0].lower() if found else wordnet
        whole = text if found is None else _WORDNET.sub("", text).strip(_AROUND)
        parts, known = whole.split(","), imagenet_classes().get(wordnet or "", ())
        asked = {_key(name) for name in (whole, *known[:1])} - {""}
        first = asked | {_key(parts[0])} - {""}
        every = first | {_key(name) for name in (*parts, *known)} - {""}
        ids = frozenset([wordnet] if wordnet else [])
        return cls((ids, frozenset(first), frozenset(every)), frozenset(asked))


def _key(name: str) -> str:
    """Return what two spellings of a name have in common."""
    plain = normalised(name)
    return str(int(plain)) if is_number(plain) else _IGNORED.sub("", plain) or plain


def _described(names: Sequence[str]) -> list[_Label]:
    """Return labels; those of the 1,000 classes of ImageNet, in the usual order, get their ids."""
    labels, known = [_Label.of(name) for name in names], imagenet_classes()
    if len(labels) != len(known):
        return labels
    usual = [_Label.of("", wordnet) for wordnet in known]
    same = sum(bool(a.keys[2] & b.keys[2]) for a, b in zip(labels, usual, strict=True))
    if 2 * same <= len(known):
        return labels
    return [_Label.of(name, wordnet) for name, wordnet in zip(names, known, strict=True)]


@cache
def imagenet_classes() -> dict[str, tuple[str, ...]]:
    """Return the names of the 1,000 classes of ImageNet by WordNet id, in the usual order."""
    path = shipped_folder("imagenet_classes.tsv")
    lines = read_lines(path, "a file of this package; install it again")
    pairs = (line.split("\t") for line in lines)
    return {wordnet: tuple(names.split(", ")) for wordnet, names in pairs}


@lru_cache(maxsize=4)
def _index(names: tuple[str, ...]) -> LabelIndex:
    return LabelIndex(names)


def _numbered(names: Sequence[str] | None) -> bool:
    return names is None or all(is_number(name) for name in names)


def _by_name(classes: Sequence[str], present: list[int], labels: Sequence[str]) -> dict[int, int]:
    index, described = _index(tuple(labels)), _described(classes)
    found = {label: index.fitting(described[label]) for label in present}
    for label, numbers in found.items():
        # The data has all labels that the name fits, so it tells them apart as written.
        if len(numbers) > 1 and {labels[n] for n in numbers} <= set(classes):
            found[label] = [n for n in numbers if labels[n] == classes[label]] or numbers
    missing = [classes[label] for label, numbers in found.items() if not numbers]
    if missing:
        if _numbered(classes):
            _refuse_shift([int(classes[label]) for label in present])
        raise DatasetError(_unmatched(missing, len(present), labels))
    for label, numbers in found.items():
        if len(numbers) > 1:
            fits = " and ".join(f"{n} ({labels[n]})" for n in numbers[:_SHOWN])
            raise DatasetError(
                f"The class {classes[label]!r} of the data fits the labels {fits} of the "
                f"classifier. Name it by its WordNet id, such as n02012849, or decide: {_SETTLE}"
            )
    first = dict[int, int]()
    for label, (number,) in found.items():
        if (other := first.setdefault(number, label)) != label:
            raise DatasetError(
                f"The classes {classes[other]!r} and {classes[label]!r} of the data both fit the "
                f"label {number} ({labels[number]}) of the classifier. If they are one class, say "
                f"so. {_SETTLE}"
            )
    return {label: number for number, label in first.items()}


def _unmatched(missing: Sequence[str], count: int, labels: Sequence[str]) -> str:
    """Return the message about classes without a label, with the nearest labels."""
    known = {_key(name): name for name in labels}
    shown = []
    for name in missing[:_SHOWN]:
        close = difflib.get_close_matches(_key(name), known, n=1, cutoff=0.5)
        shown.append(f"{name!r} (nearest: {known[close[0]]!r})" if close else repr(name))
    more = ", ..." if len(missing) > _SHOWN else ""
    few = ", ".join(repr(name) for name in labels[:_SHOWN])
    return (
        f"{len(missing)} of {count} classes of the data match no label of the classifier by name: "
        f"{', '.join(shown)}{more}. The classifier has {len(labels)} labels: "
        f"{few}{', ...' if len(labels) > _SHOWN else ''}. {_SETTLE}"
    )


def _by_number(
    classes: _Names, present: list[int], rest: list[int], labels: _Names
) -> dict[int, int]:
    """Return the classifier's numbers of the ``rest``, classes that are compared by number."""
    written = classes is not None and _numbered(classes)
    numbers = {n: int(classes[n]) if classes is not None and written else n for n in present}
    if rest and (written or classes is None):
        _refuse_shift(list(numbers.values()))
    numbers = {n: numbers[n] for n in rest}
    if labels is None:
        return numbers
    place = {int(name) if _numbered(labels) else n: n for n, name in enumerate(labels)}
    if beyond := [number for number in numbers.values() if number not in place]:
        raise DatasetError(
            f"The data has the class {max(beyond)}, but the labels of the classifier are numbered "
            f"{min(place)} to {max(place)}. {_SETTLE}"
        )
    return {label: place[number] for label, number in numbers.items()}


def _refuse_shift(numbers: Collection[int]) -> None:
    if len(numbers) > 1 and sorted(numbers) == list(range(1, len(numbers) + 1)):
        raise DatasetError(
            f"The classes of the data are numbered 1 to {len(numbers)}, but those of a classifier "
            f"start at 0, so labels are probably shifted by one (1 = 0, ..., {len(numbers)} = "
            f"{len(numbers) - 1}). Name all of them. {_SETTLE}"
        )


def _note(classes: _Names, numbers: Mapping[int, int], labels: _Names) -> str | None:
    """Return what the user should know about labels that are compared by number."""
    named = [names for names in (classes, labels) if names is not None and not _numbered(names)]
    if not numbers or (not named and (classes is None or labels is not None)):
        return None
    if not named:
        texts = [str(int(classes[label])) for label in numbers] if classes is not None else []
        if sorted(texts) == sorted(texts, key=int):
            return None
        return (
            "The classes of the data are numbers and are compared by value. A model that numbers "
            "folders in alphabetical order (0, 1, 10, 2) needs --labels FILE."
        )
    why = (
        "classes of the data are numbers" if _numbered(classes) else "classifier has no label names"
    )
    pairs = sorted((number, label) for label, number in numbers.items())
    shown = [f"{n} = {named[0][label if named[0] is classes else n]}" for n, label in pairs[:3]]
    return (
        f"The {why}, so labels are compared by number, in the order of the names "
        f"({', '.join(shown)}{', ...' if len(pairs) > 3 else ''}). If the numbers differ, use "
        "--labels FILE."
    )


def _names(classes: _Names, numbers: Mapping[int, int], labels: _Names) -> tuple[str, ...] | None:
    """Return the names by the classifier's numbers: its own, or those of the data."""
    if labels is not None or classes is None:
        return None if labels is None else tuple(labels)
    if _numbered(classes):
        return tuple(classes) if list(classes) == [str(n) for n in range(len(classes))] else None
    by_number = {n: name for n, name in enumerate(classes) if n not in numbers}
    by_number |= {number: classes[label] for label, number in numbers.items()}
    return tuple(by_number.get(n, str(n)) for n in range(max(by_number) + 1))


def of_classes(
    given: GivenLabels, classes: Sequence[str] | None, present: Collection[int]
) -> dict[int, str | int]:
    """Return given labels by the numbers of their classes.

    Args:
        present: the classes that images have; without names, there are no others.

    Raises:
        SettingError: a class does not exist, or gets two labels.
    """
    found = dict[int, str | int]()
    for name, target in given.items():
        for label in _classes_named(name, classes, present):
            if found.setdefault(label, target) != target:
                raise SettingError(
                    f"--labels gives the class {name!r} two labels, {found[label]!r} and "
                    f"{target!r}. Remove one."
                )
    return found


def _classes_named(name: str | int, classes: _Names, present: Collection[int]) -> list[int]:
    if isinstance(name, int) or classes is None:
        if isinstance(name, str) and not is_number(name):
            raise SettingError(f"--labels names the class {name!r}, but the classes are numbers.")
        if int(name) in (present if classes is None else range(len(classes))):
            return [int(name)]
        raise SettingError(f"--labels names the class {name}, which the data does not have.")
    if name in classes:
        return [label for label, text in enumerate(classes) if text == name]
    if found := _index(tuple(classes)).find(name):
        return found
    near = difflib.get_close_matches(name, classes, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SettingError(f"--labels names the class {name!r}, which the data does not have.{hint}")


def label_number(target: str | int, labels: Sequence[str] | None, option: str = "--labels") -> int:
    """Return the number of a label that is given by its name or number.

    Args:
        labels: the names of the classifier's labels, None if unknown.
        option: that gave it, for messages.

    Raises:
        SettingError: there is no such label, or several.
    """
    text = str(target)
    if isinstance(target, int) or (is_number(text) and (labels is None or not _numbered(labels))):
        number = int(text)
        count = _MOST if labels is None else len(labels)
        if not 0 <= number < count:
            raise SettingError(
                f"{option} names the label {number}, but the classifier has the labels 0 to "
                f"{count - 1}{' at most' if labels is None else ''}. Correct the number."
            )
        return number
    if labels is None:
        raise SettingError(
            f"{option} names the label {text!r}, but the classifier has no label names. Use its "
            "number."
        )
    exact = [number for number, name in enumerate(labels) if name == text]
    found = exact if len(exact) == 1 else _index(tuple(labels)).find(text)
    if len(found) != 1:
        what = f"fits {len(found)} labels" if found else "is no label"
        raise SettingError(
            f"{option} names the label {text!r}, which {what} of the classifier. Use its number."
        )
    return found[0]
