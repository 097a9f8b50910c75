"""Addresses of servers: checked before anything is sent. They are stored, so hold no secrets."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.credentials import SHORTEST

_SECRET_WORDS = {
    "apikey", "auth", "authorization", "code", "credential", "credentials", "key", "passwd",
    "password", "pwd", "secret", "sig", "signature", "token",
}  # fmt: skip
"""Words in the names of query parameters whose values are secrets."""
_ADVICE = (
    "Remove it, and put the secret into the vendor's environment variable, or into the one that "
    "?token_env=NAME names."
)


def checked_url(url: str, name: str = "The address of a model server") -> str:
    """Return the address, if it is one of http without secrets.

    Args:
        name: of the address in messages: where the user sets it.

    Raises:
        SettingError: it is not an address of http, or holds a secret, which the message omits.
    """
    got = "" if {"@", "?"} & set(url) else f", got {url!r}"
    if not url.startswith(("http://", "https://")):
        raise SettingError(f"{name} must begin with http:// or https://{got}. Correct it.")
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:  # of the port, or of an IPv6 host
        valid = False
    if not valid:
        raise SettingError(f"{name} must be like http://HOST:PORT/PATH{got}. Correct it.")
    if "@" in parts.netloc:
        raise SettingError(
            f"{name} must not hold a user name or a password, as it is stored with the run. "
            f"{_ADVICE}"
        )
    for parameter, value in parse_qsl(parts.query):
        if _SECRET_WORDS & _words(parameter) and len(value) >= SHORTEST:
            raise SettingError(
                f"{name} must not hold a secret, as it is stored with the run, and its parameter "
                f"{parameter!r} looks like one. {_ADVICE}"
            )
    return url


def _words(name: str) -> set[str]:
    """Return the words of a name such as ``api_key``, ``x-api-key`` or ``apiKey``."""
    return set(re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()))
