"""What fails before anything is sent: it costs nothing, and no secret is shown."""

from __future__ import annotations

from typing import Any

import pytest
from fake import KEY, FakeVendor
from test_faults import picture
from vendors import BY_NAME, Case, prepare

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.records import Charge, Outcome
from denoised_smoothing.remote.vendors.base import Vendor, VendorError

GONE = "http://127.0.0.1:1"


def changed(name: str, **environment: str) -> Case:
    """The case of a vendor with other variables."""
    case = BY_NAME[name]
    return Case(name, case.make, lambda url: case.environment(url) | environment, case.secret)


def made(patch: pytest.MonkeyPatch, name: str, **environment: str) -> Vendor:
    return prepare(patch, changed(name, **environment), GONE)


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("aws", "AWS_ACCESS_KEY_ID", "key-of\naws"),
        ("aws", "AWS_SECRET_ACCESS_KEY", "key-of-aws\n"),
        ("aws", "AWS_SESSION_TOKEN", "key-of-äws"),
        ("aws", "AWS_ENDPOINT_URL", "localhost:4566"),
        ("aws", "AWS_ENDPOINT_URL", "http://user:key-of@localhost:4566"),
        ("aws", "AWS_ENDPOINT_URL_REKOGNITION", "http://localhost:many"),
        ("openai", "OPENAI_BASE_URL", "http://localhost:many/v1"),
        ("openai", "OPENAI_BASE_URL", "https://user:key-of@localhost/v1"),
        ("openai", "OPENAI_BASE_URL", "ftp://localhost/v1"),
        ("azure", "VISION_ENDPOINT", "https://localhost?api_key=key-of"),
        ("clarifai", "CLARIFAI_API_BASE", "https://user:key-of@localhost"),
    ],
)
def test_a_key_or_address_that_cannot_be_used_is_refused_by_its_variable(
    name: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingError, match=variable) as caught:
        made(monkeypatch, name, **{variable: value}).connect(timeout=1, in_flight=1)
    assert "key-of" not in str(caught.value)


@pytest.mark.parametrize("name", ["openai", "http"])
def test_a_proxy_that_cannot_be_used_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = made(monkeypatch, name)
    monkeypatch.setenv("HTTP_PROXY", "ftp://user:key-of@localhost")
    with pytest.raises(SettingError, match="HTTP_PROXY") as caught:
        vendor.connect(timeout=1, in_flight=1)
    assert "key-of" not in str(caught.value)


def outcome_of(vendor: Vendor) -> Outcome:
    with pytest.raises(VendorError) as caught:
        vendor.send(picture(0))
    assert caught.value.outcome.charge is Charge.NO
    return caught.value.outcome


class Credentials:
    """Credentials of Google whose token cannot be had, or changes with each query."""

    token, refresh_token = "first-token", "the-refresh-token"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def before_request(self, request: Any, method: str, url: str, headers: Any) -> None:
        if self.error is not None:
            raise self.error
        self.token = "second-token"


def with_credentials(vendor: Any, credentials: Credentials) -> Vendor:
    vendor._client.transport._session.credentials = vendor._credentials = credentials
    return vendor


def test_google_without_a_token_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.auth import exceptions

    vendor = made(monkeypatch, "google")
    vendor.connect(timeout=5, in_flight=1)
    for error, outcome in (
        (exceptions.RefreshError("revoked"), Outcome.REFUSED),
        (exceptions.TransportError("no host"), Outcome.UNREACHABLE),
    ):
        assert outcome_of(with_credentials(vendor, Credentials(error))) is outcome
    vendor.close()


def test_the_tokens_of_google_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeVendor() as fake:
        vendor = prepare(monkeypatch, BY_NAME["google"], fake.url)
        vendor.connect(timeout=5, in_flight=1)
        with_credentials(vendor, Credentials())
        vendor.secrets()
        vendor.send(picture(0))
        vendor.close()
    assert {"first-token", "second-token", "the-refresh-token"} <= set(vendor.secrets())


def test_new_credentials_of_amazon_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeVendor() as fake:
        vendor: Any = prepare(monkeypatch, BY_NAME["aws"], fake.url)
        vendor.connect(timeout=5, in_flight=1)
        held = vendor._client._request_signer._credentials
        held.access_key, held.token = "AKIANEW0123456789", "new-session-token"
        with pytest.raises(VendorError):  # the server does not know the key
            vendor.send(picture(0))
        vendor.close()
    assert {KEY, "AKIANEW0123456789", "new-session-token"} <= set(vendor.secrets())


@pytest.mark.parametrize("kind", ["ConnectError", "ProxyError", "LocalProtocolError"])
def test_openai_tells_what_was_not_sent(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from openai import DefaultHttpxClient

    from denoised_smoothing.remote.vendors.bounds import library_of

    httpx = library_of(DefaultHttpxClient.__base__)
    vendor = made(monkeypatch, "openai")
    vendor.connect(timeout=5, in_flight=1)

    def fail(*_: object, **__: object) -> None:
        raise getattr(httpx, kind)("made by the test")

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", fail)
    refused = kind == "LocalProtocolError"
    assert outcome_of(vendor) is (Outcome.REFUSED if refused else Outcome.UNREACHABLE)
    vendor.close()
