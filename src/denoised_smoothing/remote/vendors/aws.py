"""Amazon Rekognition, DetectLabels, by boto3."""

from __future__ import annotations

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
    retry_after,
)

_FAULTS = {
    ("Throttling", "ThroughputExceeded", "LimitExceeded", "TooManyRequests", "SlowDown"):
        (Outcome.THROTTLED, FaultSource.LOAD),
    ("UnrecognizedClient", "InvalidSignature", "AccessDenied", "ExpiredToken", "MissingAuth",
     "InvalidClientTokenId", "Subscription", "IncompleteSignature", "OptInRequired", "AuthFailure"):
        (Outcome.REFUSED, FaultSource.ACCOUNT),
    ("InvalidImageFormat", "ImageTooLarge", "InvalidParameter", "ValidationException"):
        (Outcome.REJECTED, FaultSource.IMAGE),
}  # fmt: skip
"""Parts of Amazon's error codes; the first match counts."""


class Rekognition(Vendor):
    """Labels of Amazon Rekognition.

    boto3 finds credentials, region and endpoint: in the environment (``AWS_ACCESS_KEY_ID``,
    ``AWS_DEFAULT_REGION``, ``AWS_PROFILE``, ``AWS_ENDPOINT_URL``), in the files in ``~/.aws``, or
    in the role of the machine. A label with more parents in the hierarchy is more specific.

    Args:
        max_labels: number of labels requested.
        min_confidence: in percent; labels below it are left out.

    Raises:
        SettingError: an argument is out of its range.
    """

    name: ClassVar[str] = "aws"
    extra: ClassVar[str] = "aws"
    limits: ClassVar[Limits] = Limits(min_side=80, max_side=10_000, max_bytes=5_242_880)
    rate: ClassVar[float | None] = 5.0
    price = Price(0.001, "list price up to a million a month, as transcribed 2026-10-07")
    model = "DetectLabels"

    def __init__(self, max_labels: int = 20, min_confidence: float = 0.0) -> None:
        if max_labels < 1 or not 0.0 <= min_confidence <= 100.0:
            raise SettingError(
                f"max_labels must be at least 1 and min_confidence 0 to 100, got {max_labels} "
                f"and {min_confidence}"
            )
        self._max_labels, self._min_confidence = max_labels, min_confidence
        self._errors: Any = None
        self._parsers: Any = None
        self._client: Any = None
        self._secrets: tuple[str, ...] = ()

    def connect(self, *, timeout: float, in_flight: int) -> None:
        boto3 = needed("boto3", "boto3", self.extra, "aws")
        self._errors = needed("botocore.exceptions", "boto3", self.extra, "aws")
        self._parsers = needed("botocore.parsers", "boto3", self.extra, "aws")
        config = needed("botocore.config", "boto3", self.extra, "aws").Config(
            retries={"total_max_attempts": 1},
            connect_timeout=timeout,
            read_timeout=timeout,
            max_pool_connections=in_flight,
        )
        try:
            session = boto3.session.Session()
            if session.region_name is None:
                raise SettingError(
                    "aws needs a region, and none is set. Set AWS_DEFAULT_REGION, or run "
                    "'aws configure'"
                )
            credentials = session.get_credentials()
            if credentials is None:
                raise SettingError(
                    "aws needs credentials, and none are found. Set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run 'aws configure'"
                )
            frozen = credentials.get_frozen_credentials()
            self._client = session.client("rekognition", config=config)
        except self._errors.BotoCoreError as error:
            raise SettingError(
                f"aws cannot be set up ({error}). Check ~/.aws and the variables AWS_*"
            ) from error
        self._secrets = tuple(filter(None, (frozen.secret_key, frozen.token, frozen.access_key)))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def secrets(self) -> Sequence[str]:
        return self._secrets

    def send(self, image: bytes) -> Any:
        errors = self._errors
        try:
            answer = self._client.detect_labels(
                Image={"Bytes": image},
                MaxLabels=self._max_labels,
                MinConfidence=self._min_confidence,
            )
        except errors.ClientError as error:
            raise _fault(error.response) from error
        except errors.ReadTimeoutError as error:
            raise VendorError(Outcome.TIMEOUT, f"no answer in time ({error})") from error
        except (
            errors.EndpointConnectionError,
            errors.ConnectTimeoutError,
            errors.ProxyConnectionError,
        ) as error:
            raise VendorError(Outcome.UNREACHABLE, f"no connection ({error})") from error
        except errors.HTTPClientError as error:
            raise VendorError(Outcome.DROPPED, f"the connection ended ({error})") from error
        except self._parsers.ResponseParserError as error:
            raise VendorError(Outcome.GARBLED, f"the answer cannot be read ({error})") from error
        except errors.BotoCoreError as error:  # expired credentials, an invalid name
            raise VendorError(Outcome.REFUSED, str(error), FaultSource.ACCOUNT) from error
        return {key: value for key, value in answer.items() if key != "ResponseMetadata"}

    def reply(self, answer: Any) -> Reply:
        labels = [
            Scored(label["Name"], float(label["Confidence"]), len(label.get("Parents") or ()))
            for label in answer["Labels"]
        ]
        return Reply(labels, answer.get("LabelModelVersion"))

    def fingerprint_parts(self) -> Mapping[str, object]:
        more = {"max_labels": self._max_labels, "min_confidence": self._min_confidence}
        return {**super().fingerprint_parts(), **more}


def _fault(response: Any) -> VendorError:
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(error.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    message, headers = f"{code}: {error.get('Message', '')}", meta.get("HTTPHeaders", {})
    for words, (outcome, source) in _FAULTS.items():
        if any(word in code for word in words):
            after = retry_after(headers)
            return VendorError(outcome, message, source, retry_after=after, answer=error)
    return fault_of_status(status, message, headers, error)


SOURCE = remote_source(
    lambda rest, labels, **options: Rekognition(**options),
    "aws",
    "Amazon Rekognition",
    package="boto3",
    extra="aws",
    max_labels=int,
    min_confidence=float,
)
