"""Vendors that are reached by plain POST requests with JSON answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.addresses import checked_url
from denoised_smoothing.remote.credentials import credential
from denoised_smoothing.remote.limits import LARGEST_ANSWER
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import FaultSource, Vendor, VendorError
from denoised_smoothing.remote.vendors.bounds import PLAIN, Watch
from denoised_smoothing.remote.vendors.connections import ClientPool


class RestVendor(Vendor):
    """A vendor that is reached by POST requests with JSON answers, through httpx.

    Args:
        token_env: name of an environment variable whose value is sent as a bearer token.
    """

    package: ClassVar[str | None] = "httpx"
    extra: ClassVar[str | None] = "http"
    scheme: ClassVar[str] = "Bearer"
    """Of the header Authorization, in front of the token."""

    def __init__(self, url: str, token_env: str | None = None) -> None:
        self.url = checked_url(url)
        if token_env is not None:
            if not (token := credential(token_env)):
                raise SettingError(
                    f"The environment variable {token_env!r} must hold a token, but is not set. "
                    "Set it, or remove token_env."
                )
            self._secrets = (token,)
        self._clients = ClientPool()

    def connect(
        self, *, timeout: float, in_flight: int, largest_answer: int = LARGEST_ANSWER
    ) -> None:
        httpx = self.module("httpx")
        self.errors = {
            (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError): self._unreachable,
            (httpx.InvalidURL, httpx.UnsupportedProtocol): self._no_address,
            httpx.LocalProtocolError: Outcome.REFUSED,  # nothing was sent
            httpx.TimeoutException: Outcome.TIMEOUT,
            httpx.TransportError: Outcome.DROPPED,
        }
        headers = {**PLAIN, **self.headers()}
        self._clients.fill(
            httpx,
            lambda watch, context: httpx.Client(
                timeout=timeout, headers=headers, verify=context, event_hooks=watch.hooks
            ),
            [Watch(timeout, largest_answer) for _ in range(in_flight)],
        )

    def close(self) -> None:
        self._clients.close()

    def headers(self) -> Mapping[str, str]:
        """Return the headers of every request; they may hold secrets."""
        return {"Authorization": f"{self.scheme} {self._secrets[0]}"} if self._secrets else {}

    @abstractmethod
    def request(self, image: bytes) -> Mapping[str, Any]:
        """Return the arguments of httpx's ``post``, without the address."""

    def query(self, image: bytes) -> Any:
        request = self.request(image)
        return self.call(lambda client: client.post(self.url, **request))

    def call(self, request: Callable[[Any], Any]) -> Any:
        """Return the JSON answer to a request, which is given a client."""
        with self._clients.client() as client:
            response = request(client)
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            answer = None
            if response.status_code < 300:
                text = response.text
                raise VendorError(
                    Outcome.GARBLED, f"the answer is not JSON: {text!r}", answer=text
                ) from error
        if response.status_code >= 300:
            raise self.fault(response.status_code, answer, response.headers)
        return answer

    def fault(self, status: int, answer: Any, headers: Mapping[str, str]) -> VendorError:
        """Return the error for a status of 300 or more."""
        return VendorError.of_status(status, _message(answer), headers, answer)

    def _unreachable(self, error: Any) -> VendorError:
        return VendorError(Outcome.UNREACHABLE, f"no connection to {self.url} ({error})")

    def _no_address(self, error: Any) -> VendorError:
        message = f"{self.url!r} is not an address ({error})"
        return VendorError(Outcome.REFUSED, message, FaultSource.SETUP)


def _message(answer: Any) -> str:
    """Return the sentence in an error answer, from the fields that servers commonly use."""
    if isinstance(answer, dict):
        for key in ("error", "message", "detail", "status", "description"):
            if key in answer:
                return _message(answer[key])
    return "no message" if answer in (None, "") else str(answer)
