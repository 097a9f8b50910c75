"""The JSON schema in the docs is that of the documents that the code writes and reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.fields import same
from denoised_smoothing.errors import AlteredCertificateError, MalformedCertificateError

from .samples import identity_of
from .test_certificate import CERTIFICATES, each_certificate
from .test_reading import ODD

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "certificate.schema.json").read_text("utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
IDENTITIES = (
    None,
    identity_of(None),
    replace(
        identity_of(None),
        resolution=None,
        image_shape=None,
        version="unknown",
        noise_stream=None,
        machine=None,
    ),
)


def plain(certificate: Certificate) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(certificate.to_json())
    return values


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@each_certificate
@pytest.mark.parametrize("identity", IDENTITIES)
def test_what_is_written_is_valid(certificate: Certificate, identity: Any) -> None:
    assert not [*VALIDATOR.iter_errors(plain(replace(certificate, identity=identity)))]


def test_every_field_is_described_and_no_other_allowed() -> None:
    written = {name for certificate in CERTIFICATES.values() for name in certificate.to_dict()}
    assert set(SCHEMA["properties"]) == written
    assert set(SCHEMA["required"]) == set(CERTIFICATES["certified"].to_dict())
    for certificate in CERTIFICATES.values():
        kind = SCHEMA["$defs"][certificate.plan.kind]
        plan = certificate.plan.to_dict()
        assert set(kind["required"]) <= set(plan) <= set(kind["properties"])
    assert set(SCHEMA["$defs"]["identity"]["required"]) == set(identity_of().to_dict())


@each_certificate
def test_what_the_schema_refuses_is_malformed(certificate: Certificate) -> None:
    """Reading finds more: it also compares fields with each other."""
    document = plain(replace(certificate, identity=identity_of(None)))
    refused = 0
    for name in [*document, "unknown"]:
        for odd in ODD:
            if same(document.get(name, object()), odd):
                continue
            changed = document | {name: odd}
            if not VALIDATOR.is_valid(changed):
                refused += 1
                with pytest.raises((MalformedCertificateError, AlteredCertificateError)):
                    Certificate.from_dict(changed)
        missing = {key: value for key, value in document.items() if key != name}
        if not VALIDATOR.is_valid(missing):
            with pytest.raises((MalformedCertificateError, AlteredCertificateError)):
                Certificate.from_dict(missing)
    assert refused > 200
