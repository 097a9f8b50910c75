"""Clarifai's image recognition over plain REST. Experimental: not tried against the service."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.addresses import checked_url
from denoised_smoothing.remote.credentials import credential
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.limits import LARGEST_ANSWER
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.source import remote_source
from denoised_smoothing.remote.vendors.base import (
    FaultSource,
    Limits,
    Price,
    Reply,
    Vendor,
    VendorError,
)
from denoised_smoothing.remote.vendors.rest import RestVendor

_CODES = {
    (11003, 11005, 98004, 98005): (Outcome.THROTTLED, None),
    range(11000, 11100): (Outcome.REFUSED, None),
    range(21200, 21300): (Outcome.REFUSED, FaultSource.SETUP),
    range(30000, 31000): (Outcome.REJECTED, None),
}
"""Clarifai's own status codes, more precise than those of HTTP; the first match counts."""


class Clarifai(RestVendor):
    """Concepts of a model of Clarifai.

    The key is the personal access token in ``CLARIFAI_PAT``; ``CLARIFAI_API_BASE`` is the
    address, as in Clarifai's own client.

    Args:
        model: a public model such as ``general-image-recognition``, or ``USER/APP/MODEL``.
    """

    name: ClassVar[str] = "clarifai"
    scheme: ClassVar[str] = "Key"
    limits: ClassVar[Limits] = Limits(max_bytes=20_000_000)
    rate: ClassVar[float | None] = 15.0
    price = Price(0.0012, "a list of 2018-11-08", verified=False)

    def __init__(self, model: str) -> None:
        user, app, name = model.split("/") if model.count("/") == 2 else ("clarifai", "main", model)
        base = os.environ.get("CLARIFAI_API_BASE", "https://api.clarifai.com")
        base = checked_url(base, "CLARIFAI_API_BASE").rstrip("/")
        super().__init__(f"{base}/v2/users/{user}/apps/{app}/models/{name}/outputs")
        self.model = model

    @classmethod
    def from_spec(cls, rest: str, labels: Sequence[str], **options: Any) -> Vendor:
        return cls(rest)

    def connect(
        self, *, timeout: float, in_flight: int, largest_answer: int = LARGEST_ANSWER
    ) -> None:
        token = credential("CLARIFAI_PAT")
        if not token:
            raise SettingError(
                "clarifai needs a personal access token in the environment variable CLARIFAI_PAT, "
                "which is not set. Create one in the settings of your account."
            )
        self._secrets = (token,)
        super().connect(timeout=timeout, in_flight=in_flight, largest_answer=largest_answer)

    def request(self, image: bytes) -> Mapping[str, Any]:
        encoded = base64.b64encode(image).decode()
        return {"json": {"inputs": [{"data": {"image": {"base64": encoded}}}]}}

    def fault(self, status: int, answer: Any, headers: Mapping[str, str]) -> VendorError:
        reported = answer.get("status") if isinstance(answer, dict) else None
        if isinstance(reported, dict) and isinstance(code := reported.get("code"), int):
            for codes, (outcome, source) in _CODES.items():
                if code in codes:
                    message = f"{code} {reported.get('description')} {reported.get('details', '')}"
                    return VendorError(outcome, message, source, headers=headers, answer=answer)
        return VendorError.of_status(status, str(reported or "no message"), headers, answer)

    def reply(self, answer: Any) -> Reply:
        (output,) = answer["outputs"]
        concepts = output["data"].get("concepts") or []
        version = output["model"].get("model_version", {}).get("id")
        return Reply([Scored(c["name"], c["value"]) for c in concepts], version)


SOURCE = remote_source(Clarifai, "clarifai:MODEL", "Clarifai, experimental")
