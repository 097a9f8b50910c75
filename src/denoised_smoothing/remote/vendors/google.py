"""Google Cloud Vision, label detection, by google-cloud-vision over REST."""

from __future__ import annotations

from collections.abc import Sequence
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

_CODES = {1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 13: 500, 14: 503, 16: 401}
"""From codes of google.rpc to those of HTTP."""
_OAUTH = ("token", "id_token", "refresh_token", "client_secret")
"""Secrets of default credentials, of which the token changes during a run."""


class CloudVision(Vendor):
    """Label annotations of Google Cloud Vision.

    Credentials are the application default credentials (``GOOGLE_APPLICATION_CREDENTIALS``,
    ``gcloud auth application-default login``, the machine's) or an API key in ``GOOGLE_API_KEY``.

    Args:
        max_labels: number of labels requested.
        endpoint: another address, with its ``http://`` or ``https://``; Google's by default.
    """

    name: ClassVar[str] = "google"
    package: ClassVar[str | None] = "google.cloud.vision"
    extra: ClassVar[str | None] = "google"
    limits: ClassVar[Limits] = Limits(max_bytes=7_000_000)
    rate: ClassVar[float | None] = 30.0
    price = Price(0.0015, "list price from 1,001 a month on, read 2026-11-25")
    model = "LABEL_DETECTION"
    _credentials: Any = None

    def __init__(self, max_labels: int = 20, endpoint: str | None = None) -> None:
        if max_labels < 1:
            raise SettingError(f"max_labels must be at least 1, got {max_labels}")
        self.options = {"max_labels": max_labels}
        self._endpoint = None if endpoint is None else checked_url(endpoint, "endpoint").rstrip("/")
        self._timeout = 0.0

    def connect(
        self, *, timeout: float, in_flight: int, largest_answer: int = LARGEST_ANSWER
    ) -> None:
        vision, requests = self.module("google.cloud.vision"), self.module("requests.exceptions")
        auth = self.module("google.auth.exceptions")
        self.errors = {
            self.module("google.api_core.exceptions").GoogleAPICallError: _fault,
            auth.TransportError: Outcome.UNREACHABLE,  # of the server of tokens
            auth.GoogleAuthError: Outcome.REFUSED,
            (requests.ConnectTimeout, requests.ProxyError): Outcome.UNREACHABLE,
            (
                requests.InvalidURL,
                requests.InvalidHeader,
                requests.InvalidSchema,
                requests.MissingSchema,
            ): Outcome.REFUSED,
            requests.Timeout: Outcome.TIMEOUT,
            requests.ConnectionError: _failed,
            requests.RequestException: Outcome.DROPPED,
            ValueError: Outcome.GARBLED,
            self.module("google.protobuf.json_format").Error: Outcome.GARBLED,
        }
        self._timeout, key = timeout, credential("GOOGLE_API_KEY")
        self._secrets = (key,) if key else ()
        options = {"api_endpoint": self._endpoint, "api_key": key}
        try:
            self._client = vision.ImageAnnotatorClient(
                transport="rest", client_options={k: v for k, v in options.items() if v}
            )
        except auth.GoogleAuthError as error:
            raise SettingError(
                "google needs credentials, and none are found. Set GOOGLE_APPLICATION_CREDENTIALS "
                "to a key file, run 'gcloud auth application-default login', or set GOOGLE_API_KEY."
            ) from error
        if (session := getattr(self._client.transport, "_session", None)) is not None:
            bound_session(session, in_flight, largest_answer)
            self._credentials = session.credentials

    def close(self) -> None:
        if self._client is not None:
            self._client.transport.close()

    def secrets(self) -> Sequence[str]:
        self.keep_secrets(*(getattr(self._credentials, name, None) for name in _OAUTH))
        return super().secrets()

    def query(self, image: bytes) -> Any:
        feature = {"type_": self.model, "max_results": self.options["max_labels"]}
        request = {"image": {"content": image}, "features": [feature]}
        with limited(self._timeout):
            reply = self._client.batch_annotate_images(
                requests=[request], retry=None, timeout=self._timeout
            )
        answer = type(reply).to_dict(reply, use_integers_for_enums=False)
        error = (answer.get("responses") or [{}])[0].get("error")
        if error and error.get("code"):  # in spite of the HTTP status 200
            status = _CODES.get(error["code"], 500)
            raise VendorError.of_status(status, str(error.get("message")), answer=answer)
        return answer

    def reply(self, answer: Any) -> Reply:
        labels = answer["responses"][0].get("label_annotations") or ()
        return Reply([Scored(label["description"], label["score"]) for label in labels])


def _failed(error: Any) -> VendorError:
    # One class stands for a refused connection and for a lost one.
    text = repr(error)
    never = any(
        word in text
        for word in ("NewConnectionError", "NameResolution", "CERTIFICATE_VERIFY_FAILED")
    )
    outcome = Outcome.UNREACHABLE if never else Outcome.DROPPED
    return VendorError(outcome, f"the connection failed ({error})")


def _fault(error: Any) -> VendorError:
    headers = getattr(getattr(error, "response", None), "headers", None)
    status = int(error.code or 0)
    if status == 400 and "API key" in str(error):
        return VendorError(Outcome.REFUSED, str(error))
    return VendorError.of_status(status, str(error.message or error), headers)


SOURCE = remote_source(CloudVision, "google", "Google Cloud Vision", max_labels=int, endpoint=str)
