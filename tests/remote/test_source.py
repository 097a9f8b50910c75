from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from denoised_smoothing import load_classifier
from denoised_smoothing.errors import SettingError, SpecError
from denoised_smoothing.models.catalogue import list_classifiers
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.remote.classifier import RemoteClassifier

SPECS = {
    "aws?size=96&max_labels=5&min-confidence=10": {"size": 96, "max_labels": 5},
    "google?max_labels=3&format=jpeg&quality=80": {"format": "jpeg", "quality": 80},
    "azure": {"vendor": "azure", "model": "tags"},
    "clarifai:general-image-recognition": {"model": "general-image-recognition"},
    "openai:gpt?labels=cat,dog&detail=high": {"labels": ("cat", "dog"), "detail": "high"},
    "http:http://127.0.0.1:1/x?a=b?label=max_by(p, &s).name": {
        "model": "http://127.0.0.1:1/x?a=b",
        "label": "max_by(p, &s).name",
    },
    "http://127.0.0.1:1/x?body=json&field=data": {"model": "http://127.0.0.1:1/x", "body": "json"},
    "https://127.0.0.1/v2/models/m/infer?protocol=kserve": {
        "model": "https://127.0.0.1/v2/models/m"
    },
    "simulated?weights=a=1,b=2&latency=0.1": {"labels": {"a": 1.0, "b": 2.0}},
    "aws#size=96#max_labels=5#min-confidence=10": {"size": 96, "max_labels": 5},
    "http:http://127.0.0.1:1/x?a=b#label=max_by(p, &s).name": {
        "model": "http://127.0.0.1:1/x?a=b",
        "label": "max_by(p, &s).name",
    },
}


@pytest.mark.parametrize("spec", SPECS)
def test_specs_name_classifiers(spec: str) -> None:
    classifier = load_classifier(spec)
    assert isinstance(classifier, RemoteClassifier)
    parts = dict(classifier.fingerprint_parts())
    assert {name: parts[name] for name in SPECS[spec]} == SPECS[spec]
    assert fingerprint(classifier) == fingerprint(load_classifier(spec))


def test_every_vendor_is_listed_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    rows = {row["spec"]: row for row in list_classifiers() if row["what"].startswith("remote: ")}
    names = {re.split("[:?]", spec)[0] for spec in rows}
    assert names == {"aws", "azure", "clarifai", "google", "http", "https", "openai", "simulated"}
    missing = rows["openai:MODEL?labels=FILE"]["missing"]
    assert missing == "pip install 'denoised-smoothing[openai]'"
    assert rows["simulated"]["missing"] == ""


def test_what_does_not_change_answers_is_no_part_of_the_classifier() -> None:
    one, other = load_classifier("simulated"), load_classifier("simulated?latency=1&errors=0.1")
    other.settings = replace(other.settings, in_flight=3, rate=1.0)
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(load_classifier("simulated?size=40"))


def test_files_of_labels_and_synonyms(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("# a comment\nCat\n\nDog \n")
    (tmp_path / "synonyms.txt").write_text("kitten = cat\n")
    spec = f"aws?labels={tmp_path}/labels.txt&synonyms={tmp_path}/synonyms.txt"
    rule = load_classifier(spec).rule
    assert rule.allowed == ("cat", "dog")
    assert rule.synonyms == {"kitten": "cat"}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('["cat", "dog"]', ("cat", "dog")),
        ("1 dog\n0 cat", ("cat", "dog")),
        ("cat, dog", ("cat", "dog")),
        ("cat", ("cat",)),
    ],
)
def test_labels_are_read_as_those_of_other_classifiers(
    content: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "a,b" / "labels.txt"
    path.parent.mkdir()
    path.write_text(content)
    assert load_classifier(f"aws?labels={path}").rule.allowed == names


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("aws?sise=3", r"option 'sise' is not known\. Did you mean size\? Known: size, format"),
        ("aws#sise=3", r"option 'sise' is not known\. Did you mean size\? Known: size, format"),
        ("aws?size", r"option 'size' is not complete\. Write \?NAME=VALUE"),
        ("aws#size", r"option 'size' is not complete\. Write \?NAME=VALUE"),
        ("aws?size=big", "size must be a whole number, got 'big'"),
        ("aws?min_confidence=x", "min_confidence must be a number, got 'x'"),
        ("aws?format=gif", "format must be png or jpeg, got 'gif'"),
        ("aws?labels=/none/such", "names between commas, or a file .*No such file or directory"),
        ("http:?label=x", r"not complete\. Write http:URL\?label=JMESPATH"),
        ("http://h/x?protocol=soap", "protocol must be json or kserve, got 'soap'"),
        ("http://h/x?protocol=kserve&body=raw", "protocol=kserve does not take the option 'body'"),
        ("http://h/x?output=y", "protocol=json does not take the option 'output'"),
        ("clarifai", r"not complete\. Write clarifai:MODEL"),
        ("simulated?weights=a", "labels and weights, such as cat=0.9,dog=0.1, got 'a'"),
    ],
)
def test_odd_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_classifier(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http:ftp://h/x", "must begin with http:// or https://, got 'ftp://h/x'"),
        ("http://user:word@h/x", "must not hold a user name or a password"),
        ("http://h/x?label=a[", r"label must be a JMESPath expression, got 'a\["),
        ("http://h/x?body=xml", r"body must be one of \['raw', 'json', 'form'\], got 'xml'"),
        ("openai:m?labels=a,a", r"needs at least 2 labels, got \['a'\]"),
        ("openai:m?labels=a,b&detail=fine", "detail must be low, high or auto, got 'fine'"),
        ("simulated?errors=1", "errors=1.0"),
        ("aws?max_labels=0", "max_labels must be at least 1"),
        ("google?max_labels=0", "max_labels must be at least 1, got 0"),
    ],
)
def test_odd_settings_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load_classifier(spec)
