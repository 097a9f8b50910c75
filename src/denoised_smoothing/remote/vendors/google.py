"""Google Cloud Vision, label detection, by google-cloud-vision over REST."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.source import remote_source
from denoised_smoothing.remote.vendors.base import (
    FaultSource,
    Limits,
    Price,
    Reply,
    Vendor,
    VendorError,
    fault_of_status,
    needed,
)
from denoised_smoothing.remote.vendors.rest import checked_url

_CODES = {1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 13: 500, 14: 503, 16: 401}
"""From codes of google.rpc to those of HTTP."""


class CloudVision(Vendor):
    """Label annotations of Google Cloud Vision.

    Credentials are the application default credentials (``GOOGLE_APPLICATION_CREDENTIALS``,
    ``gcloud auth application-default login``, the machine's) or an API key in ``GOOGLE_API_KEY``.

    Args:
        max_labels: number of labels requested.
        endpoint: another address, with its ``http://`` or ``https://``; Google's by default.

    Raises:
        SettingError: an argument is out of its range.
    """

    name: ClassVar[str] = "google"
    extra: ClassVar[str] = "google"
    limits: ClassVar[Limits] = Limits(max_bytes=7_000_000)
    rate: ClassVar[float | None] = 30.0
    price = Price(0.0015, "list price from 1,001 a month on, read 2026-11-25")
    model = "LABEL_DETECTION"

    def __init__(self, max_labels: int = 20, endpoint: str | None = None) -> None:
        if max_labels < 1:
            raise SettingError(f"max_labels must be at least 1, got {max_labels}")
        self._max_labels = max_labels
        self._endpoint = None if endpoint is None else checked_url(endpoint).rstrip("/")
        self._client: Any = None
        self._errors: Any = None
        self._requests: Any = None
        self._parsing: Any = None
        self._timeout = 0.0
        self._key = ""

    def connect(self, *, timeout: float, in_flight: int) -> None:
        vision = needed("google.cloud.vision", "google-cloud-vision", self.extra, "google")
        auth = needed("google.auth.exceptions", "google-cloud-vision", self.extra, "google")
        self._errors = needed("google.api_core.exceptions", "google-cloud-vision", "google", "")
        self._requests = needed("requests.exceptions", "google-cloud-vision", "google", "")
        self._parsing = needed("google.protobuf.json_format", "google-cloud-vision", "google", "")
        self._timeout, self._key = timeout, os.environ.get("GOOGLE_API_KEY", "")
        options = {"api_endpoint": self._endpoint, "api_key": self._key or None}
        try:
            self._client = vision.ImageAnnotatorClient(
                transport="rest", client_options={k: v for k, v in options.items() if v}
            )
        except auth.GoogleAuthError as error:
            raise SettingError(
                "google needs credentials, and none are found. Set GOOGLE_APPLICATION_CREDENTIALS "
                "to a key file, run 'gcloud auth application-default login', or set GOOGLE_API_KEY"
            ) from error
        self._widen(in_flight)

    def close(self) -> None:
        if self._client is not None:
            self._client.transport.close()

    def secrets(self) -> Sequence[str]:
        return (self._key,) if self._key else ()

    def send(self, image: bytes) -> Any:
        feature = {"type_": self.model, "max_results": self._max_labels}
        request = {"image": {"content": image}, "features": [feature]}
        requests, errors = self._requests, self._errors
        try:
            answer = self._client.batch_annotate_images(
                requests=[request], retry=None, timeout=self._timeout
            )
        except errors.GoogleAPICallError as error:
            raise _fault(error) from error
        except (requests.ConnectTimeout, requests.ProxyError) as error:
            raise VendorError(Outcome.UNREACHABLE, f"no connection ({error})") from error
        except requests.Timeout as error:
            raise VendorError(Outcome.TIMEOUT, "no answer in time") from error
        except requests.ConnectionError as error:
            # One class stands for a refused connection and for a lost one.
            never = "NewConnectionError" in repr(error) or "NameResolution" in repr(error)
            outcome = Outcome.UNREACHABLE if never else Outcome.DROPPED
            raise VendorError(outcome, f"the connection failed ({error})") from error
        except requests.RequestException as error:
            raise VendorError(Outcome.DROPPED, f"the connection ended ({error})") from error
        except (ValueError, self._parsing.Error) as error:  # not JSON, or not a response
            raise VendorError(Outcome.GARBLED, f"the answer cannot be read ({error})") from error
        return _checked(type(answer).to_dict(answer, use_integers_for_enums=False))

    def reply(self, answer: Any) -> Reply:
        labels = answer["responses"][0].get("label_annotations") or ()
        return Reply([Scored(label["description"], float(label["score"])) for label in labels])

    def fingerprint_parts(self) -> Mapping[str, object]:
        return {**super().fingerprint_parts(), "max_labels": self._max_labels}

    def _widen(self, in_flight: int) -> None:
        """Keep a connection per query in flight; the SDK's session keeps 10."""
        session = getattr(self._client.transport, "_session", None)
        if session is not None:
            adapters = needed("requests.adapters", "google-cloud-vision", "google", "google")
            adapter = adapters.HTTPAdapter(pool_maxsize=in_flight)
            session.mount("https://", adapter)
            session.mount("http://", adapter)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer; raise the error that it may hold in spite of its HTTP status 200."""
    response = (answer.get("responses") or [{}])[0]
    error = response.get("error")
    if error and error.get("code"):
        status = _CODES.get(error["code"], 500)
        raise fault_of_status(status, str(error.get("message")), answer=answer)
    return answer


def _fault(error: Any) -> VendorError:
    headers = getattr(getattr(error, "response", None), "headers", None)
    status = int(error.code or 0)
    if status == 400 and "API key" in str(error):
        return VendorError(Outcome.REFUSED, str(error), FaultSource.ACCOUNT)
    return fault_of_status(status, str(error.message or error), headers)


SOURCE = remote_source(
    lambda rest, labels, **options: CloudVision(**options),
    "google",
    "Google Cloud Vision",
    package="google.cloud.vision",
    extra="google",
    max_labels=int,
    endpoint=str,
)
