"""The contract of a vendor: how one image is sent, and what its answer means. No retries here."""

from __future__ import annotations

import email.utils
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any, ClassVar

from denoised_smoothing.errors import MissingExtraError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.limits import LARGEST_ANSWER
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.text import shown


@dataclass(frozen=True, slots=True)
class Limits:
    """The images that a vendor accepts: sides in pixels, bytes of the encoded image."""

    min_side: int = 1
    max_side: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """A price in US dollars a query, and its source."""

    dollars: float
    source: str
    verified: bool = True

    def __str__(self) -> str:
        doubt = "" if self.verified else "unverified price; set --price: "
        return f"${self.dollars:g} a query ({doubt}{self.source})"


class FaultSource(Enum):
    """The place to look for the cause of a failed query."""

    LOAD = "load"
    """A later query may work: throttled, overloaded, a lost connection."""
    IMAGE = "image"
    """This image is refused; others may be accepted."""
    ACCOUNT = "account"
    """Key, rights or quota: no query works until this is repaired."""
    CLOCK = "clock"
    """The clock of this machine: no query works until it is set."""
    SETUP = "setup"
    """A name, an address or a request that the vendor does not know."""


class VendorError(Exception):
    """An attempt without an answer.

    Args:
        outcome: recorded with the attempt.
        message: one sentence about it.
        source: where to look; by default the image if it was rejected, the account if it was
            refused, and else the load.
        headers: of the answer, which may say when to try again.
        answer: the JSON that came instead, if any.
    """

    def __init__(
        self,
        outcome: Outcome,
        message: str,
        source: FaultSource | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        answer: Any = None,
    ) -> None:
        super().__init__(shown(" ".join(message.split())))
        self.outcome, self.answer = outcome, answer
        self.source = source or _SOURCES.get(outcome, FaultSource.LOAD)
        self.retry_after = retry_after(headers)

    @classmethod
    def of_status(
        cls, status: int, message: str, headers: Mapping[str, str] | None = None, answer: Any = None
    ) -> VendorError:
        """Return the error for an HTTP status. 503 with ``Retry-After`` counts as throttled."""
        outcome, source = Outcome.FAILED, None
        if status == 503 and retry_after(headers) is not None:
            outcome = Outcome.THROTTLED
        for statuses, known, place in _STATUSES:
            if status in statuses:
                outcome, source = known, place
        if target := header(headers, "location"):
            message += f" (it redirects to {target}, which is not followed)"
        return cls(outcome, f"HTTP {status}: {message}", source, headers=headers, answer=answer)


_SOURCES = {Outcome.REJECTED: FaultSource.IMAGE, Outcome.REFUSED: FaultSource.ACCOUNT}
_STATUSES: list[tuple[Sequence[int], Outcome, FaultSource | None]] = [
    ((400, 413, 415, 422), Outcome.REJECTED, None),
    ((401, 402, 403), Outcome.REFUSED, None),
    ((404, 405, 407, 410, *range(300, 400)), Outcome.REFUSED, FaultSource.SETUP),
    ((408,), Outcome.TIMEOUT, None),
    ((429,), Outcome.THROTTLED, None),
]


@dataclass(frozen=True, slots=True)
class Reply:
    """The meaning of an answer: labels with scores, and the model's version, if reported."""

    scored: Sequence[Scored]
    version: str | None = None


class Vendor(ABC):
    """One attempt from an image to a raw answer, and from the raw answer to labels.

    Threads share an object once it is connected. Constructors raise SettingError for arguments
    that are out of their range.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """The module of the SDK, as it is imported."""
    extra: ClassVar[str | None] = None
    limits: ClassVar[Limits] = Limits()
    rate: ClassVar[float | None] = None
    """Queries a second that a new account is allowed, as far as known."""
    paid: ClassVar[bool] = True
    """Whether queries cost money, whatever the price."""
    price: Price | None = None
    """Of the first paid tier; None if not known. ``docs/vision-apis.md`` names the sources."""
    model: str = ""
    options: Mapping[str, object] = {}
    """Plain settings that determine the answers, without secrets."""
    errors: Mapping[Any, Outcome | Callable[[Any], VendorError]] = {}
    """From exceptions of the SDK to outcomes, once it is connected; the first match counts."""
    notes: Sequence[str] = ()
    """Sentences for the user about how it answers, once they are known."""
    _client: Any = None
    _secrets: Sequence[str] = ()

    @classmethod
    def from_spec(cls, rest: str, labels: Sequence[str], **options: Any) -> Vendor:
        """Make the vendor of a spec with this rest, these labels and these options."""
        return cls(**options)

    @abstractmethod
    def connect(
        self, *, timeout: float, in_flight: int, largest_answer: int = LARGEST_ANSWER
    ) -> None:
        """Import the SDK, find credentials and make the client, without sending anything.

        Args:
            timeout: seconds for a whole query.
            in_flight: the number of threads that will use it.
            largest_answer: maximum bytes of an answer.

        Raises:
            MissingExtraError: the SDK is not installed.
            SettingError: credentials, region or address are missing; names where they are read.
        """

    @abstractmethod
    def query(self, image: bytes) -> Any:
        """Send an encoded image once; return the vendor's answer as plain JSON values."""

    @abstractmethod
    def reply(self, answer: Any) -> Reply:
        """Return the meaning of an answer.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: it is not in the vendor's format.
        """

    def send(self, image: bytes) -> Any:
        """Return the answer to one query.

        Raises:
            VendorError: there is no answer.
        """
        try:
            return self.query(image)
        except Exception as error:
            for kinds, meaning in self.errors.items():
                if isinstance(error, kinds):
                    if not isinstance(meaning, Outcome):
                        raise meaning(error) from error
                    raise VendorError(meaning, f"{_MESSAGES[meaning]} ({error})") from error
            raise

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def secrets(self) -> Sequence[str]:
        """Return the texts that must never be written anywhere, those of this moment included."""
        return self._secrets

    def keep_secrets(self, *texts: object) -> None:
        """Add secrets. Earlier ones stay, as an answer in flight may quote them."""
        new = (text for text in texts if text and isinstance(text, str))
        self._secrets = tuple(dict.fromkeys((*self._secrets, *new)))

    def fingerprint_parts(self) -> Mapping[str, object]:
        """Return the plain settings that determine the answers."""
        return {"vendor": self.name, "model": self.model, **self.options}

    def module(self, name: str) -> Any:
        """Import a module of the SDK.

        Raises:
            MissingExtraError: it is not installed.
        """
        try:
            return import_module(name)
        except ImportError as error:
            raise MissingExtraError(name, self.extra, self.name) from error


_MESSAGES = {
    Outcome.UNREACHABLE: "no connection",
    Outcome.TIMEOUT: "no answer in time",
    Outcome.DROPPED: "the connection ended",
    Outcome.GARBLED: "the answer cannot be read",
    Outcome.REFUSED: "the query cannot be made",
}


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Return the seconds of a header ``Retry-After``, which holds a number or a date.

    None without one, or for one that says nothing: infinite, not a number, unreadable.
    """
    text = header(headers, "retry-after") or ""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError, OSError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def header(headers: Mapping[str, str] | None, name: str) -> str | None:
    """Return the header of that name, in whatever case."""
    return next((v for k, v in (headers or {}).items() if k.lower() == name), None)


def to_json(answer: Any) -> str:
    """Return the answer as JSON; values that JSON does not have become text."""
    return json.dumps(answer, separators=(",", ":"), default=str)
