"""The client for all vendors: threads that encode and send, and one that works on the queue."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from denoised_smoothing.errors import StoreError
from denoised_smoothing.remote.credentials import cleaned
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import QueryLog
from denoised_smoothing.remote.queue import Copy, RequestQueue
from denoised_smoothing.remote.records import CopyKey, Outcome, Spending
from denoised_smoothing.remote.vendors.base import Vendor, VendorError, to_json

_log = logging.getLogger(__name__)
GATHER_SECONDS = 0.01
"""Time between two steps of the queue: a transaction costs as much as dozens of rows."""
QUIET_SECONDS = 1.0
"""Seconds to wait for queries in flight before a note says so."""
LONGEST_LABEL = 1_000
"""Characters of a label, and of a version."""
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""Errors of an SDK that reads an answer which is not in its format."""
ENCODERS = 2
"""Threads that encode images."""


class QueryClient:
    """Sends copies to a vendor and sets their votes (see :class:`.queue.RequestQueue`).

    Args:
        vendor: connected.
        rule: from its answers to labels.
        log: of the run; every attempt is there before it is sent.
        settings: rate, repetitions and budget.
        value: from a label, or None for no class, to the result of a vote's future.
    """

    def __init__(
        self,
        vendor: Vendor,
        rule: AnswerRule,
        log: QueryLog,
        settings: ClientSettings,
        value: Callable[[str | None], Any] = lambda label: label,
    ) -> None:
        self._vendor, self._rule, self._settings, self._value = vendor, rule, settings, value
        self._queue = RequestQueue(vendor, log, settings, time.monotonic)
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopping = False
        self._encoders = ThreadPoolExecutor(ENCODERS, "encoder")
        self._senders = ThreadPoolExecutor(settings.in_flight, "query")
        self._worker = threading.Thread(target=self._work, name="request queue", daemon=True)
        self._worker.start()

    @property
    def spent(self) -> Spending:
        """The cost of the run, earlier sessions included."""
        return self._queue.spent

    def settled(self, key: CopyKey) -> tuple[str | None] | None:
        """Return the label from earlier sessions, in a tuple; None without a vote."""
        votes = self._queue.earlier.votes
        return (votes[key],) if key in votes else None

    def submit(
        self, keys: Sequence[CopyKey], encoders: Sequence[Callable[[], bytes]]
    ) -> list[Future[Any]]:
        """Have copies classified; return the futures of their votes.

        Args:
            keys: of the copies; each is submitted once a session.
            encoders: each returns the bytes that are sent.
        """
        votes: list[Future[Any]] = [Future() for _ in keys]
        self._encoders.submit(self._encode, keys, encoders, votes)
        return votes

    def stop(self, failure: Exception | None = None) -> None:
        """Send nothing more; queries in flight are still answered."""
        self._stopping = True
        self._events.put(partial(self._queue.stop, failure))

    def close(self) -> None:
        """Stop, wait for queries in flight, and log them."""
        self.stop()
        self._encoders.shutdown(wait=True)
        self._events.put(None)
        self._worker.join(QUIET_SECONDS)
        if self._worker.is_alive():
            _log.warning(
                "note: %d queries are in flight and may be paid for, so their answers are awaited, "
                "at most %g seconds.", self._queue.sending, self._settings.timeout,
            )  # fmt: skip
            self._worker.join()
        self._senders.shutdown(wait=True)

    def _encode(
        self,
        keys: Sequence[CopyKey],
        encoders: Sequence[Callable[[], bytes]],
        votes: Sequence[Future[Any]],
    ) -> None:
        """Encode copies for the queue, in a thread that encodes."""
        copies = []
        for key, encode, vote in zip(keys, encoders, votes, strict=True):
            try:
                copies.append(self._encoded(key, encode(), vote))
            except Exception as error:
                self.stop(error)
                vote.set_exception(error)
        self._events.put(partial(self._queue.add, copies))

    def _encoded(self, key: CopyKey, image: bytes, vote: Future[Any]) -> Copy:
        copy = Copy(key, image, hashlib.sha256(image).hexdigest(), vote, self._value)
        if (tried := self._queue.earlier.tried.get(key)) is not None:
            if copy.sha256 != tried.sha256:  # another copy would be a second chance
                raise StoreError(
                    f"Copy {key.copy} of image {key.image_id!r} ({key.stage}) was sent before as "
                    f"{tried.sha256[:12]}..., and is {copy.sha256[:12]}... now. Only the same copy "
                    "may be sent again. Resume with the library versions of before, or start a "
                    "new run under another name."
                )
            copy.number = tried.number
            copy.tried_before = tried.failures >= self._settings.attempts
        return copy

    def _work(self) -> None:
        """Call the queue, in a thread of its own."""
        wait, closing, began = None, False, 0.0
        while not (closing and self._queue.sending == 0):
            try:
                closing = self._handle_events(wait, began + GATHER_SECONDS) or closing
            except Exception as error:  # all futures must end
                self._queue.stop(error)
            began = time.monotonic()
            copies, wait = self._queue.step()
            self._stopping = self._queue.stopped
            for copy in copies:
                self._senders.submit(self._send, copy)

    def _handle_events(self, wait: float | None, due: float) -> bool:
        """Wait for an event, and until ``due``; handle all; return whether the last has come."""
        try:
            event = self._events.get(timeout=wait)
            time.sleep(max(0.0, due - time.monotonic()))
            while event is not None:
                event()
                event = self._events.get_nowait()
        except Empty:
            return False
        return True

    def _send(self, copy: Copy) -> None:
        """Send a copy once and read the answer, in a thread that sends."""
        assert copy.attempt is not None
        attempt, error, answer, received = copy.attempt, None, None, False
        sent, began = not self._stopping, time.perf_counter()
        try:
            if sent:
                raw = self._vendor.send(copy.image)
                received = True
                answer = self._masked(to_json(raw))
                reply = self._vendor.reply(raw)
                label = self._short(self._rule.label(reply.scored))
                version = self._short(reply.version)
                attempt = replace(attempt, answer=answer, label=label, version=version)
        except VendorError as fault:
            error = fault
            if error.answer is not None:
                error.answer = self._masked(to_json(error.answer))
        except Exception as fault:  # an SDK may raise anything
            message = f"{type(fault).__name__}: {fault}"
            error = VendorError(Outcome.DROPPED, message)
            if received or isinstance(fault, UNREADABLE):
                message = f"the answer cannot be read ({message}) {(answer or '')[:200]}"
                error = VendorError(Outcome.GARBLED, message, answer=answer)
        attempt = replace(attempt, seconds=time.perf_counter() - began if sent else None)
        self._events.put(partial(self._queue.finish, copy, attempt, error, sent=sent))

    def _masked(self, text: str) -> str:
        """Return the text without the secrets of this moment: a query may have renewed them."""
        return cleaned(text, self._vendor.secrets())

    def _short(self, name: str | None) -> str | None:
        """Return a label or a version without secrets, if it is no longer than one can be."""
        text = None if name is None else self._masked(str(name))
        if text is not None and len(text) > LONGEST_LABEL:
            raise ValueError(f"a name of {len(text):,} characters, at most {LONGEST_LABEL:,}")
        return text
