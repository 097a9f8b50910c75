"""Azure AI Vision, Image Analysis 4.0, tags, by azure-ai-vision-imageanalysis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.source import remote_source
from denoised_smoothing.remote.vendors.base import (
    Limits,
    Price,
    Reply,
    Vendor,
    VendorError,
    fault_of_status,
    needed,
)
from denoised_smoothing.remote.vendors.rest import checked_url

_PACKAGE = "azure-ai-vision-imageanalysis"


class ImageAnalysis(Vendor):
    """Tags of Azure's Image Analysis.

    Address and key are in ``VISION_ENDPOINT`` and ``VISION_KEY``, as in Microsoft's samples.
    """

    name: ClassVar[str] = "azure"
    extra: ClassVar[str] = "azure"
    limits: ClassVar[Limits] = Limits(min_side=50, max_side=16_000, max_bytes=20_971_520)
    rate: ClassVar[float | None] = 10.0
    price = Price(0.001, "no source was found", verified=False)
    model = "tags"

    def __init__(self) -> None:
        self._client: Any = None
        self._errors: Any = None
        self._features: list[Any] = []
        self._key = ""

    def connect(self, *, timeout: float, in_flight: int) -> None:
        sdk = needed("azure.ai.vision.imageanalysis", _PACKAGE, self.extra, "azure")
        models = needed("azure.ai.vision.imageanalysis.models", _PACKAGE, self.extra, "azure")
        core = needed("azure.core.credentials", _PACKAGE, self.extra, "azure")
        self._errors = needed("azure.core.exceptions", _PACKAGE, self.extra, "azure")
        endpoint, self._key = (os.environ.get(n, "") for n in ("VISION_ENDPOINT", "VISION_KEY"))
        for name, value in (("VISION_ENDPOINT", endpoint), ("VISION_KEY", self._key)):
            if not value:
                raise SettingError(
                    f"azure needs address and key of a Computer Vision resource, and {name} is "
                    "not set. Copy both from 'Keys and Endpoint' in the portal to VISION_ENDPOINT "
                    "and VISION_KEY"
                )
        self._features = [models.VisualFeatures.TAGS]
        self._client = sdk.ImageAnalysisClient(
            checked_url(endpoint),
            core.AzureKeyCredential(self._key),
            retry_total=0,
            logging_enable=False,
            transport=_transport(timeout, in_flight),
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def secrets(self) -> Sequence[str]:
        return (self._key,) if self._key else ()

    def send(self, image: bytes) -> Any:
        errors = self._errors
        try:
            return self._client.analyze(image, visual_features=self._features).as_dict()
        except (errors.ServiceResponseTimeoutError, errors.IncompleteReadError) as error:
            timed_out = isinstance(error, errors.ServiceResponseTimeoutError)
            outcome = Outcome.TIMEOUT if timed_out else Outcome.DROPPED
            raise VendorError(outcome, f"incomplete answer ({error})") from error
        except (errors.DecodeError, errors.DeserializationError) as error:
            raise VendorError(Outcome.GARBLED, f"the answer cannot be read ({error})") from error
        except errors.HttpResponseError as error:
            raise _fault(error) from error
        except errors.ServiceRequestError as error:
            raise VendorError(Outcome.UNREACHABLE, f"no connection ({error})") from error
        except errors.ServiceResponseError as error:
            outcome = Outcome.TIMEOUT if "timed out" in str(error) else Outcome.DROPPED
            raise VendorError(outcome, f"the connection ended ({error})") from error
        except ValueError as error:
            raise VendorError(Outcome.GARBLED, f"the answer cannot be read ({error})") from error

    def reply(self, answer: Any) -> Reply:
        tags = (answer.get("tagsResult") or {}).get("values") or []
        version = answer["modelVersion"]
        return Reply([Scored(tag["name"], float(tag["confidence"])) for tag in tags], version)


def _transport(timeout: float, in_flight: int) -> Any:
    """Return a transport with a connection per query in flight; the SDK's own keeps 10."""
    requests = needed("requests", _PACKAGE, "azure", "azure")
    adapters = needed("requests.adapters", _PACKAGE, "azure", "azure")
    transports = needed("azure.core.pipeline.transport", _PACKAGE, "azure", "azure")
    session = requests.Session()
    for prefix in ("https://", "http://"):
        session.mount(prefix, adapters.HTTPAdapter(pool_maxsize=in_flight, max_retries=0))
    return transports.RequestsTransport(
        session=session, session_owner=True, connection_timeout=timeout, read_timeout=timeout
    )


def _fault(error: Any) -> VendorError:
    detail = getattr(error, "error", None)
    message = str(error.message) if detail is None else f"{detail.code}: {detail.message}"
    headers = None if error.response is None else error.response.headers
    return fault_of_status(int(error.status_code or 0), message, headers)


SOURCE = remote_source(
    lambda rest, labels: ImageAnalysis(),
    "azure",
    "Azure AI Vision",
    package="azure.ai.vision.imageanalysis",
    extra="azure",
)
