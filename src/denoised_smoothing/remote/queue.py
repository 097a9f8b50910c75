"""The request queue: chooses the next query, judges outcomes and logs attempts. No threads."""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from denoised_smoothing.errors import BudgetReachedError, ModelChangedError, RemoteError
from denoised_smoothing.remote.credentials import cleaned
from denoised_smoothing.remote.limits import (
    BudgetGuard,
    CircuitBreaker,
    ClientSettings,
    TokenBucket,
)
from denoised_smoothing.remote.log import QueryLog, read_earlier, resume_hint
from denoised_smoothing.remote.records import Attempt, CopyKey, Outcome, Spending
from denoised_smoothing.remote.vendors.base import FaultSource, Vendor, VendorError

_log = logging.getLogger(__name__)
LONG_PAUSE = 5.0
"""Seconds of a pause from which on it is mentioned."""
UNLABELLED_LIMIT = 20
"""Number of answers without any label, at the beginning of a run, that stop it once."""
LONGEST_MESSAGE = 500
"""Characters that are shown of a vendor's message."""
LONGEST_ANSWER = 2_000
"""Characters that are stored of an answer that was not accepted."""
_HINTS = {
    FaultSource.ACCOUNT: "Check the key, its rights and the quota of the account",
    FaultSource.CLOCK: "Set the clock of this machine, or of the host of its container, by NTP",
    FaultSource.SETUP: "Check the name of the model and the address",
    FaultSource.IMAGE: "Check what sizes and formats the vendor accepts (?size, ?format)",
    FaultSource.LOAD: "Try again later, or with a lower --rate or --in-flight",
}


def _until(seconds: float) -> str:
    """Return a pause and when it ends, in local time."""
    try:
        end = datetime.now().astimezone() + timedelta(seconds=seconds)
    except OverflowError:
        return f"{seconds:,.0f} seconds"
    return f"{seconds:,.0f} seconds, until {end:%Y-%m-%d %H:%M:%S %Z}"


class NotSentError(Exception):
    """Nothing more is sent: the copy has no vote yet."""


@dataclass(eq=False)
class Copy:
    """A pending copy: the bytes that are sent, and the attempts so far.

    Its future gets what ``value`` returns for its label, which is None for no class.
    """

    key: CopyKey
    image: bytes
    sha256: str
    vote: Future[Any]
    value: Callable[[str | None], Any]
    number: int = 0
    failures: int = 0
    repetitions: int = 0
    tried_before: bool = False
    attempt: Attempt | None = None


class RequestQueue:
    """Holds all copies without a vote. One thread calls its methods.

    A copy that fails is sent again with the same bytes. If it fails too often while others are
    answered, its vote is for no class. If nothing works, everything stops with an error, and
    copies without a vote stay without.

    Args:
        vendor: receives the copies; its secrets are logged nowhere.
        log: of the run; every attempt is there before it is sent.
        settings: rate, repetitions and budget.
        clock: seconds, rising.
    """

    def __init__(
        self, vendor: Vendor, log: QueryLog, settings: ClientSettings, clock: Callable[[], float]
    ) -> None:
        self._vendor, self._log, self._settings, self._clock = vendor, log, settings, clock
        self.earlier = read_earlier(log)
        self._version, self._answers = self.earlier.version, self.earlier.answers
        self._labelled = self.earlier.labelled
        listed = vendor.price.dollars if vendor.price else 0.0
        self._price = listed if settings.price is None else settings.price
        self._guard = BudgetGuard(
            settings.budget, self._price, self.earlier.spent, resume_hint(log)
        )
        self._bucket = TokenBucket(settings.rate)
        self._breaker = CircuitBreaker(settings.refusals, settings.patience)
        self._waiting: deque[Copy] = deque()
        self._later: list[tuple[float, int, Copy]] = []
        self._order = count()
        self._finished: list[tuple[Attempt, Copy | None]] = []
        self._max_sending = settings.in_flight + settings.in_flight // 4 + 2
        self.sending = 0
        """Copies that step() returned and finish() did not get yet."""
        self.failure: Exception | None = None
        self.stopped = False
        self._paused_until = -math.inf

    @property
    def spent(self) -> Spending:
        """The cost of the run, earlier sessions included."""
        return self._guard.spent

    def add(self, copies: Sequence[Copy]) -> None:
        """Add copies that need votes."""
        self._waiting.extend(copies)

    def stop(self, failure: Exception | None = None) -> None:
        """Send nothing more."""
        self.failure, self.stopped = self.failure or failure, True

    def finish(
        self, copy: Copy, attempt: Attempt, error: VendorError | None = None, *, sent: bool = True
    ) -> None:
        """End an attempt that was answered, failed, or was not sent, as everything had stopped."""
        copy.attempt = None
        self.sending -= 1
        if not sent:
            self._record(replace(attempt, outcome=Outcome.WITHHELD))
            self._waiting.append(copy)
        elif error is not None:
            self._failed(copy, attempt, error)
        else:
            self._answered(copy, attempt)

    def step(self) -> tuple[list[Copy], float | None]:
        """Log the attempts that ended and those that begin, then set the votes.

        Returns:
            Copies to send now, and the maximum number of seconds until the next step; None for no
            maximum.
        """
        begun, wait = ([], None) if self.stopped else self._begin()
        try:
            finished = [attempt for attempt, _ in self._finished]
            if begun or finished:
                self._log.write([copy.attempt for copy in begun if copy.attempt], finished)
        except Exception as error:  # an attempt that is not logged is neither sent nor counted
            self.stop(error)
            self.sending -= len(begun)
            self._waiting.extend(begun)
            begun = []
            self._waiting.extend(copy for _, copy in self._finished if copy is not None)
        else:
            for attempt, copy in self._finished:
                if copy is not None:
                    copy.vote.set_result(copy.value(attempt.label))
        self._finished = []
        if self.stopped:
            self._fail_waiting()
        return begun, wait

    def _begin(self) -> tuple[list[Copy], float | None]:
        """Begin as many attempts as the limits allow."""
        now, begun, wait = self._clock(), list[Copy](), None
        while self._later and self._later[0][0] <= now:
            self._waiting.appendleft(heapq.heappop(self._later)[2])
        if self._later:
            wait = self._later[0][0] - now
        if now < self._paused_until:
            return begun, self._paused_until - now
        # Until a query was answered, one is sent at a time: its failure names the cause.
        limit = self._max_sending if self._breaker.worked else 1
        while self._waiting and self.sending < limit:
            if (pause := self._bucket.wait(now)) > 0.0:
                return begun, pause if wait is None else min(pause, wait)
            try:
                if not self._guard.reserve():
                    break
            except BudgetReachedError as error:
                self.stop(error)
                break
            self._bucket.take(now)
            copy = self._waiting.popleft()
            copy.number += 1
            copy.attempt = Attempt(
                copy.key, copy.number, self._vendor.name, self._vendor.model, copy.sha256,
                self._price, datetime.now(UTC).isoformat(timespec="milliseconds"),
            )  # fmt: skip
            begun.append(copy)
            self.sending += 1
        return begun, wait

    def _answered(self, copy: Copy, attempt: Attempt) -> None:
        self._version = self._version or attempt.version
        if attempt.version is not None and attempt.version != self._version:
            self._record(replace(attempt, outcome=Outcome.OTHER_MODEL, label=None))
            self._waiting.append(copy)
            self.stop(
                ModelChangedError(
                    f"{self._vendor.name} answers with model version {attempt.version!r}, but "
                    f"earlier answers of this run came from {self._version!r}. Counts of two "
                    "models must not be mixed. Start a new run under another name."
                )
            )
            return
        self._breaker.answered()
        attempt = replace(attempt, outcome=Outcome.ANSWERED, final=True)
        self._record(attempt, copy)
        self._check_labels(attempt)

    def _failed(self, copy: Copy, attempt: Attempt, error: VendorError) -> None:
        """Repeat the attempt, give the vote to no class, or stop everything."""
        answer = None if error.answer is None else str(error.answer)[:LONGEST_ANSWER]
        attempt = replace(attempt, outcome=error.outcome, answer=answer)
        if error.source is FaultSource.IMAGE and self._answers:
            self._record(replace(attempt, final=True), copy)
            return
        copy.failures += error.outcome is not Outcome.THROTTLED
        opened = self._breaker.failed(self._clock(), refused=error.source is not FaultSource.LOAD)
        opened |= error.source is FaultSource.CLOCK
        exhausted = copy.failures >= self._settings.attempts
        others_work = self._breaker.worked and not opened
        if exhausted and (copy.tried_before or others_work):
            self._record(replace(attempt, final=True), copy)
            return
        self._record(attempt)
        never = not self._breaker.worked and (exhausted or error.outcome is Outcome.UNREACHABLE)
        if opened or never:
            self._waiting.append(copy)
            self.stop(RemoteError(self._explain(error)))
            return
        if error.retry_after is not None and error.retry_after > self._settings.longest_pause:
            self._waiting.append(copy)
            self.stop(RemoteError(self._explain_pause(error.retry_after)))
            return
        copy.repetitions += 1
        now = self._clock()
        wait = self._settings.wait(copy.repetitions, error.retry_after)
        if error.retry_after is None:  # the last attempt is when the patience ends
            wait = min(wait, max(self._breaker.left(now), self._settings.first_wait))
        else:
            self._pause(now, error.retry_after)
        heapq.heappush(self._later, (now + wait, next(self._order), copy))

    def _pause(self, now: float, seconds: float) -> None:
        """Begin no query until the end of a pause that the vendor asks for."""
        if now + seconds > max(now, self._paused_until) + LONG_PAUSE:
            _log.warning(
                "note: %s asks for a pause of %s. No query is sent until then. Ctrl-C ends the "
                "run. %s", self._vendor.name, _until(seconds), resume_hint(self._log),
            )  # fmt: skip
        self._paused_until = max(self._paused_until, now + seconds)

    def _record(self, attempt: Attempt, copy: Copy | None = None) -> None:
        """Have the end of an attempt logged; then the copy, if any, gets its vote."""
        self._guard.settle(attempt.outcome)
        self._finished.append((attempt, copy))

    def _check_labels(self, attempt: Attempt) -> None:
        """Stop once, early in a run, if no answer has a label: more would be paid without use."""
        self._labelled = self._labelled or attempt.label is not None
        self._answers += 1
        if self._answers == UNLABELLED_LIMIT and not self._labelled:
            self.stop(
                RemoteError(
                    f"None of the first {UNLABELLED_LIMIT} answers of {self._vendor.name} has a "
                    f"label that counts, the last is {str(attempt.answer)[:200]}. Check ?label, "
                    "?labels and ?synonyms of the spec; a number is no label. Repeat the command "
                    "to resume."
                )
            )

    def _fail_waiting(self) -> None:
        """End all copies that wait without a vote."""
        for copy in (*self._waiting, *(copy for _, _, copy in self._later)):
            copy.vote.set_exception(self.failure or NotSentError())
        self._waiting.clear()
        self._later.clear()

    def _explain_pause(self, seconds: float) -> str:
        """Explain why the run stops where the vendor asks for a long pause."""
        return (
            f"{self._vendor.name} asks for a pause of {_until(seconds)}. That is longer than "
            f"--longest-pause {self._settings.longest_pause:g}. Resume after it, or raise "
            f"--longest-pause. {resume_hint(self._log)}"
        )

    def _explain(self, error: VendorError) -> str:
        kind = {
            Outcome.UNREACHABLE: "cannot be reached",
            Outcome.THROTTLED: "accepts no more queries at this rate",
        }.get(error.outcome, f"does not answer ({error.outcome})")
        name = f"{self._vendor.name}:{self._vendor.model}".rstrip(":")
        message = cleaned(str(error), self._vendor.secrets())[:LONGEST_MESSAGE]
        return f"{name} {kind}: {message}. {_HINTS[error.source]}. {resume_hint(self._log)}"
