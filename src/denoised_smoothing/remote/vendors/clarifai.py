"""Clarifai's image recognition over plain REST. Experimental: not tried against the service."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import (
    FaultSource,
    Limits,
    Reply,
    VendorError,
    fault_of_status,
    retry_after,
)
from denoised_smoothing.remote.vendors.http import WireVendor, checked_url

_FAULTS = {
    range(11000, 11003): (Outcome.REFUSED, FaultSource.ACCOUNT),
    range(11003, 11004): (Outcome.THROTTLED, FaultSource.LOAD),
    range(11004, 11005): (Outcome.REFUSED, FaultSource.ACCOUNT),
    range(11005, 11006): (Outcome.THROTTLED, FaultSource.LOAD),
    range(11006, 11100): (Outcome.REFUSED, FaultSource.ACCOUNT),
    range(21200, 21300): (Outcome.REFUSED, FaultSource.SETUP),
    range(30000, 31000): (Outcome.REJECTED, FaultSource.IMAGE),
    range(98004, 98006): (Outcome.THROTTLED, FaultSource.LOAD),
}
"""Its own status codes, which say more than those of HTTP."""


class Clarifai(WireVendor):
    """Concepts of a model of Clarifai.

    The key is the personal access token in ``CLARIFAI_PAT``; ``CLARIFAI_API_BASE`` is the
    address, as in Clarifai's own client.

    Args:
        model: a public model such as ``general-image-recognition``, or ``USER/APP/MODEL``.
    """

    name: ClassVar[str] = "clarifai"
    limits: ClassVar[Limits] = Limits(max_bytes=20_000_000)
    rate: ClassVar[float | None] = 15.0

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model
        user, app, name = model.split("/") if model.count("/") == 2 else ("clarifai", "main", model)
        base = os.environ.get("CLARIFAI_API_BASE", "https://api.clarifai.com").rstrip("/")
        self.url = f"{checked_url(base)}/v2/users/{user}/apps/{app}/models/{name}/outputs"

    def connect(self, *, timeout: float, in_flight: int) -> None:
        if not os.environ.get("CLARIFAI_PAT"):
            raise SettingError(
                "clarifai needs a personal access token in the environment variable CLARIFAI_PAT, "
                "which is not set; make one in the settings of your account"
            )
        super().connect(timeout=timeout, in_flight=in_flight)

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Key {os.environ.get('CLARIFAI_PAT', '')}"}

    def secrets(self) -> Sequence[str]:
        return (os.environ.get("CLARIFAI_PAT", ""),)

    def request(self, image: bytes) -> Mapping[str, Any]:
        encoded = base64.b64encode(image).decode()
        return {"json": {"inputs": [{"data": {"image": {"base64": encoded}}}]}}

    def fault(self, status: int, answer: Any, headers: Mapping[str, str]) -> VendorError:
        told = answer.get("status") if isinstance(answer, dict) else None
        if isinstance(told, dict) and isinstance(code := told.get("code"), int):
            for codes, (outcome, blame) in _FAULTS.items():
                if code in codes:
                    message = f"{code} {told.get('description')} {told.get('details', '')}"
                    after = retry_after(headers)
                    return VendorError(outcome, message, blame, retry_after=after, answer=answer)
        return fault_of_status(status, str(told or "no further word"), headers, answer)

    def reply(self, answer: Any) -> Reply:
        (output,) = answer["outputs"]
        concepts = output["data"].get("concepts") or []
        version = output["model"].get("model_version", {}).get("id")
        return Reply([Scored(c["name"], float(c["value"])) for c in concepts], version)
