"""The labels of a data set as the numbers that a classifier gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.labels import (
    GivenLabels,
    LabelMatch,
    match_labels,
    normalised,
    of_classes,
)
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.labels import AnswerRule


def matched(
    dataset: ImageDataset, classifier: object, given: GivenLabels | None = None
) -> LabelMatch:
    """Match the classes of a data set with the labels of a classifier.

    A remote classifier with an open vocabulary numbers the classes of the data first, so that
    their numbers stay; its answers are matched with them by name.

    Raises:
        DatasetError: a class matches no label or several.
        SettingError: ``given`` names a class or label that does not exist.
    """
    classes, labels = dataset.label_names, getattr(classifier, "label_names", None)
    if not isinstance(classifier, RemoteClassifier):
        return match_labels(classes, dataset.labels, labels, given)
    present = {label for label in dataset.labels if label is not None}
    chosen = of_classes(given or {}, classes, present)
    rule = classifier.rule
    if rule.allowed is None and classes is not None:
        return _open_match(classes, chosen, rule)
    if classes is not None and rule.allowed is not None:
        classes, plain = tuple(map(rule.name, classes)), classes
        stood_for: dict[int, str | int] = {
            n: rule.allowed.index(name)
            for n, name in enumerate(classes)
            if name != normalised(plain[n]) and name in rule.allowed
        }
        chosen = stood_for | chosen
    return match_labels(classes, dataset.labels, rule.allowed, chosen)


def _open_match(
    classes: Sequence[str], chosen: Mapping[int, str | int], rule: AnswerRule
) -> LabelMatch:
    """Number the classes of the data, and name them as the answers that are matched with them.

    Classes that get one name by ``chosen`` get one number.
    """
    for number, label in chosen.items():
        if isinstance(label, int):
            raise SettingError(
                f"--labels names the label {label} for the class {classes[number]!r}, but this "
                "classifier may answer with any name. Give the name."
            )
    given = {number: normalised(str(label)) for number, label in chosen.items()}
    names = tuple(given.get(number, name) for number, name in enumerate(classes))
    answers = [rule.name(name) for name in names]
    shared = {rule.name(label) for label in given.values()}
    numbers = {n: answers.index(name) if name in shared else n for n, name in enumerate(answers)}
    return LabelMatch(numbers, names, is_open=True)


def as_setting(
    match: LabelMatch, dataset: ImageDataset, given: GivenLabels | None
) -> dict[str, dict[str, str | int]]:
    """Return the run setting ``labels``: the classifier's number of each class, by its name.

    Of a classifier with an open vocabulary it is the chosen name of each class.
    It is left out where each class has the same number on both sides and nothing is given.
    """
    if not given and all(label == number for label, number in match.numbers.items()):
        return {}
    names, chosen = dataset.label_names, match.names if match.is_open else None
    return {
        "labels": {
            str(n) if names is None else names[n]: number if chosen is None else chosen[number]
            for n, number in match.numbers.items()
        }
    }
