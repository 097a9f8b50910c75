"""A model server of one's own: a POST with the image, and a label found in the answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError, SpecError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.source import remote_source
from denoised_smoothing.remote.vendors.base import Reply, Vendor
from denoised_smoothing.remote.vendors.kserve import KServe
from denoised_smoothing.remote.vendors.rest import RestVendor


class Body(StrEnum):
    """The form in which the image is sent."""

    RAW = "raw"
    """The bytes of the file."""
    JSON = "json"
    """An object with the file in base64."""
    FORM = "form"
    """A file of a form."""


class Protocol(StrEnum):
    """The format of requests and answers."""

    JSON = "json"
    KSERVE = "kserve"


_TAKES = {Protocol.JSON: {"label", "body", "field"}, Protocol.KSERVE: {"output"}}


class HttpEndpoint(RestVendor):
    """POSTs the image to an address; a JMESPath expression finds the label in the JSON answer.

    Args:
        label: the expression; it gives a string, or a list of ``{label, score}``.
        body: the form in which the image is sent.
        field: the name of the image in an object or a form.
        token_env: name of an environment variable whose value is sent as a bearer token.

    Raises:
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
        super().__init__(url, token_env)
        if body not in list(Body):
            raise SettingError(f"body must be one of {[*map(str, Body)]}, got {body!r}")
        self.model, self._body, self._field = url, Body(body), field
        self.options = {"label": label, "body": self._body.value, "field": field}
        jmespath = self.module("jmespath")
        try:
            self._path = jmespath.compile(label)
        except jmespath.exceptions.JMESPathError as error:
            raise SettingError(
                f"label must be a JMESPath expression, got {label!r} "
                f"({str(error).splitlines()[0]}). Write one such as predictions[0].label."
            ) from error

    @classmethod
    def from_spec(
        cls, rest: str, labels: Sequence[str], protocol: Protocol = Protocol.JSON, **options: Any
    ) -> Vendor:
        if refused := sorted(options.keys() - _TAKES[protocol] - {"token_env"}):
            raise SpecError(
                f"protocol={protocol} does not take the option {refused[0]!r}. Remove it."
            )
        if protocol is Protocol.KSERVE:
            return KServe(rest, labels, **options)
        return cls(rest, **options)

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
            return Reply([Scored(found, 1.0)])
        return Reply([Scored(each["label"], each["score"]) for each in found])


SOURCE = remote_source(
    HttpEndpoint,
    "http:URL?label=JMESPATH or http:URL?protocol=kserve",
    "a model server of your own",
    url=True,
    protocol=Protocol,
    **dict.fromkeys(("label", "body", "field", "output", "token_env"), str),
)
HTTPS = replace(SOURCE, form="https://HOST/PATH?label=JMESPATH")
