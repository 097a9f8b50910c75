"""Strict reading: what was changed, and does not follow from the counts, is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from denoised_smoothing.certificates import certificate as certificate_module
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.fields import quoted
from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.reading import BELOW_A_LEVEL
from denoised_smoothing.errors import (
    AlteredCertificateError,
    CertificateError,
    DenoisedSmoothingError,
    MalformedCertificateError,
    SettingError,
)

from .samples import identity_of, setting_of, stages
from .test_certificate import CERTIFICATES, each_certificate

GOOD = replace(CERTIFICATES["certified"], identity=identity_of())
TWO_SIDED = CERTIFICATES["two-sided"]
ODD = (None, True, False, -1, 0, 7, 7.5, 1e9, 2**70, "", "x", "7", [], ["x"], [1], {}, {"x": 1})


def former(certificate: Certificate) -> dict[str, Any]:
    """The document as it was before formats had a number."""
    values = certificate.to_dict()
    return {key: values[key] for key in values if key not in ("format", "identity")}


def read(changes: dict[str, Any], certificate: Certificate = GOOD) -> Certificate:
    return Certificate.from_json(json.dumps(certificate.to_dict() | changes))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.to_dict().items() if key != name}


@each_certificate
@pytest.mark.parametrize("identity", [None, identity_of(None)])
def test_a_written_certificate_is_read(certificate: Certificate, identity: Any) -> None:
    certificate = replace(certificate, identity=identity)
    assert Certificate.from_dict(certificate.to_dict()) == certificate
    assert Certificate.from_json(certificate.to_json().encode()) == certificate


@each_certificate
def test_the_former_format_is_read_without_an_identity(certificate: Certificate) -> None:
    assert Certificate.from_dict(former(certificate)) == certificate
    lists = former(certificate)
    for counts in certificate.stages:  # a version before wrote them in the order of the labels
        labels = range(1 + max(counts.votes, default=-1))
        lists[counts.stage.value] = {
            "counts": [counts.of(label) for label in labels],
            "failed": counts.failed,
        }
    assert Certificate.from_json(json.dumps(lists)) == certificate
    for key in ("engine", "precision", "contract"):
        lists.pop(key)
    assert Certificate.from_dict(lists) == certificate


def test_an_engine_of_an_earlier_run_is_read() -> None:
    """Of a remote classifier, earlier versions recorded the engine that was asked for."""
    parameters = replace(GOOD.parameters, engine=EngineName.AUTO)
    certificate = replace(GOOD, parameters=parameters)
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_the_former_format_is_read_strictly() -> None:
    with pytest.raises(AlteredCertificateError, match=r"'radius' .* 0\.9"):
        Certificate.from_dict(former(GOOD) | {"radius": 0.9})
    with pytest.raises(MalformedCertificateError, match=r"'identity' .* unknown"):
        Certificate.from_dict(former(GOOD) | {"identity": identity_of().to_dict()})
    with pytest.raises(MalformedCertificateError, match=r"'estimation.counts'"):
        read({"estimation": {"counts": [10, 985, 5], "failed": 0}})


@pytest.mark.parametrize(
    ("name", "changed", "computed"),
    [
        ("label", 2, "1"),
        ("label", None, "1"),
        ("radius", 9.9, "0.4666"),
        ("radius_l1", 0.0, "0.4666"),
        ("radius_linf", 0.5, "0.00"),
        ("lower_bound", 1, "0.969009"),
        ("calls", 1101, "1100"),
        ("notes", [BELOW_A_LEVEL], "[]"),
        ("upper_bound", 0.01, "None"),
    ],
)
def test_what_does_not_follow_from_the_counts_is_altered(
    name: str, changed: Any, computed: str
) -> None:
    with pytest.raises(AlteredCertificateError) as caught:
        read({name: changed})
    assert f"The field '{name}'" in str(caught.value)
    assert f"is {quoted(changed)}, but its counts give {computed}" in str(caught.value)


@pytest.mark.parametrize("name", ["radius", "radius_l1", "radius_linf", "lower_bound"])
def test_a_weaker_number_is_equivalent_up_to_a_millionth(name: str) -> None:
    written, exact = GOOD.to_dict()[name], getattr(GOOD, name)
    for stored in (written, round(written - 1e-6, 6), exact):
        assert read({name: stored}) == GOOD
    for stored in (round(written - 1.1e-6, 7), round(written + 1e-6, 6)):
        with pytest.raises(AlteredCertificateError, match=f"'{name}'"):
            read({name: stored})


def test_an_upper_bound_is_weaker_above() -> None:
    written = TWO_SIDED.to_dict()["upper_bound"]
    assert read({"upper_bound": round(written + 1e-6, 6)}, TWO_SIDED) == TWO_SIDED
    for stored in (round(written + 1.1e-6, 7), round(written - 1e-6, 6)):
        with pytest.raises(AlteredCertificateError, match="'upper_bound'"):
            read({"upper_bound": stored}, TWO_SIDED)
    with pytest.raises(AlteredCertificateError, match=r"'upper_bound' .* is None"):
        Certificate.from_dict({k: v for k, v in TWO_SIDED.to_dict().items() if k != "upper_bound"})


@pytest.mark.parametrize("name", GOOD.to_dict())
def test_a_missing_field_is_malformed(name: str) -> None:
    if name == "format":  # the rest is then one of the former format, which has no identity
        with pytest.raises(MalformedCertificateError, match=r"'identity' .* unknown"):
            Certificate.from_dict(without(name))
        return
    with pytest.raises(MalformedCertificateError, match=rf"'{name}\b.* is missing"):
        Certificate.from_dict(without(name))


@pytest.mark.parametrize("name", identity_of().to_dict())
def test_a_missing_field_of_the_identity_is_malformed(name: str) -> None:
    identity = identity_of().to_dict()
    del identity[name]
    with pytest.raises(MalformedCertificateError, match=rf"'identity\.{name}' .* is missing"):
        read({"identity": identity})


@each_certificate
def test_values_of_any_other_type_give_errors_of_their_class(certificate: Certificate) -> None:
    """Texts may have any content; whatever is read is written as it was."""
    document = certificate.to_dict()
    paths = [(name,) for name in document]
    paths += [(name, key) for name in document for key in _keys(document[name])]
    for path in paths:
        for odd in ODD:
            changed = json.loads(json.dumps(document))
            holder = changed if len(path) == 1 else changed[path[0]]
            holder[path[-1]] = odd
            try:
                found = Certificate.from_json(json.dumps(changed))
            except CertificateError:
                continue
            assert json.loads(found.to_json()) == changed


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(extra=1),
        lambda v: v["plan"].update(extra=1),
        lambda v: v["plan"].update(two_sided=0),
        lambda v: v["plan"].update(n=1000.0),
        lambda v: v["plan"].pop("n"),
        lambda v: v["plan"].update(kind="bayes"),
        lambda v: v["identity"].update(extra=1),
        lambda v: v["identity"].update(image_shape=[3, 32, 33]),
        lambda v: v["identity"].update(image_shape=[1, 64, 48]),
        lambda v: v["identity"].update(resolution=33),
        lambda v: v["identity"].update(image_sha256="E3" * 32),
        lambda v: v["estimation"].update(extra=1),
        lambda v: v["estimation"]["counts"].update({"01": 3}),
        lambda v: v["estimation"]["counts"].update({"-1": 3}),
        lambda v: v["estimation"]["counts"].update({"١": 3}),
        lambda v: v["estimation"]["counts"].update({"3": 0}),
        lambda v: v["estimation"]["counts"].update({"3": 1}),
        lambda v: v["selection"]["counts"].update({"1": 97}),
        lambda v: v.update(continuation={"counts": {"1": 10}, "failed": 0}),
        lambda v: v.update(engine=None),
        lambda v: v.update(engine="tensorflow"),
        lambda v: v.update(seed="0x7"),
        lambda v: v.update(seed="007"),
        lambda v: v.update(format=3),
        lambda v: v["estimation"].update(counts={1: 985}),
    ],
)
def test_malformed_documents(change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(GOOD.to_json())
    change(values)
    with pytest.raises(MalformedCertificateError):
        Certificate.from_dict(values)


def test_a_plan_of_a_newer_version_is_malformed() -> None:
    with pytest.raises(MalformedCertificateError, match=r"'bayes', expected one of .* --upgrade"):
        read({"plan": {"kind": "bayes", "prior": 1}})


def test_an_abstention_names_no_label() -> None:
    abstains = replace(CERTIFICATES["abstains"], identity=identity_of("cat"))
    with pytest.raises(AlteredCertificateError, match="names a label, 'cat'"):
        Certificate.from_json(abstains.to_json())


def test_numbers_may_pass_through_a_program_that_has_one_kind_of_number() -> None:
    """JavaScript writes 1.0 as 1."""
    plan = Anytime(radii=(0.5, 1.0), max_n=1000)
    certificate = plan.certificate(stages((0, 50), (0, 800)), setting_of(sigma=1.0))
    text = certificate.to_json().replace("1.0", "1")
    assert '"radii": [0.5, 1]' in text
    assert Certificate.from_json(text) == certificate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "label 3, radius 1",
        "[]",
        "7",
        "null",
        '"x"',
        "{}",
        "[" * 100_000,
        '{"radius": ' + "9" * 5_000 + "}",
        b"\xff\xfe{}",
        GOOD.to_json().replace('"alpha": 0.001', '"alpha": NaN'),
        GOOD.to_json().replace('"alpha": 0.001', '"alpha": 1e999'),
        GOOD.to_json().replace('"alpha": 0.001', '"alpha": 0.001, "alpha": 0.001'),
        GOOD.to_json() + "{}",
    ],
)
def test_what_is_no_certificate_is_malformed(text: str | bytes) -> None:
    with pytest.raises(MalformedCertificateError):
        Certificate.from_json(text)


@pytest.mark.parametrize("name", ["radius", "radius_l1", "radius_linf"])
def test_a_weaker_number_is_within_its_range(name: str) -> None:
    """The radius of an abstention is 0.0; a negative one is none."""
    abstains = CERTIFICATES["abstains"]
    assert read({name: 0}, abstains) == abstains
    with pytest.raises(AlteredCertificateError, match=f"'{name}'"):
        read({name: -1e-7}, abstains)


def test_a_bound_on_a_probability_is_within_its_range() -> None:
    """Without a vote for the candidate, its lower bound is 0.0; with all for others, theirs 1.0."""
    plan = FixedBudget(1, 3, two_sided=True)
    none = plan.certificate(stages((1,), (0, 3)), setting_of(alpha=1e-9))
    assert (none.lower_bound, none.to_dict()["upper_bound"]) == (0.0, 1.0)
    assert read({"lower_bound": 0, "upper_bound": 1}, none) == none
    for change in ({"lower_bound": -1e-7}, {"upper_bound": 1.0000001}):
        with pytest.raises(AlteredCertificateError):
            read(change, none)


def test_an_error_says_what_to_do() -> None:
    with pytest.raises(AlteredCertificateError, match=r"Ask for the original file, or certify"):
        read({"radius": 9.9})


def test_many_names_of_one_object_are_read_at_once() -> None:
    """Quadratic in the names, this would take minutes."""
    names = [f'"{name}": 0' for name in range(100_000)]
    text = "{" + ", ".join([*names, names[-1]]) + "}"
    began = time.perf_counter()
    with pytest.raises(MalformedCertificateError, match="two values of '99999'"):
        Certificate.from_json(text)
    assert time.perf_counter() - began < 10.0


def test_an_answer_that_holds_a_certificate_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({"label": 1, "certificate": GOOD.to_dict()}))
    assert Certificate.load(path) == GOOD


def test_a_file_that_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "certificate.json"
    GOOD.save(path)
    monkeypatch.setattr(certificate_module, "LONGEST", path.stat().st_size)
    assert Certificate.load(path) == GOOD
    monkeypatch.setattr(certificate_module, "LONGEST", path.stat().st_size - 1)
    with pytest.raises(MalformedCertificateError, match="longer than"):
        Certificate.load(path)


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    GOOD.save(path)
    assert Certificate.load(path) == GOOD
    assert path.read_text().count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["certificate.json"]
    with pytest.raises(SettingError, match=r"cannot read the certificate .*No such file"):
        Certificate.load(tmp_path / "missing.json")
    with pytest.raises(SettingError, match="cannot write the output"):
        GOOD.save(tmp_path / "missing" / "certificate.json")


def test_a_consistent_forgery_is_read() -> None:
    """Other votes with the radius that they give: redraw finds it, arithmetic cannot."""
    forged = FixedBudget(100, 1000).certificate(stages((0, 100), (0, 1000)), setting_of())
    assert Certificate.from_json(forged.to_json()).radius > GOOD.radius


def test_errors_are_of_the_package() -> None:
    assert issubclass(CertificateError, DenoisedSmoothingError)
    assert issubclass(AlteredCertificateError, CertificateError)
    assert issubclass(MalformedCertificateError, CertificateError)
