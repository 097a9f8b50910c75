"""What is checked before a request is looked at, and what is said to browsers with an answer."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from denoised_smoothing.errors import BodyTooLargeError, BodyTooSlowError
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.metrics import Metrics

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
BODY_SECONDS = 30.0
"""For each piece of a body to arrive."""
PROTECTED_PREFIXES = ("/v1/", "/metrics")
"""Beginnings of the paths that need the key, where there is one."""
METHODS = frozenset(("GET", "HEAD", "POST", "DELETE", "OPTIONS"))
"""Counted by name. Clients may send any word, and each would stay in memory."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Args:
        hosts: names by which the service may be called (the header Host); None for any. That of
            a page elsewhere, whose name was pointed at this machine, is not among them.
        key: that requests must carry; None where none is needed.
    """

    hosts: frozenset[str] | None = frozenset(LOOPBACK)
    key: str | None = None


class Guard:
    """Refuses requests of strangers, too many, and too large; adds the headers for browsers."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._app, self._access, self._limits, self._metrics = app, access, limits, metrics
        self._rate = RateLimitItemPerMinute(limits.rate)
        self._windows = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._metrics.answers.labels(method, message["status"]).inc()
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, dressed)
            return
        await self._app(scope, _Bounded(receive, self._limits.body), dressed)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self._access.hosts is not None and name not in self._access.hosts:
            return problem(403, "this host name is not served; see the option --allow-host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return problem(403, "requests from pages of other sites are refused")
        if path.startswith(PROTECTED_PREFIXES) and not self._knows(headers):
            return problem(
                401,
                "an API key is needed: Authorization: Bearer KEY",
                **{"www-authenticate": "Bearer"},
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._limits.body:
            return problem(413, f"the body is larger than {self._limits.megabytes} MB")
        if scope["method"] == "POST":
            client = client_of(scope)
            if not self._windows.hit(self._rate, client):
                until = self._windows.get_window_stats(self._rate, client).reset_time
                seconds = max(1, round(until - time.time()))
                return problem(
                    429,
                    f"more than {self._limits.rate} requests in a minute",
                    **{"retry-after": str(seconds)},
                )
        return None

    def _knows(self, headers: Headers) -> bool:
        key = self._access.key
        if key is None:
            return True
        given = headers.get("authorization", "").removeprefix("Bearer ").strip()
        return hmac.compare_digest(given.encode(), key.encode())


class _Bounded:
    """Receives a body of at most so many bytes."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left, self._whole = receive, most, False

    async def __call__(self) -> Message:
        if self._whole:  # what comes now is that the client goes away
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_SECONDS)
        except TimeoutError as error:
            raise BodyTooSlowError from error
        self._left -= len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._left < 0:
            raise BodyTooLargeError
        return message


def client_of(scope: Scope) -> str:
    """The address of the client, by which requests are limited."""
    return scope["client"][0] if scope.get("client") else "unknown"


def problem(status: int, detail: str, **headers: str) -> JSONResponse:
    """A refusal that says why."""
    return JSONResponse({"detail": detail}, status, headers)
