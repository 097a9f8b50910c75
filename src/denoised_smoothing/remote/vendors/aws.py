"""Amazon Rekognition, DetectLabels, by boto3."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.addresses import checked_url
from denoised_smoothing.remote.credentials import check_key
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
from denoised_smoothing.remote.vendors.connections import BoundSession, limited

_CODES = {
    Outcome.THROTTLED: (
        "Throttling", "ThroughputExceeded", "LimitExceeded", "TooManyRequests", "SlowDown",
    ),
    Outcome.REFUSED: (
        "UnrecognizedClient", "InvalidSignature", "AccessDenied", "ExpiredToken", "MissingAuth",
        "InvalidClientTokenId", "Subscription", "IncompleteSignature", "OptInRequired",
        "AuthFailure",
    ),
    Outcome.REJECTED: (
        "InvalidImageFormat", "ImageTooLarge", "InvalidParameter", "ValidationException",
    ),
}  # fmt: skip
"""Parts of Amazon's error codes; the first match counts."""
_CLOCK_CODES = ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture")
_CLOCK_MESSAGES = ("signature expired", "signature not yet current")
"""Parts of codes and messages that name a clock that is off: every query is signed with its time,
which Amazon accepts for five minutes around its own."""


class Rekognition(Vendor):
    """Labels of Amazon Rekognition.

    boto3 finds credentials, region and endpoint: in the environment (``AWS_ACCESS_KEY_ID``,
    ``AWS_DEFAULT_REGION``, ``AWS_PROFILE``, ``AWS_ENDPOINT_URL``), in the files in ``~/.aws``, or
    in the role of the machine. A label with more parents in the hierarchy is more specific.

    Args:
        max_labels: number of labels requested.
        min_confidence: in percent; labels below it are left out.
    """

    name: ClassVar[str] = "aws"
    package: ClassVar[str | None] = "boto3"
    extra: ClassVar[str | None] = "aws"
    limits: ClassVar[Limits] = Limits(min_side=80, max_side=10_000, max_bytes=5_242_880)
    rate: ClassVar[float | None] = 5.0
    price = Price(0.001, "list price up to a million a month, as transcribed 2026-10-07")
    model = "DetectLabels"
    _timeout = 0.0

    def __init__(self, max_labels: int = 20, min_confidence: float = 0.0) -> None:
        if max_labels < 1 or not 0.0 <= min_confidence <= 100.0:
            raise SettingError(
                f"max_labels must be at least 1 and min_confidence 0 to 100, got {max_labels} "
                f"and {min_confidence}"
            )
        self.options = {"max_labels": max_labels, "min_confidence": min_confidence}

    def connect(
        self, *, timeout: float, in_flight: int, largest_answer: int = LARGEST_ANSWER
    ) -> None:
        boto3, exceptions = self.module("boto3"), self.module("botocore.exceptions")
        self.errors = {
            exceptions.ClientError: _fault,
            exceptions.ReadTimeoutError: Outcome.TIMEOUT,
            exceptions.EndpointConnectionError: Outcome.UNREACHABLE,
            exceptions.ConnectTimeoutError: Outcome.UNREACHABLE,
            exceptions.ProxyConnectionError: Outcome.UNREACHABLE,
            exceptions.HTTPClientError: _lost,
            self.module("botocore.parsers").ResponseParserError: Outcome.GARBLED,
            exceptions.BotoCoreError: Outcome.REFUSED,  # expired credentials, an invalid name
        }
        config = self.module("botocore.config").Config(
            retries={"total_max_attempts": 1},
            connect_timeout=timeout,
            read_timeout=timeout,
            max_pool_connections=in_flight,
        )
        for variable in ("AWS_ENDPOINT_URL_REKOGNITION", "AWS_ENDPOINT_URL"):
            if address := os.environ.get(variable):
                checked_url(address, variable)
        try:
            session = boto3.session.Session()
            if session.region_name is None:
                raise SettingError(
                    "aws needs a region, and none is set. Set AWS_DEFAULT_REGION, or run "
                    "'aws configure'."
                )
            credentials = session.get_credentials()
            if credentials is None:
                raise SettingError(
                    "aws needs credentials, and none are found. Set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run 'aws configure'."
                )
            keys = credentials.get_frozen_credentials()
            for key, variable in (
                (keys.access_key, "AWS_ACCESS_KEY_ID"),
                (keys.secret_key, "AWS_SECRET_ACCESS_KEY"),
                (keys.token, "AWS_SESSION_TOKEN"),
            ):
                check_key(key or "", f"{variable}, or in its place in ~/.aws,")
            self._client = session.client("rekognition", config=config)
            checked_url(self._client.meta.endpoint_url, "endpoint_url in ~/.aws/config")
            if (endpoint := getattr(self._client, "_endpoint", None)) is not None:
                endpoint.http_session = BoundSession(endpoint.http_session, largest_answer)
        except exceptions.BotoCoreError as error:
            raise SettingError(
                f"aws cannot be set up ({error}). Check ~/.aws and the variables AWS_*."
            ) from error
        except SettingError:
            raise
        except ValueError as error:  # its text holds the address
            raise SettingError(
                "The endpoint_url in ~/.aws/config must be like https://HOST. Correct it."
            ) from error

        def keep(**_: object) -> None:
            keys = credentials.get_frozen_credentials()
            self.keep_secrets(keys.secret_key, keys.token, keys.access_key)

        keep()
        # Credentials of a role change during a run, when a query is signed.
        self._client.meta.events.register("before-sign.rekognition", keep)
        self._timeout = timeout

    def query(self, image: bytes) -> Any:
        with limited(self._timeout):
            answer = self._client.detect_labels(
                Image={"Bytes": image},
                MaxLabels=self.options["max_labels"],
                MinConfidence=self.options["min_confidence"],
            )
        return {key: value for key, value in answer.items() if key != "ResponseMetadata"}

    def reply(self, answer: Any) -> Reply:
        labels = [
            Scored(label["Name"], label["Confidence"], len(label.get("Parents") or ()))
            for label in answer["Labels"]
        ]
        return Reply(labels, answer.get("LabelModelVersion"))


def _lost(error: Any) -> VendorError:
    """Return the error for a query that was not sent, or not answered to the end."""
    cause = error.kwargs.get("error")
    if isinstance(cause, VendorError):
        return cause
    if isinstance(cause, UnicodeEncodeError) or "Invalid header" in str(cause):
        return VendorError(Outcome.REFUSED, f"the query cannot be made ({cause})")
    return VendorError(Outcome.DROPPED, f"the connection ended ({error})")


def _fault(error: Any) -> VendorError:
    detail, meta = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, status = str(detail.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    message, headers = f"{code}: {detail.get('Message', '')}", meta.get("HTTPHeaders", {})
    if any(word in code for word in _CLOCK_CODES) or any(
        text in message.lower() for text in _CLOCK_MESSAGES
    ):
        return VendorError(
            Outcome.REFUSED, f"the clock of this machine is off ({message})", FaultSource.CLOCK,
            headers=headers, answer=detail,
        )  # fmt: skip
    for outcome, words in _CODES.items():
        if any(word in code for word in words):
            return VendorError(outcome, message, headers=headers, answer=detail)
    return VendorError.of_status(status, message, headers, detail)


SOURCE = remote_source(
    Rekognition, "aws", "Amazon Rekognition", max_labels=int, min_confidence=float
)
