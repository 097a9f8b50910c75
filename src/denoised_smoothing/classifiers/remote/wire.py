"""Vendors without an SDK worth having: plain httpx."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from denoised_smoothing.classifiers.remote.vendor import (
    Blame,
    Vendor,
    VendorFault,
    fault_of_status,
    needed,
)
from denoised_smoothing.queries import Outcome


class WireVendor(Vendor):
    """A vendor that is spoken to by POST requests with JSON answers."""

    extra: ClassVar[str] = "http"
    url: str

    def __init__(self) -> None:
        self._httpx: Any = None
        self._client: Any = None

    def connect(self, *, timeout: float, in_flight: int) -> None:
        self._httpx = needed("httpx", "httpx", self.extra, f"{self.name}:")
        self._client = self._httpx.Client(
            timeout=timeout,
            headers=dict(self.headers()),
            limits=self._httpx.Limits(
                max_connections=in_flight, max_keepalive_connections=in_flight
            ),
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def headers(self) -> Mapping[str, str]:
        """Of every request; may hold secrets."""
        return {}

    @abstractmethod
    def request(self, image: bytes) -> Mapping[str, Any]:
        """Arguments of httpx's ``post`` beside the address."""

    def send(self, image: bytes) -> Any:
        return self._answer(lambda: self._client.post(self.url, **self.request(image)))

    def fault(self, status: int, answer: Any, headers: Mapping[str, str]) -> VendorFault:
        """What a status of 300 or more means."""
        return fault_of_status(status, _message(answer), headers, answer)

    def _answer(self, call: Any) -> Any:
        """The JSON answer of a request; httpx's errors as faults."""
        httpx = self._httpx
        try:
            response = call()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise VendorFault(
                Outcome.UNREACHABLE, f"no connection to {self.url} ({error})", Blame.LOAD
            ) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise VendorFault(
                Outcome.REFUSED, f"{self.url!r} is no address ({error})", Blame.SETUP
            ) from error
        except httpx.TimeoutException as error:
            raise VendorFault(Outcome.TIMEOUT, f"no answer in time ({error!r})") from error
        except httpx.TransportError as error:
            raise VendorFault(Outcome.DROPPED, f"the connection ended ({error})") from error
        try:
            answer = response.json()
        except ValueError as error:
            answer = None
            if response.status_code < 300:
                raise VendorFault(
                    Outcome.GARBLED, f"the answer is not JSON: {response.text[:200]!r}",
                    answer=response.text[:2000],
                ) from error  # fmt: skip
        if response.status_code >= 300:
            raise self.fault(response.status_code, answer, response.headers)
        return answer


def _message(answer: Any) -> str:
    """The sentence in an error answer, wherever usual servers put it."""
    if isinstance(answer, dict):
        for key in ("error", "message", "detail", "status", "description"):
            if key in answer:
                return _message(answer[key])
    return "no further word" if answer in (None, "") else str(answer)
