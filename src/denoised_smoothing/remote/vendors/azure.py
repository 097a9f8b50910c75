"""Azure AI Vision, Image Analysis 4.0, tags, by azure-ai-vision-imageanalysis."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.addresses import checked_url
from denoised_smoothing.remote.credentials import credential
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.limits import LARGEST_ANSWER
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.source import remote_source
from denoised_smoothing.remote.vendors.base import (
    Limits,
    Price,
    Reply,
    Vendor,
    VendorError,
)
from denoised_smoothing.remote.vendors.connections import bound_session, limited


class ImageAnalysis(Vendor):
    """Tags of Azure's Image Analysis.

    Address and key are in ``VISION_ENDPOINT`` and ``VISION_KEY``, as in Microsoft's samples.
    """

    name: ClassVar[str] = "azure"
    package: ClassVar[str | None] = "azure.ai.vision.imageanalysis"
    extra: ClassVar[str | None] = "azure"
    limits: ClassVar[Limits] = Limits(min_side=50, max_side=16_000, max_bytes=20_971_520)
    rate: ClassVar[float | None] = 10.0
    price = Price(0.001, "no source was found", verified=False)
    model = "tags"
    _timeout = 0.0

    def connect(
        self, *, timeout: float, in_flight: int, largest_answer: int = LARGEST_ANSWER
    ) -> None:
        sdk = self.module("azure.ai.vision.imageanalysis")
        credentials = self.module("azure.core.credentials")
        exceptions = self.module("azure.core.exceptions")
        self.errors = {
            exceptions.ServiceResponseTimeoutError: Outcome.TIMEOUT,
            exceptions.IncompleteReadError: Outcome.DROPPED,
            exceptions.DecodeError: Outcome.GARBLED,
            exceptions.DeserializationError: Outcome.GARBLED,
            exceptions.HttpResponseError: _fault,
            exceptions.ServiceRequestError: Outcome.UNREACHABLE,
            exceptions.ServiceResponseError: _ended,
            ValueError: Outcome.GARBLED,
        }
        endpoint = os.environ.get("VISION_ENDPOINT", "").strip()
        key = credential("VISION_KEY") or ""
        for name, value in (("VISION_ENDPOINT", endpoint), ("VISION_KEY", key)):
            if not value:
                raise SettingError(
                    f"azure needs address and key of a Computer Vision resource, and {name} is "
                    "not set. Copy both from 'Keys and Endpoint' in the portal to VISION_ENDPOINT "
                    "and VISION_KEY."
                )
        self._secrets = (key,)
        self._client = sdk.ImageAnalysisClient(
            checked_url(endpoint, "VISION_ENDPOINT"),
            credentials.AzureKeyCredential(key),
            retry_total=0,
            logging_enable=False,
            transport=self._transport(timeout, in_flight, largest_answer),
        )
        self._timeout = timeout

    def query(self, image: bytes) -> Any:
        with limited(self._timeout):
            return self._client.analyze(image, visual_features=["tags"]).as_dict()

    def reply(self, answer: Any) -> Reply:
        tags = (answer.get("tagsResult") or {}).get("values") or []
        version = answer["modelVersion"]
        return Reply([Scored(tag["name"], tag["confidence"]) for tag in tags], version)

    def _transport(self, timeout: float, in_flight: int, largest_answer: int) -> Any:
        """Return a transport with a connection per query in flight; the SDK's own keeps 10."""
        session = self.module("requests").Session()
        bound_session(session, in_flight, largest_answer)
        return self.module("azure.core.pipeline.transport").RequestsTransport(
            session=session, session_owner=True, connection_timeout=timeout, read_timeout=timeout
        )


def _ended(error: Any) -> VendorError:
    outcome = Outcome.TIMEOUT if "timed out" in str(error) else Outcome.DROPPED
    return VendorError(outcome, f"the connection ended ({error})")


def _fault(error: Any) -> VendorError:
    detail = getattr(error, "error", None)
    message = str(error.message) if detail is None else f"{detail.code}: {detail.message}"
    headers = None if error.response is None else error.response.headers
    return VendorError.of_status(int(error.status_code or 0), message, headers)


SOURCE = remote_source(ImageAnalysis, "azure", "Azure AI Vision")
