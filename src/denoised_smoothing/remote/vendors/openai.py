"""A vision-language model behind an endpoint that speaks OpenAI's protocol, zero-shot."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.labels import normalised
from denoised_smoothing.remote.addresses import checked_url
from denoised_smoothing.remote.credentials import credential
from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.limits import LARGEST_ANSWER
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.source import remote_source
from denoised_smoothing.remote.vendors.base import (
    FaultSource,
    Limits,
    Reply,
    Vendor,
    VendorError,
)
from denoised_smoothing.remote.vendors.bounds import PLAIN, Watch, library_of
from denoised_smoothing.remote.vendors.chat import named_label
from denoised_smoothing.remote.vendors.connections import ClientPool

_log = logging.getLogger(__name__)
PROMPT = "Which of the labels names what the image shows? Answer with exactly one label."
_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")
_NO_SCHEMAS = (400, 404, 415, 422, 500, 501)
_SCHEMA_WORDS = ("response_format", "response format", "schema", "structured output", "grammar")
"""Statuses and words in the errors of servers that do not accept JSON schemas."""
WITHOUT_SCHEMA = (
    "The server does not accept a JSON schema, so the model is only asked to answer with one of "
    "the labels. Other answers are votes for no class."
)


class OpenAI(Vendor):
    """A model that chooses one of a list of labels; a JSON schema restricts it to them.

    A server that refuses the schema before it answered anything gets the instruction alone, and
    :attr:`notes` says so. An answer that does not name one label (see :func:`.chat.named_label`)
    is a vote for no class.
    The key is in ``OPENAI_API_KEY``, the address of another endpoint in ``OPENAI_BASE_URL``.

    Args:
        labels: at least 2 to choose from.
        prompt: stands before the image, followed by the labels and the form of the answer.
        detail: ``low``, ``high`` or ``auto``, which sets the resolution of the image and its price.
    """

    name: ClassVar[str] = "openai"
    package: ClassVar[str | None] = "openai"
    extra: ClassVar[str | None] = "openai"
    limits: ClassVar[Limits] = Limits(max_bytes=20_000_000)

    def __init__(
        self, model: str, labels: Sequence[str], prompt: str = PROMPT, detail: str = "low"
    ) -> None:
        self.model, self._labels = model, tuple(dict.fromkeys(labels))
        if len(self._labels) < 2:
            raise SettingError(
                f"openai:{model} needs at least 2 labels, got {list(self._labels)}. Name a file "
                "with one label a line: openai:MODEL?labels=labels.txt"
            )
        if detail not in ("low", "high", "auto"):
            raise SettingError(f"detail must be low, high or auto, got {detail!r}")
        self.options = {"labels": self._labels, "prompt": prompt, "detail": detail}
        self._known = {normalised(label): label for label in self._labels}
        self._schema, self._answered = True, False
        self._unreachable: tuple[Any, ...] = ()
        self._not_sent: tuple[Any, ...] = ()
        self._clients = ClientPool()

    @classmethod
    def from_spec(cls, rest: str, labels: Sequence[str], **options: Any) -> Vendor:
        return cls(rest, labels, **options)

    def connect(
        self, *, timeout: float, in_flight: int, largest_answer: int = LARGEST_ANSWER
    ) -> None:
        sdk = self.module("openai")
        httpx = library_of(sdk.DefaultHttpxClient.__base__)
        self._unreachable = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
        self._not_sent = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)
        self.errors = {
            sdk.APITimeoutError: partial(self._failed, Outcome.TIMEOUT),
            sdk.APIConnectionError: partial(self._failed, Outcome.DROPPED),
            sdk.APIStatusError: self._fault,
            self._not_sent: Outcome.REFUSED,
            (ValueError, RecursionError): Outcome.GARBLED,
        }
        if (key := credential("OPENAI_API_KEY")) is None:
            raise SettingError(
                "openai needs a key in the environment variable OPENAI_API_KEY, which is not set. "
                "Set it to any text if an endpoint of your own needs no key."
            )
        self._secrets = (key,)
        if (address := os.environ.get("OPENAI_BASE_URL")) is not None:
            checked_url(address, "OPENAI_BASE_URL")

        def make(watch: Watch, context: Any) -> Any:
            http = sdk.DefaultHttpxClient(
                follow_redirects=False, timeout=timeout, headers=PLAIN, verify=context,
                event_hooks=watch.hooks,
            )  # fmt: skip
            return sdk.OpenAI(api_key=key, max_retries=0, timeout=timeout, http_client=http)

        watches = [Watch(timeout, largest_answer) for _ in range(in_flight)]
        self._clients.fill(httpx, make, watches)

    def close(self) -> None:
        self._clients.close()

    def query(self, image: bytes) -> Any:
        with self._clients.client() as client:
            create = client.chat.completions.with_raw_response.create
            answer = create(**self._request(image))
        return json.loads(answer.text)

    def reply(self, answer: Any) -> Reply:
        (choice,) = answer["choices"]
        label = named_label(choice["message"].get("content"), self._known)
        version = answer.get("model")
        self._answered = True
        if not self._schema:  # the same model, asked in another way, is another classifier
            version = f"{version or self.model} without JSON schema"
        return Reply([] if label is None else [Scored(label, 1.0)], version)

    def _request(self, image: bytes) -> Mapping[str, Any]:
        kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        schema = {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": list(self._labels)}},
            "required": ["label"],
            "additionalProperties": False,
        }
        picture = {"type": "image_url", "image_url": {"url": url, "detail": self.options["detail"]}}
        text = (
            f"{self.options['prompt']}\nThe labels are: "
            f"{json.dumps(self._labels, ensure_ascii=False)}\n"
            'Answer with one JSON object and nothing else: {"label": "..."}'
        )
        content = [{"type": "text", "text": text}, picture]
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
        }
        if self._schema:
            named = {"name": "label", "strict": True, "schema": schema}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        return request

    def _failed(self, outcome: Outcome, error: Any) -> VendorError:
        cause = error.__cause__
        if isinstance(cause, VendorError):
            return cause
        if isinstance(cause, self._unreachable):
            url = error.request.url
            return VendorError(Outcome.UNREACHABLE, f"no connection to {url} ({cause})")
        if isinstance(cause, self._not_sent):
            message = f"the query cannot be made ({cause})"
            return VendorError(Outcome.REFUSED, message, FaultSource.SETUP)
        return VendorError(outcome, f"no complete answer ({cause})")

    def _fault(self, error: Any) -> VendorError:
        """Return the error for a status; a server without schemas is asked again without one."""
        message = f"{error.message} {error.body}".casefold()
        names_schema = any(word in message for word in _SCHEMA_WORDS)
        refused = error.status_code in _NO_SCHEMAS and names_schema
        if refused and self._schema and not self._answered:
            self._schema, self.notes = False, (WITHOUT_SCHEMA,)
            _log.warning(WITHOUT_SCHEMA)
            return VendorError(Outcome.FAILED, f"no JSON schemas ({error.message})")
        return _of_status(error)


def _of_status(error: Any) -> VendorError:
    """Return the error for a status; a used-up quota has the status of throttling."""
    body = error.body if isinstance(error.body, dict) else {}
    message = str(body.get("message") or error.message)
    if body.get("code") in _QUOTA or body.get("type") in _QUOTA:
        return VendorError(Outcome.REFUSED, message, answer=error.body)
    headers = error.response.headers
    return VendorError.of_status(error.status_code, message, headers, error.body)


SOURCE = remote_source(
    OpenAI, "openai:MODEL?labels=FILE", "a model behind OpenAI's protocol", prompt=str, detail=str
)
