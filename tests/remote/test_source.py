from __future__ import annotations

from pathlib import Path

import pytest

from denoised_smoothing import load_classifier
from denoised_smoothing.errors import SettingError, SpecError
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.source import REMOTE_FORMS, is_remote, load_remote

SPECS = {
    "aws#size=96#max_labels=5#min-confidence=10": {"size": 96, "max_labels": 5},
    "google#max_labels=3#format=jpeg#quality=80": {"format": "jpeg", "quality": 80},
    "azure": {"vendor": "azure", "model": "tags"},
    "clarifai:general-image-recognition": {"model": "general-image-recognition"},
    "openai:gpt#labels=cat,dog#detail=high": {"labels": ("cat", "dog"), "detail": "high"},
    "http:http://127.0.0.1:1/x?a=b#label=max_by(p, &s).name": {"label": "max_by(p, &s).name"},
    "http://127.0.0.1:1/x#body=json#field=data": {"model": "http://127.0.0.1:1/x", "body": "json"},
    "https://127.0.0.1/v2/models/m/infer#protocol=kserve": {
        "model": "https://127.0.0.1/v2/models/m"
    },
    "simulated#weights=a=1,b=2#latency=0.1": {"labels": {"a": 1.0, "b": 2.0}},
}


@pytest.mark.parametrize("spec", SPECS)
def test_specs_name_classifiers(spec: str) -> None:
    classifier = load_classifier(spec)
    assert isinstance(classifier, RemoteClassifier)
    parts = dict(classifier.fingerprint_parts())
    assert {name: parts[name] for name in SPECS[spec]} == SPECS[spec]
    assert fingerprint(classifier) == fingerprint(load_classifier(spec))


def test_every_form_is_a_remote_spec() -> None:
    assert all(is_remote(form) for form in REMOTE_FORMS)
    assert not is_remote("torchvision:resnet50")


def test_what_does_not_change_answers_is_no_part_of_the_classifier() -> None:
    one, other = load_remote("simulated"), load_remote("simulated#latency=1#errors=0.1")
    other.with_settings(in_flight=3, rate=1.0)
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(load_remote("simulated#size=40"))


def test_files_of_labels_and_synonyms(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("# a comment\nCat\n\nDog \n")
    (tmp_path / "synonyms.txt").write_text("kitten = cat\n")
    spec = f"aws#labels={tmp_path}/labels.txt#synonyms={tmp_path}/synonyms.txt"
    rule = load_remote(spec).rule
    assert rule.allowed == ("cat", "dog")
    assert rule.synonyms == {"kitten": "cat"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("aws#sise=3", "no option 'sise'; did you mean size"),
        ("aws#size", "'size' is no option; write #name=value"),
        ("aws#size=big", "expected a whole number"),
        ("aws#format=gif", "expected png or jpeg"),
        ("aws#labels=/none/such", "No such file or directory"),
        ("http:#label=x", "not complete; write http:URL#label=JMESPATH"),
        ("http://h/x#protocol=soap", "protocol is json or kserve, got 'soap'"),
        ("clarifai", "not complete; write clarifai:MODEL"),
        ("simulated#weights=a", "labels and weights, such as cat=0.9,dog=0.1"),
    ],
)
def test_odd_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_remote(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http:ftp://h/x", "begins with http:// or https://, got 'ftp://h/x'"),
        ("http://user:word@h/x", "would be stored with the run"),
        ("http://h/x#label=a[", "no JMESPath expression"),
        ("http://h/x#body=xml", r"body is one of \['raw', 'json', 'form'\], got 'xml'"),
        ("openai:m#labels=a,a", "chooses from a list of labels"),
        ("openai:m#labels=a,b#detail=fine", "detail is low, high or auto, got 'fine'"),
        ("simulated#errors=1", "errors=1.0"),
        ("aws#max_labels=0", "max_labels is at least 1"),
        ("google#max_labels=0", "max_labels is at least 1, got 0"),
    ],
)
def test_odd_settings_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load_remote(spec)
