"""Credentials: read from the environment, and kept out of every text that is stored or shown."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from urllib.parse import quote, quote_plus

from denoised_smoothing.errors import SettingError

SHORTEST = 4
"""Characters of the shortest secret that is masked: anything shorter is in many words."""
MASK = "[secret]"


def credential(variable: str) -> str | None:
    """Return the key in an environment variable, without blanks around it; None if there is none.

    Raises:
        SettingError: a header of HTTP cannot carry it. The message does not show the key.
    """
    key = os.environ.get(variable, "").strip()
    check_key(key, f"the environment variable {variable}")
    return key or None


def check_key(key: str, place: str) -> None:
    """Check that a header of HTTP can carry a key that was read from a place.

    Raises:
        SettingError: it cannot. The message does not show the key.
    """
    wrong = next((at for at, letter in enumerate(key, 1) if not "!" <= letter <= "~"), None)
    if wrong is not None:
        raise SettingError(
            f"The key in {place} has a blank, a line break or another "
            f"character that HTTP cannot carry, at place {wrong} of {len(key)}. Copy it again."
        )


def cleaned(text: str, secrets: Sequence[str]) -> str:
    """Return the text without secrets, in any form in which servers and libraries quote them.

    Clean a text before it is cut: a part of a secret cannot be recognised.
    """
    pattern = _pattern(tuple(secret for secret in secrets if len(secret) >= SHORTEST))
    return text if pattern is None else pattern.sub(MASK, text)


@lru_cache(maxsize=8)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what finds all forms of the secrets, the longest first; made once for all answers."""
    forms = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, forms)), re.IGNORECASE) if forms else None


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode().rstrip("=")
