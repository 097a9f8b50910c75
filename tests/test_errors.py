"""errors.py: the drawn tree is the tree, exit codes, and the list of what differs."""

from __future__ import annotations

import inspect
import re

import pytest

from denoised_smoothing import errors
from denoised_smoothing.errors import DenoisedSmoothingError, differences

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, DenoisedSmoothingError)
}


def test_the_drawn_tree_is_the_tree() -> None:
    drawn: dict[str, str | None] = {}
    parents: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w+)", line):
            depth, name = len(found[1]) // 4, found[2]
            drawn[name], parents[depth] = parents.get(depth - 1), name
    assert drawn == {
        name: None if value is DenoisedSmoothingError else value.__mro__[1].__name__
        for name, value in CLASSES.items()
    }


def test_exit_codes() -> None:
    codes = {name: value.exit_code for name, value in CLASSES.items() if value.exit_code != 1}
    refused = (
        "InputError SettingError ImageError DatasetError SpecError WeightsError RunBusyError "
        "SchemaTooNewError RunNotFoundError RunMismatchError MissingExtraError CertificateError "
        "MalformedCertificateError AlteredCertificateError"
    )
    assert codes == dict.fromkeys(refused.split(), 2) | {"TrainingInterruptedError": 130}


@pytest.mark.parametrize(
    ("held", "requested", "expected"),
    [
        ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}, []),
        ({"a": 1}, {"a": "1"}, ["a: 1 here, '1' there"]),
        ({"b": {"c": {"d": 1}}}, {"b": {"c": {"d": 2}}}, ["b.c.d: 1 here, 2 there"]),
        ({"a": None}, {}, []),
        ({"b": 1, "a": 2}, {}, ["a: 2 here, None there", "b: 1 here, None there"]),
        ({"a": ["b", "c"]}, {"a": ["b", "c"]}, []),
        ({"a": ["b", "c", "d"]}, {"a": ["b", "d", "c"]}, ["a.1: 'c' here, 'd' there"]),
        ({"a": ["b"]}, {"a": ["b", "c"]}, ["a.1: None here, 'c' there"]),
        ({"a": ["b"]}, {"a": []}, ["a: ['b'] here, [] there"]),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a: [1, 2] here, [1, 3] there"]),
    ],
)
def test_differences_are_named_by_their_path(
    held: dict[str, object], requested: dict[str, object], expected: list[str]
) -> None:
    assert differences(held, requested, where=("here", "there")) == expected
