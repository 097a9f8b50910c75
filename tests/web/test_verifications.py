"""The arithmetic of uploaded certificates, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.web.routes import verifications
from tests.certificates.samples import setting_of, stages


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return FixedBudget(100, 1_000).certificate(stages((100,), (950, 50)), setting_of())


def upload(client: TestClient, content: bytes, name: str = "file") -> Any:
    return client.post("/v1/verifications", files={name: ("certificate.json", content)})


def test_a_certificate_holds_as_a_body_and_as_a_file(
    client: TestClient, certificate: Certificate
) -> None:
    text = certificate.to_json()
    sent = client.post(
        "/v1/verifications", content=text, headers={"content-type": "application/json"}
    )
    for response in (sent, upload(client, text.encode())):
        assert response.status_code == 200
        found = response.json()
        assert (found["kind"], found["depth"]) == ("certificate", "arithmetic")
        assert found["verdicts"]["holds"] == found["rows"] == 1
        assert found["failing"] == []
        assert "a consistent forgery passes" in found["proves"]


def test_what_would_hang_is_refused_at_once(client: TestClient, certificate: Certificate) -> None:
    groups = [{"level": "all", "members": {"all": "0-9999999999"}}]
    values = certificate.to_dict() | {"plan": {"kind": "anytime", "radii": [0.5], "groups": groups}}
    found = upload(client, json.dumps(values).encode()).json()
    assert found["verdicts"]["malformed"] == 1
    assert "at most 100,000 labels" in found["failing"][0]["reason"]


def test_certificates_that_do_not_name_their_model_are_counted(
    client: TestClient, certificate: Certificate
) -> None:
    assert upload(client, certificate.to_json().encode()).json()["without_identity"] == 1


def test_an_altered_certificate_is_named_with_its_reason(
    client: TestClient, certificate: Certificate
) -> None:
    values = certificate.to_dict() | {"radius": 0.9}
    found = upload(client, json.dumps(values).encode()).json()
    assert found["verdicts"]["altered"] == 1
    assert found["failing"][0]["verdict"] == "altered"
    assert "radius" in found["failing"][0]["reason"]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "neither a certificate"),
        (b"\x89PNG", "neither a certificate"),
        (b"SQLite format 3\0", "of the kind store, which is not checked here"),
        (b"PAR1", "of the kind parquet, which is not checked here"),
        (b"idx\tlabel\tpredict\tradius\tcorrect\ttime\n", "of the kind tsv"),
    ],
)
def test_what_is_not_checked_here_is_refused(
    client: TestClient, content: bytes, detail: str
) -> None:
    response = upload(client, content)
    assert response.status_code == 422
    assert detail in response.json()["detail"]
    assert "/tmp" not in response.text


def test_a_body_without_a_file_is_refused(client: TestClient) -> None:
    assert upload(client, b"{}", "image").status_code == 422
    assert client.post("/v1/verifications", content=b"{}").status_code == 415
    large = upload(client, b" " * 10_000_001)
    assert large.status_code == 413


def test_a_file_of_too_many_certificates_is_refused(
    client: TestClient, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifications, "ROWS", 2)
    row = {"index": 0, "true_label": 0, "refused": None, "seconds": 0.0}
    line = json.dumps(row | {"certificate": certificate.to_dict()}).encode() + b"\n"
    assert upload(client, 2 * line).json()["rows"] == 2
    assert "more than 2 certificates" in upload(client, 3 * line).json()["detail"]
