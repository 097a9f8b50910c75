"""What a vendor is: how one image is sent and what its answer means. Nothing is retried here."""

from __future__ import annotations

import email.utils
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any, ClassVar

from denoised_smoothing.errors import MissingExtraError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.prices import PRICES, Price


@dataclass(frozen=True, slots=True)
class Limits:
    """What a vendor takes: sides in pixels, bytes of the encoded image."""

    min_side: int = 1
    max_side: int | None = None
    max_bytes: int | None = None


class FaultSource(Enum):
    """Where to look when a query fails."""

    LOAD = "load"
    """Later it may work: throttled, overloaded, a lost connection."""
    IMAGE = "image"
    """This image is not taken; others may be."""
    ACCOUNT = "account"
    """Key, rights or quota: no query will work until that is mended."""
    SETUP = "setup"
    """A name, an address or a request that the vendor does not know."""


class VendorError(Exception):
    """An attempt that brought no answer.

    Args:
        outcome: what is noted of the attempt.
        message: one sentence about it.
        blame: where to look.
        retry_after: seconds to wait, where the vendor names them.
        answer: what it sent instead, if that is JSON.
    """

    def __init__(
        self,
        outcome: Outcome,
        message: str,
        blame: FaultSource = FaultSource.LOAD,
        *,
        retry_after: float | None = None,
        answer: Any = None,
    ) -> None:
        super().__init__(" ".join(message.split())[:500])
        self.outcome, self.blame = outcome, blame
        self.retry_after, self.answer = retry_after, answer


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer means: labels with scores, and the version of the model, if told."""

    scored: Sequence[Scored]
    version: str | None = None


class Vendor(ABC):
    """One image to one raw answer, by one attempt; and from the raw answer to labels.

    Threads share an object once it is connected. ``options`` are what determines its answers,
    without secrets.
    """

    name: ClassVar[str]
    extra: ClassVar[str] = "http"
    limits: ClassVar[Limits] = Limits()
    rate: ClassVar[float | None] = None
    """Queries a second that a new account is allowed, as far as known."""
    paid: ClassVar[bool] = True
    """Whether its queries cost money, whatever the price."""
    model: str = ""

    @property
    def price(self) -> Price | None:
        """Of one query; None if not known."""
        return PRICES.get(self.name)

    @abstractmethod
    def connect(self, *, timeout: float, in_flight: int) -> None:
        """Import the SDK, find credentials and make the client, without sending anything.

        Args:
            timeout: seconds for a whole query.
            in_flight: how many threads will use it.

        Raises:
            MissingExtraError: the SDK is not installed.
            SettingError: no credentials, no region, no address; says where they are looked for.
        """

    @abstractmethod
    def send(self, image: bytes) -> Any:
        """One attempt at an encoded image; returns the vendor's answer as plain JSON values.

        Raises:
            VendorFault: there is no answer.
        """

    @abstractmethod
    def reply(self, answer: Any) -> Reply:
        """What an answer means.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: it is not in the vendor's format.
        """

    def close(self) -> None:  # noqa: B027
        """Give connections back."""

    def secrets(self) -> Sequence[str]:
        """What must never be written anywhere."""
        return ()

    def fingerprint_parts(self) -> Mapping[str, object]:
        """Plain settings that determine the answers."""
        return {"vendor": self.name, "model": self.model}


def needed(module: str, package: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, extra, purpose) from error


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds of a header ``Retry-After``, given as a number or as a date."""
    text = next((v for k, v in (headers or {}).items() if k.lower() == "retry-after"), None)
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


_BLAMES = {
    400: (Outcome.REJECTED, FaultSource.IMAGE),
    401: (Outcome.REFUSED, FaultSource.ACCOUNT),
    402: (Outcome.REFUSED, FaultSource.ACCOUNT),
    403: (Outcome.REFUSED, FaultSource.ACCOUNT),
    404: (Outcome.REFUSED, FaultSource.SETUP),
    405: (Outcome.REFUSED, FaultSource.SETUP),
    407: (Outcome.REFUSED, FaultSource.SETUP),
    408: (Outcome.TIMEOUT, FaultSource.LOAD),
    410: (Outcome.REFUSED, FaultSource.SETUP),
    413: (Outcome.REJECTED, FaultSource.IMAGE),
    415: (Outcome.REJECTED, FaultSource.IMAGE),
    422: (Outcome.REJECTED, FaultSource.IMAGE),
    429: (Outcome.THROTTLED, FaultSource.LOAD),
    503: (Outcome.THROTTLED, FaultSource.LOAD),
}


def fault_of_status(
    status: int, message: str, headers: Mapping[str, str] | None = None, answer: Any = None
) -> VendorError:
    """The fault that an HTTP status stands for. 503 with ``Retry-After`` counts as throttled."""
    after = retry_after(headers)
    outcome, blame = _BLAMES.get(status, (Outcome.FAILED, FaultSource.LOAD))
    if status == 503 and after is None:
        outcome = Outcome.FAILED
    if 300 <= status < 400:
        outcome, blame = Outcome.REFUSED, FaultSource.SETUP
    return VendorError(
        outcome, f"HTTP {status}: {message}", blame, retry_after=after, answer=answer
    )


def to_json(answer: Any) -> str:
    """The answer as JSON; what JSON cannot say becomes text."""
    return json.dumps(answer, separators=(",", ":"), default=str)
