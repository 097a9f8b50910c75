"""What is sent next, what the end of an attempt means, what is written down: no threads here."""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from denoised_smoothing.errors import BudgetReachedError, ModelChangedError, RemoteError
from denoised_smoothing.remote.limits import (
    BudgetGuard,
    CircuitBreaker,
    ClientSettings,
    TokenBucket,
)
from denoised_smoothing.remote.log import EarlierAttempts, QueryLog, resume_hint
from denoised_smoothing.remote.records import Attempt, CopyKey, Outcome
from denoised_smoothing.remote.vendors.base import FaultSource, Vendor, VendorError

UNLABELLED_LIMIT = 20
"""So many answers without any label, at the beginning of a run, stop it once."""


class NotSentError(Exception):
    """Nothing more is sent: of a copy that has no vote yet."""


@dataclass(eq=False)
class Copy:
    """A copy on its way to its vote: the bytes that are sent, and what was tried."""

    key: CopyKey
    image: bytes
    sha256: str
    vote: Future[Any] = field(default_factory=Future)
    number: int = 0
    failures: int = 0
    repetitions: int = 0
    tried_before: bool = False
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The end of an attempt: an answer as JSON with its label and version, or a fault."""

    answer: str | None = None
    label: str | None = None
    version: str | None = None
    fault: VendorError | None = None
    seconds: float | None = None


class RequestQueue:
    """Owns all copies that have no vote; one thread works at it, turn by turn.

    A copy that fails is sent again, the same bytes. When it has failed too often while others
    were answered, its vote is for no class. When nothing works, everything stops with an error,
    and copies without a vote keep none.

    Args:
        vendor: for its name, and its secrets, which are written nowhere.
        log: of the run; every attempt is there before it is sent.
        history: what the log held at the beginning.
        conduct: how the vendor is treated.
        purse: lends the price of each query.
        clock: seconds, rising.
        number: from a label, or None for no class, to what its copy's future gives.
    """

    def __init__(
        self,
        vendor: Vendor,
        log: QueryLog,
        history: EarlierAttempts,
        conduct: ClientSettings,
        purse: BudgetGuard,
        price: float,
        clock: Callable[[], float],
        number: Callable[[str | None], Any],
    ) -> None:
        self._vendor, self._log, self._conduct = vendor, log, conduct
        self._purse, self._price, self._clock, self._number = purse, price, clock, number
        self._bucket = TokenBucket(conduct.rate)
        self._breaker = CircuitBreaker(conduct.refusals, conduct.patience)
        self._version, self._answers = history.version, history.answers
        self._labelled = history.labelled
        self._waiting: deque[Copy] = deque()
        self._later: list[tuple[float, int, Copy]] = []
        self._order = count()
        self._finished: list[tuple[Attempt, Copy | None]] = []
        self._most_out = conduct.in_flight + conduct.in_flight // 4 + 2
        self.out = 0
        """Copies that were handed out to be sent and are not back."""
        self.failure: Exception | None = None
        self.stopped = False

    def admit(self, copies: Sequence[Copy]) -> None:
        """New copies want their votes."""
        self._waiting.extend(copies)

    def stop(self, failure: Exception | None = None) -> None:
        """Hand nothing out any more."""
        self.failure, self.stopped = self.failure or failure, True

    def take_back(self, copy: Copy, sent: AttemptResult | None) -> None:
        """The end of an attempt; None where it was not sent, as everything had stopped."""
        assert copy.attempt is not None
        attempt, copy.attempt = copy.attempt, None
        self.out -= 1
        if sent is None:
            self._book(replace(attempt, outcome=Outcome.WITHHELD))
            self._waiting.append(copy)
        elif sent.fault is not None:
            self._failed(copy, replace(attempt, seconds=sent.seconds), sent.fault)
        else:
            self._answered(copy, attempt, sent)

    def turn(self) -> tuple[list[Copy], float | None]:
        """Write down what has ended and what begins; give votes.

        Returns:
            Copies to send now, and seconds until the next turn if nothing happens before; None
            for any time.
        """
        begun, wait = self._begin() if not self.stopped else ([], None)
        try:
            finished = [attempt for attempt, _ in self._finished]
            if begun or finished:
                self._log.write([copy.attempt for copy in begun if copy.attempt], finished)
        except Exception as error:  # nothing that is not written is sent, or counted
            self.stop(error)
            self.out -= len(begun)
            self._waiting.extend(begun)
            begun = []
            self._waiting.extend(copy for _, copy in self._finished if copy is not None)
        else:
            for attempt, copy in self._finished:
                if copy is not None:
                    copy.vote.set_result(self._number(attempt.label))
        self._finished = []
        if self.stopped:
            self._let_go()
        return begun, wait

    def _begin(self) -> tuple[list[Copy], float | None]:
        """Copies whose turn it is, as far as budget, pace and the wire allow."""
        now, begun, wait = self._clock(), list[Copy](), None
        while self._later and self._later[0][0] <= now:
            self._waiting.appendleft(heapq.heappop(self._later)[2])
        if self._later:
            wait = self._later[0][0] - now
        # Until one query was answered, one is sent at a time: it says what is wrong.
        most = self._most_out if self._breaker.worked else 1
        while self._waiting and self.out < most:
            if (pause := self._bucket.wait(now)) > 0.0:
                return begun, pause if wait is None else min(pause, wait)
            try:
                if not self._purse.lend():
                    break
            except BudgetReachedError as error:
                self.stop(error)
                break
            self._bucket.take(now)
            begun.append(self._noted(self._waiting.popleft()))
            self.out += 1
        return begun, wait

    def _noted(self, copy: Copy) -> Copy:
        copy.number += 1
        copy.attempt = Attempt(
            copy.key, copy.number, self._vendor.name, self._vendor.model, copy.sha256,
            self._price, datetime.now(UTC).isoformat(timespec="milliseconds"),
        )  # fmt: skip
        return copy

    def _answered(self, copy: Copy, attempt: Attempt, sent: AttemptResult) -> None:
        self._version = self._version or sent.version
        changed = sent.version is not None and sent.version != self._version
        attempt = replace(
            attempt, answer=sent.answer, version=sent.version, seconds=sent.seconds,
            outcome=Outcome.OTHER_MODEL if changed else Outcome.ANSWERED,
            label=None if changed else sent.label, final=not changed,
        )  # fmt: skip
        if changed:
            self._book(attempt)
            self._waiting.append(copy)
            self.stop(
                ModelChangedError(
                    f"{self._vendor.name} answers with model version {sent.version!r}, earlier "
                    f"answers of this run came from {self._version!r}: counts of two models do "
                    "not belong together; start a new run under another name"
                )
            )
            return
        self._breaker.answered()
        self._book(attempt, copy)
        self._check_labels(attempt)

    def _failed(self, copy: Copy, attempt: Attempt, fault: VendorError) -> None:
        """Another attempt, a vote for no class, or the end of all."""
        attempt = replace(attempt, outcome=fault.outcome)
        if fault.answer is not None:
            attempt = replace(attempt, answer=str(fault.answer))
        if fault.source is FaultSource.IMAGE and self._answers:
            self._book(replace(attempt, final=True), copy)
            return
        copy.failures += fault.outcome is not Outcome.THROTTLED
        opened = self._breaker.failed(self._clock(), refused=fault.source is not FaultSource.LOAD)
        exhausted = copy.failures >= self._conduct.attempts
        elsewhere = self._breaker.worked and not opened
        if exhausted and (copy.tried_before or elsewhere):
            self._book(replace(attempt, final=True), copy)
            return
        self._book(attempt)
        unknown = not self._breaker.worked and (exhausted or fault.outcome is Outcome.UNREACHABLE)
        if opened or unknown:
            self._waiting.append(copy)
            self.stop(RemoteError(self._explain(fault)))
            return
        copy.repetitions += 1
        due = self._clock() + self._conduct.wait(copy.repetitions, fault.retry_after)
        heapq.heappush(self._later, (due, next(self._order), copy))

    def _book(self, attempt: Attempt, copy: Copy | None = None) -> None:
        """Have an attempt written; then the copy gets its vote."""
        self._purse.book(attempt.outcome)
        self._finished.append((attempt, copy))

    def _check_labels(self, attempt: Attempt) -> None:
        """Stop once, early in a run, when no answer has a label: they would be bought in vain."""
        self._labelled = self._labelled or attempt.label is not None
        self._answers += 1
        if self._answers == UNLABELLED_LIMIT and not self._labelled:
            self.stop(
                RemoteError(
                    f"none of the first {UNLABELLED_LIMIT} answers of {self._vendor.name} has a "
                    f"label that counts, the last is {str(attempt.answer)[:200]}; check where it "
                    "is looked for (?label, ?labels, ?synonyms). The same command resumes"
                )
            )

    def _let_go(self) -> None:
        """Copies that wait get no vote."""
        for copy in (*self._waiting, *(copy for _, _, copy in self._later)):
            copy.vote.set_exception(self.failure or NotSentError())
        self._waiting.clear()
        self._later.clear()

    def _explain(self, fault: VendorError) -> str:
        hints = {
            FaultSource.ACCOUNT: "check the key, its rights and the quota of the account",
            FaultSource.SETUP: "check the name of the model and the address",
            FaultSource.IMAGE: "check what sizes and formats the vendor takes (?size, ?format)",
            FaultSource.LOAD: "try again later, or with a lower --rate or --in-flight",
        }
        kind = {
            Outcome.UNREACHABLE: "cannot be reached",
            Outcome.THROTTLED: "takes no more queries at this rate",
        }.get(fault.outcome, f"does not answer ({fault.outcome})")
        name = f"{self._vendor.name}:{self._vendor.model}".rstrip(":")
        told = cleaned(str(fault), self._vendor.secrets())
        return f"{name} {kind}: {told}; {hints[fault.source]}. {resume_hint(self._log)}"


def cleaned(text: str, secrets: Sequence[str]) -> str:
    """The text without secrets."""
    for secret in secrets:
        if len(secret) >= 4:
            text = re.sub(re.escape(secret), "[secret]", text, flags=re.IGNORECASE)
    return text
