"""The checks before a request is read, and the security headers of responses."""

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
from denoised_smoothing.text import shown
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.metrics import Metrics

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
BODY_SECONDS = 30.0
"""Maximum wait for each piece of a body."""
PROTECTED_PREFIXES = ("/v1/", "/metrics")
"""Prefixes of the paths that need the key, if one is set."""
METHODS = frozenset(("GET", "HEAD", "POST", "DELETE", "OPTIONS"))
"""Methods counted by name. Clients may send any word, and each would stay in memory."""
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
    """The key and the host names of accepted requests.

    Args:
        hosts: accepted names in the header Host; None for any. A page of another site, whose name
            was pointed at this machine, sends its own name and is refused.
        key: required of requests; None if none is needed.
    """

    hosts: frozenset[str] | None = frozenset(LOOPBACK)
    key: str | None = None


class Guard:
    """Refuses requests without access, too frequent or too large; adds security headers."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._app, self._access, self._limits, self._metrics = app, access, limits, metrics
        self._rate = RateLimitItemPerMinute(limits.rate)
        self._windows = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._metrics.answers.labels(method, message["status"]).inc()
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, _Bounded(receive, self._limits.body), send_with_headers)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self._access.hosts is not None and name not in self._access.hosts:
            return problem(
                403, "The host name is not accepted. The operator can add it with --allow-host."
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return problem(
                403, "The request comes from a page of another site. Send it from this one."
            )
        if path.startswith(PROTECTED_PREFIXES) and not self._has_key(headers):
            return problem(
                401,
                "An API key is needed. Send the header Authorization: Bearer KEY.",
                **{"www-authenticate": "Bearer"},
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._limits.body:
            return problem(413, _too_large(self._limits.body))
        if scope["method"] == "POST":
            client = client_of(scope)
            if not self._windows.hit(self._rate, client):
                until = self._windows.get_window_stats(self._rate, client).reset_time
                seconds = max(1, round(until - time.time()))
                return problem(
                    429,
                    f"This client sent {self._limits.rate} requests in a minute, its maximum. "
                    f"Retry in {seconds} seconds.",
                    **{"retry-after": str(seconds)},
                )
        return None

    def _has_key(self, headers: Headers) -> bool:
        key = self._access.key
        if key is None:
            return True
        given = headers.get("authorization", "").removeprefix("Bearer ").strip()
        return hmac.compare_digest(given.encode(), key.encode())


class _Bounded:
    """Receives a body of at most N bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._left, self._whole = receive, limit, limit, False

    async def __call__(self) -> Message:
        if self._whole:  # the next message says that the client went away
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_SECONDS)
        except TimeoutError as error:
            raise BodyTooSlowError(
                f"No piece of the body arrived in {BODY_SECONDS:g} seconds. Send it faster."
            ) from error
        self._left -= len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._left < 0:
            raise BodyTooLargeError(_too_large(self._limit))
        return message


def _too_large(limit: int) -> str:
    return f"The body is larger than {limit / 1e6:g} MB, the maximum. Send a smaller image."


def client_of(scope: Scope) -> str:
    """Return the address of the client, by which requests are limited."""
    return scope["client"][0] if scope.get("client") else "unknown"


def problem(status: int, detail: str, **headers: str) -> JSONResponse:
    """Return a refusal with its reason."""
    return JSONResponse({"detail": shown(detail)}, status, headers)
