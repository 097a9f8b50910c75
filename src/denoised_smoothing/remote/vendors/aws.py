"""Amazon Rekognition, DetectLabels, by boto3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import (
    FaultSource,
    Limits,
    Reply,
    Vendor,
    VendorError,
    fault_of_status,
    needed,
    retry_after,
)

_THROTTLED = ("Throttling", "ThroughputExceeded", "LimitExceeded", "TooManyRequests", "SlowDown")
_ACCOUNT = (
    "UnrecognizedClient", "InvalidSignature", "AccessDenied", "ExpiredToken", "MissingAuth",
    "InvalidClientTokenId", "Subscription", "IncompleteSignature", "OptInRequired", "AuthFailure",
)  # fmt: skip
_IMAGE = ("InvalidImageFormat", "ImageTooLarge", "InvalidParameter", "ValidationException")


class Rekognition(Vendor):
    """Labels of Amazon Rekognition.

    Credentials, region and endpoint are found where boto3 looks for them: the environment
    (``AWS_ACCESS_KEY_ID``, ``AWS_DEFAULT_REGION``, ``AWS_PROFILE``, ``AWS_ENDPOINT_URL``), the
    files in ``~/.aws``, the role of the machine. Labels have a hierarchy: a label with more
    parents is the more specific one.

    Args:
        max_labels: labels that are asked for.
        min_confidence: in percent, below which there is no label.

    Raises:
        SettingError: an argument is out of its range.
    """

    name: ClassVar[str] = "aws"
    extra: ClassVar[str] = "aws"
    limits: ClassVar[Limits] = Limits(min_side=80, max_side=10_000, max_bytes=5_242_880)
    rate: ClassVar[float | None] = 5.0
    model = "DetectLabels"

    def __init__(self, max_labels: int = 20, min_confidence: float = 0.0) -> None:
        if max_labels < 1 or not 0.0 <= min_confidence <= 100.0:
            raise SettingError(
                f"max_labels is at least 1 and min_confidence 0 to 100, got {max_labels} and "
                f"{min_confidence}"
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
                    "aws needs a region, and none is set; set AWS_DEFAULT_REGION, or region in "
                    "~/.aws/config ('aws configure')"
                )
            credentials = session.get_credentials()
            if credentials is None:
                raise SettingError(
                    "aws needs credentials, and none are found; set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run 'aws configure'"
                )
            frozen = credentials.get_frozen_credentials()
            self._client = session.client("rekognition", config=config)
        except self._errors.BotoCoreError as error:
            raise SettingError(
                f"aws cannot be set up ({error}); check ~/.aws and the variables AWS_*"
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
        except errors.BotoCoreError as error:  # credentials that expired, an odd name
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
    told, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(told.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    message, headers = f"{code}: {told.get('Message', '')}", meta.get("HTTPHeaders", {})
    kinds = (
        (_THROTTLED, Outcome.THROTTLED, FaultSource.LOAD),
        (_ACCOUNT, Outcome.REFUSED, FaultSource.ACCOUNT),
        (_IMAGE, Outcome.REJECTED, FaultSource.IMAGE),
    )
    for words, outcome, blame in kinds:
        if any(word in code for word in words):
            return VendorError(
                outcome, message, blame, retry_after=retry_after(headers), answer=told
            )
    return fault_of_status(status, message, headers, told)
