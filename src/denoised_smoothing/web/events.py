"""Events of a request, from the threads that count to the clients that follow it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any

Event = tuple[str, dict[str, Any]]
QUIET_SECONDS = 15.0
"""Seconds without an event after which clients get a sign of life."""


class EventStream:
    """The events of one request. A slow client skips progress, and nothing else.

    Any thread may publish. Clients are coroutines: each gets all copies, then the progress that is
    newest when it asks, and at last the end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: list[dict[str, Any]] = []
        self._progress: dict[str, Any] | None = None
        self._end: Event | None = None
        self._listeners: set[Callable[[], object]] = set()
        self._followers = 0

    def copies(self, values: list[dict[str, Any]]) -> None:
        """Publish further noisy copies."""
        with self._lock:
            self._copies += values
        self._wake()

    def progress(self, values: dict[str, Any]) -> None:
        """Publish the progress."""
        with self._lock:
            self._progress = values
        self._wake()

    def end(self, event: str, values: dict[str, Any]) -> None:
        """Publish the end, after which nothing follows; the first one stays."""
        with self._lock:
            self._end = self._end or (event, values)
        self._wake()

    @property
    def followed(self) -> bool:
        """Whether any client waits for progress."""
        return bool(self._followers)

    async def follow(self) -> AsyncIterator[tuple[str, dict[str, Any] | None]]:
        """Yield all events up to the end; one without values after a quiet time."""
        sent, shown = 0, None
        self._followers += 1
        try:
            async with aclosing(self._news()) as news:
                async for quiet in news:
                    with self._lock:
                        copies, progress, end = self._copies[sent:], self._progress, self._end
                    for values in copies:
                        yield "copies", values
                    sent += len(copies)
                    if progress is not None and progress is not shown:
                        yield "progress", progress
                        shown = progress
                    if end is not None:
                        yield end
                        return
                    if quiet:
                        yield "quiet", None
        finally:
            self._followers -= 1

    async def ended(self) -> Event:
        """Wait for the end."""
        async with aclosing(self._news()) as news:
            async for _ in news:
                if self._end is not None:
                    return self._end
        raise AssertionError("the loop ends only by a return")

    async def _news(self) -> AsyncGenerator[bool, None]:
        """Yield False at once and after each change, True after a quiet time."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._listeners.add(wake)
        quiet = False
        try:
            while True:
                changed.clear()
                yield quiet
                try:
                    await asyncio.wait_for(changed.wait(), QUIET_SECONDS)
                    quiet = False
                except TimeoutError:
                    quiet = True
        finally:
            with self._lock:
                self._listeners.discard(wake)

    def _wake(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for wake in listeners:
            with suppress(RuntimeError):  # its loop is closed
                wake()
