"""Events of a request, from the threads that count to the clients that follow it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

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
        self._end: tuple[str, dict[str, Any]] | None = None
        self._listeners: dict[Callable[[], object], bool] = {}

    def publish(self, event: str, values: dict[str, Any]) -> None:
        """Publish ``copies``, ``progress`` or, with another name, the end; the first end stays."""
        with self._lock:
            if event == "copies":
                self._copies.append(values)
            elif event == "progress":
                self._progress = values
            else:
                self._end = self._end or (event, values)
            listeners = list(self._listeners)
        for wake in listeners:
            with suppress(RuntimeError):  # its loop is closed
                wake()

    @property
    def followed(self) -> bool:
        """Whether any client waits for progress."""
        with self._lock:
            return any(self._listeners.values())

    async def follow(
        self, *, progress: bool = True
    ) -> AsyncIterator[tuple[str, dict[str, Any] | None]]:
        """Yield all events up to the end; one without values after a quiet time.

        Args:
            progress: whether the client waits for progress, so that it is worth computing.
        """
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        sent, shown = 0, None
        with self._lock:
            self._listeners[wake] = progress
        try:
            while True:
                changed.clear()
                with self._lock:
                    copies, newest, end = self._copies[sent:], self._progress, self._end
                for values in copies:
                    yield "copies", values
                sent += len(copies)
                if newest is not None and newest is not shown:
                    yield "progress", newest
                    shown = newest
                if end is not None:
                    yield end
                    return
                try:
                    await asyncio.wait_for(changed.wait(), QUIET_SECONDS)
                except TimeoutError:
                    yield "quiet", None
        finally:
            with self._lock:
                del self._listeners[wake]
