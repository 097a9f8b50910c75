"""The labels of a data set as the numbers that a classifier gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.models.labels import LabelMatch, match_labels
from denoised_smoothing.remote.classifier import RemoteClassifier

GivenLabels = Mapping[Any, str | int]
"""From a class of the data to a label of the classifier, each by its name or number."""


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
    if isinstance(classifier, RemoteClassifier):
        classes, labels = _of_remote(classes, classifier)
        if labels is None and classes is not None:
            chosen = {str(name): str(label) for name, label in (given or {}).items()}
            names = tuple(chosen.get(name, name) for name in classes)
            return LabelMatch({number: number for number in range(len(names))}, names)
    return match_labels(classes, dataset.labels, labels, given)


def as_setting(
    match: LabelMatch, dataset: ImageDataset, given: GivenLabels | None
) -> dict[str, dict[str, int]]:
    """Return the run setting ``labels``: the classifier's number of each class, by its name.

    It is left out where each class has the same number on both sides and nothing is given.
    """
    if not given and all(label == number for label, number in match.numbers.items()):
        return {}
    names = dataset.label_names
    by_name = {str(n) if names is None else names[n]: m for n, m in match.numbers.items()}
    return {"labels": by_name}


def _of_remote(
    classes: tuple[str, ...] | None, remote: RemoteClassifier
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return the names of data and classifier by the rule of its answers, with its synonyms."""
    allowed = remote.rule.allowed
    if classes is not None and remote.rule.synonyms:
        classes = tuple(remote.rule.name(name) for name in classes)
    return classes, None if allowed is None else tuple(allowed)
