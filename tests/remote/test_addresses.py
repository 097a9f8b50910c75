"""Addresses: of http, and without secrets."""

from __future__ import annotations

import pytest

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.addresses import checked_url


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:4566",
        "https://host/v2/models/m/infer?version=1&size=224",
        "https://api.example.com/run/@vendor/model",
        "http://h/x?key=1",
        "http://h/x?keyboard=german&monkey=12345",
        "http://[::1]:8000/v1",
    ],
)
def test_addresses_without_secrets_are_taken(url: str) -> None:
    assert checked_url(url) == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:4566", "must begin with http:// or https://, got 'localhost:4566'. Correct"),
        ("", "must begin with http"),
        ("http://", "must be like http://HOST"),
        ("http://host:port/", "must be like http://HOST"),
        ("http://host:99999/", "must be like http://HOST"),
        ("http://[::1/", "must be like http://HOST"),
        ("http://host/\n", "must be like http://HOST"),
        ("https://user:pass-word@host/x", "must not hold a user name or a password"),
        ("https://user:pass-word/x@host/x", "must be like http://HOST"),
        ("user:pass-word@host", "must begin with http"),
        ("http://host/x?api_key=pass-word", "'api_key' looks like one"),
        ("http://host/x?a=1&apiKey=pass-word", "'apiKey' looks like one"),
        ("http://host/x?X-Amz-Signature=pass-word", "'X-Amz-Signature' looks like one"),
        ("http://host/x?access_token=pass-word", "'access_token' looks like one"),
    ],
)
def test_other_addresses_are_refused_without_showing_a_secret(url: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        checked_url(url, "VARIABLE")
    assert str(caught.value).startswith("VARIABLE must")
    assert message in str(caught.value)
    assert "pass-word" not in str(caught.value)
