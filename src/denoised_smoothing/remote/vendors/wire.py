"""Vendors without an SDK worth having: plain httpx."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, ClassVar

from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import (
    FaultSource,
    Vendor,
    VendorError,
    fault_of_status,
    needed,
)


class WireVendor(Vendor):
    """A vendor that is spoken to by POST requests with JSON answers."""

    extra: ClassVar[str] = "http"
    url: str

    def __init__(self) -> None:
        self._httpx: Any = None
        self._clients: SimpleQueue[Any] = SimpleQueue()

    def connect(self, *, timeout: float, in_flight: int) -> None:
        self._httpx = needed("httpx", "httpx", self.extra, f"{self.name}:")
        context, headers = self._httpx.create_ssl_context(), dict(self.headers())
        # A client with many connections looks through all of them at each request.
        for _ in range(in_flight):
            self._clients.put(self._httpx.Client(timeout=timeout, headers=headers, verify=context))

    def close(self) -> None:
        while not self._clients.empty():
            self._clients.get().close()

    def headers(self) -> Mapping[str, str]:
        """Of every request; may hold secrets."""
        return {}

    @abstractmethod
    def request(self, image: bytes) -> Mapping[str, Any]:
        """Arguments of httpx's ``post`` beside the address."""

    def send(self, image: bytes) -> Any:
        request = self.request(image)
        return self._answer(lambda client: client.post(self.url, **request))

    def fault(self, status: int, answer: Any, headers: Mapping[str, str]) -> VendorError:
        """What a status of 300 or more means."""
        return fault_of_status(status, _message(answer), headers, answer)

    def _answer(self, call: Callable[[Any], Any]) -> Any:
        """The JSON answer of a request by a client; httpx's errors as faults."""
        httpx, client = self._httpx, self._clients.get()
        try:
            response = call(client)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise VendorError(
                Outcome.UNREACHABLE, f"no connection to {self.url} ({error})", FaultSource.LOAD
            ) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise VendorError(
                Outcome.REFUSED, f"{self.url!r} is no address ({error})", FaultSource.SETUP
            ) from error
        except httpx.TimeoutException as error:
            raise VendorError(Outcome.TIMEOUT, f"no answer in time ({error!r})") from error
        except httpx.TransportError as error:
            raise VendorError(Outcome.DROPPED, f"the connection ended ({error})") from error
        finally:
            self._clients.put(client)
        try:
            answer = response.json()
        except ValueError as error:
            answer = None
            if response.status_code < 300:
                raise VendorError(
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
