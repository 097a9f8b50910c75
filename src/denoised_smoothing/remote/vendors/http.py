"""A model server of one's own: a POST with the image, and where in the answer the label is."""

from __future__ import annotations

import base64
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from queue import SimpleQueue
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import (
    FaultSource,
    Reply,
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


class Body(StrEnum):
    """How the image is sent."""

    RAW = "raw"
    """The bytes of the file."""
    JSON = "json"
    """An object with the file in base64."""
    FORM = "form"
    """A file of a form."""


class HttpEndpoint(WireVendor):
    """POSTs the image to an address; a JMESPath expression finds the label in the JSON answer.

    Args:
        url: of the server.
        label: the expression; it gives a string, a number, or a list of ``{label, score}``.
        body: how the image is sent.
        field: the name of the image in an object or a form.
        token_env: name of an environment variable whose value is sent as a bearer token.

    Raises:
        SettingError: the address, the expression or the variable is none.
        MissingExtraError: jmespath is not installed.
    """

    name: ClassVar[str] = "http"
    paid: ClassVar[bool] = False

    def __init__(
        self,
        url: str,
        label: str = "label",
        body: Body | str = Body.RAW,
        field: str = "image",
        token_env: str | None = None,
    ) -> None:
        super().__init__()
        self.url = self.model = checked_url(url)
        self._label, self._field = label, field
        try:
            self._body = Body(body)
        except ValueError as error:
            raise SettingError(f"body is one of {[*map(str, Body)]}, got {body!r}") from error
        self._path = _compiled(label)
        self._token = token_of(token_env)

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def secrets(self) -> Sequence[str]:
        return (self._token,) if self._token else ()

    def request(self, image: bytes) -> Mapping[str, Any]:
        kind = "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"
        if self._body is Body.RAW:
            return {"content": image, "headers": {"Content-Type": kind}}
        if self._body is Body.JSON:
            return {"json": {self._field: base64.b64encode(image).decode()}}
        return {"files": {self._field: ("image", image, kind)}}

    def reply(self, answer: Any) -> Reply:
        found = self._path.search(answer)
        if found is None:
            return Reply([])
        if isinstance(found, (str, int, float)):
            return Reply([Scored(str(found), 1.0)])
        return Reply([Scored(str(each["label"]), float(each["score"])) for each in found])

    def fingerprint_parts(self) -> Mapping[str, object]:
        more = {"label": self._label, "body": self._body.value, "field": self._field}
        return {**super().fingerprint_parts(), **more}


def checked_url(url: str) -> str:
    """The address, if it is one of http.

    Raises:
        SettingError: it is not.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingError(
            f"the address of a model server begins with http:// or https://, got {url!r}"
        )
    if "@" in url.split("/")[2]:
        raise SettingError(
            "an address with a user's name and password would be stored with the run; leave them "
            "out and name an environment variable that holds a token (#token_env=NAME)"
        )
    return url


def token_of(variable: str | None) -> str | None:
    """The value of an environment variable that holds a token.

    Raises:
        SettingError: it is not set.
    """
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise SettingError(
            f"the environment variable {variable!r} shall hold a token, and is not set; set it, "
            "or leave #token_env out"
        )
    return token


def _compiled(expression: str) -> Any:
    jmespath = needed("jmespath", "jmespath", "http", "http:URL")
    try:
        return jmespath.compile(expression)
    except jmespath.exceptions.JMESPathError as error:
        raise SettingError(
            f"{expression!r} is no JMESPath expression ({str(error).splitlines()[0]}); write one "
            "such as predictions[0].label"
        ) from error
