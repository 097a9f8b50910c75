"""The one engine for all vendors: threads that send, and one that works at the desk."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from denoised_smoothing.errors import StoreError
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.limits import BudgetGuard, ClientSettings
from denoised_smoothing.remote.log import QueryLog, read_history, resume_hint
from denoised_smoothing.remote.queue import AttemptResult, Copy, RequestQueue, cleaned
from denoised_smoothing.remote.records import CopyKey, Outcome, Spending
from denoised_smoothing.remote.vendors.base import Vendor, VendorError, to_json

GATHER_SECONDS = 0.01
"""A turn begins about so often: its transaction costs as much as dozens of rows."""
ENCODERS = 2
"""Threads that encode images."""


class QueryClient:
    """Sends copies to a vendor and settles their votes (:class:`.desk.RequestQueue` says how).

    Args:
        vendor: connected.
        rule: from its answers to labels.
        log: of the run; every attempt is there before it is sent.
        conduct: how the vendor is treated.
        before: what was spent beside what the log holds; the budget is for both.
        number: what the future of a vote gives for a label, None for no class.
    """

    def __init__(
        self,
        vendor: Vendor,
        rule: AnswerRule,
        log: QueryLog,
        conduct: ClientSettings,
        before: Spending | None = None,
        number: Callable[[str | None], Any] = lambda label: label,
    ) -> None:
        self._vendor, self._rule, self._conduct = vendor, rule, conduct
        listed = vendor.price
        self.price = conduct.price if conduct.price is not None else listed.dollars if listed else 0
        self._history = read_history(log, before or Spending())
        self._purse = BudgetGuard(conduct.budget, self.price, self._history.spent, resume_hint(log))
        self._desk = RequestQueue(
            vendor, log, self._history, conduct, self._purse, self.price, time.monotonic, number
        )
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ready: SimpleQueue[Copy | None] = SimpleQueue()
        self._stopping = False
        self._encoders = ThreadPoolExecutor(ENCODERS, "encoder")
        threads = [threading.Thread(target=self._work, name="query desk", daemon=True)]
        threads += [
            threading.Thread(target=self._send_all, name=f"query {i}", daemon=True)
            for i in range(conduct.in_flight)
        ]
        self._threads = threads
        for thread in threads:
            thread.start()

    @property
    def spent(self) -> Spending:
        """What the run has cost, earlier sessions included."""
        return self._purse.spent

    def settled(self, key: CopyKey) -> tuple[str | None] | None:
        """The vote that a copy had from earlier sessions, in a tuple; None where it had none."""
        votes = self._history.votes
        return (votes[key],) if key in votes else None

    def submit(
        self, keys: Sequence[CopyKey], encoders: Sequence[Callable[[], bytes]]
    ) -> list[Future[Any]]:
        """Have copies classified: the futures of their votes, as ``number`` gives them.

        Args:
            keys: of the copies; one is submitted once a session.
            encoders: each makes the bytes that are sent.
        """
        votes: list[Future[Any]] = [Future() for _ in keys]
        self._encoders.submit(self._admit, keys, encoders, votes)
        return votes

    def _admit(
        self,
        keys: Sequence[CopyKey],
        encoders: Sequence[Callable[[], bytes]],
        votes: Sequence[Future[Any]],
    ) -> None:
        """In a thread that encodes: copies for the desk."""
        copies = []
        for key, encode, vote in zip(keys, encoders, votes, strict=True):
            try:
                copies.append(self._encoded(key, encode, vote))
            except Exception as error:
                self.stop(error)
                vote.set_exception(error)
        self._inbox.put(partial(self._desk.admit, copies))

    def _encoded(self, key: CopyKey, encode: Callable[[], bytes], vote: Future[Any]) -> Copy:
        image = encode()
        copy = Copy(key, image, hashlib.sha256(image).hexdigest(), vote)
        if (tried := self._history.tried.get(key)) is not None:
            _check_same(copy, tried.sha256)
            copy.number = tried.number
            copy.tried_before = tried.failures >= self._conduct.attempts
        return copy

    def stop(self, failure: Exception | None = None) -> None:
        """Send nothing more; what is on its way still comes in."""
        self._stopping = True
        self._inbox.put(partial(self._desk.stop, failure))

    def close(self) -> None:
        """Stop, wait for what is on its way, and write it down."""
        self.stop()
        self._encoders.shutdown(wait=True)
        self._inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        """The thread at the desk."""
        wait, closing, began = None, False, 0.0
        while not (closing and self._desk.out == 0):
            try:
                closing = self._handle_events(wait, began + GATHER_SECONDS) or closing
            except Exception as error:  # whoever waits shall hear of it
                self._desk.stop(error)
            began = time.monotonic()
            copies, wait = self._desk.turn()
            self._stopping = self._desk.stopped
            for copy in copies:
                self._ready.put(copy)
        for _ in range(self._conduct.in_flight):
            self._ready.put(None)

    def _handle_events(self, wait: float | None, due: float) -> bool:
        """Wait for an event, and until ``due``; handle all; whether the last one has come."""
        try:
            event = self._inbox.get(timeout=wait)
            time.sleep(max(0.0, due - time.monotonic()))
            while event is not None:
                event()
                event = self._inbox.get_nowait()
        except Empty:
            return False
        return True

    def _send_all(self) -> None:
        """A thread that sends."""
        while (copy := self._ready.get()) is not None:
            sent = None if self._stopping else self._send(copy)
            self._inbox.put(partial(self._desk.take_back, copy, sent))

    def _send(self, copy: Copy) -> AttemptResult:
        """One attempt, and what its answer means."""
        began, answer = time.perf_counter(), None
        try:
            raw = self._vendor.send(copy.image)
            answer = cleaned(to_json(raw), self._vendor.secrets())
            reply = self._vendor.reply(raw)
            label = self._rule.label(reply.scored)
            label = None if label is None else cleaned(label, self._vendor.secrets())
            return AttemptResult(answer, label, reply.version, seconds=time.perf_counter() - began)
        except VendorError as error:
            fault = error
            if fault.answer is not None:
                fault.answer = cleaned(to_json(fault.answer), self._vendor.secrets())
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            told = f"the answer cannot be read ({type(error).__name__}: {error})"
            fault = VendorError(Outcome.GARBLED, f"{told} {(answer or '')[:200]}", answer=answer)
        except Exception as error:  # an SDK may raise anything
            fault = VendorError(Outcome.DROPPED, f"{type(error).__name__}: {error}")
        return AttemptResult(fault=fault, seconds=time.perf_counter() - began)


def _check_same(copy: Copy, sha256: str) -> None:
    """Only the same copy may be sent again: another one would be a second chance."""
    if copy.sha256 != sha256:
        raise StoreError(
            f"copy {copy.key.copy} of image {copy.key.image_id!r} ({copy.key.stage}) was sent "
            f"before as {sha256[:12]}..., and is {copy.sha256[:12]}... now: only the same copy may "
            "be sent again; go on with the library versions of before, or start a new run under "
            "another name"
        )
