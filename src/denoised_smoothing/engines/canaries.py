"""Canaries: forward passes of a count that are computed again, with copies of other images."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from denoised_smoothing.engines.comparison import Comparison, KnownAnswers, in_first_order
from denoised_smoothing.engines.engine import Engine

FIRST = (0, 1, 8, 64)
"""Passes of each engine that are compared at the start. Between two of them an answer that
changes steadily moves at most eight times as far as before."""
EVERY = 500
"""After them, every 500th pass is compared."""


@dataclass
class _Count:
    """The passes of one engine, its copies that were compared, and those that differed."""

    passes: int = 0
    copies: int = 0
    changed: int = 0


class Canaries:
    """Chooses forward passes to compute again, and counts those compared. Threads may share it.

    The second pass holds every other copy of the first at another place, among copies of other
    images whose answers are known from the time before the count. So it shows a dependence on
    the batch, and one on the number of earlier calls. Nothing is compared of a stochastic
    classifier, whose answers differ anyway.
    """

    def __init__(self, *, stochastic: bool = False) -> None:
        self._stochastic, self._lock = stochastic, threading.Lock()
        self.restart()

    def __reduce__(self) -> tuple[Any, ...]:  # to a worker, which counts its own
        return _made, (self._stochastic,)

    def restart(self) -> None:
        """Begin a new run."""
        with self._lock:
            self.passes, self.copies = 0, 0
            self._counts = WeakKeyDictionary[Engine, _Count]()

    def add(self, passes: int, copies: int) -> None:
        """Add passes and copies that a worker compared."""
        with self._lock:
            self.passes += passes
            self.copies += copies

    def is_due(self, engine: Engine) -> bool:
        """Count a pass of this engine, and return whether it is to be compared."""
        with self._lock:
            count = self._counts.setdefault(engine, _Count())
            number, count.passes = count.passes, count.passes + 1
        return not self._stochastic and (number in FIRST or number % EVERY == 0)

    def differing(
        self, engine: Engine, first: Tensor, second: Tensor, real: int, known: KnownAnswers
    ) -> list[int]:
        """Return the rows whose answers differ, if too many do. Odd rows are of known answers.

        Args:
            first: the answers that were counted.
            second: those to the copies of :func:`among_others`.
            real: copies that are no padding.
        """
        again = in_first_order(second)
        rows = _unequal(known.compare, first[:real:2], again[:real:2], start=0)
        others = again[1::2][: len(known.answers)]
        rows += _unequal(known.compare, known.answers[: len(others)], others, start=1)
        with self._lock:
            self.passes += 1
            self.copies += (compared := len(first[:real:2]) + len(others))
            count = self._counts.setdefault(engine, _Count())
            count.copies, count.changed = count.copies + compared, count.changed + len(rows)
            few = count.changed <= known.compare.allowed(first, count.copies)
        return [] if few else rows


def _unequal(compare: Comparison, expected: Tensor, answer: Tensor, *, start: int) -> list[int]:
    """Return the rows of the batch that differ, of every other one from ``start`` on."""
    rows: list[int] = compare.differing(answer, expected).nonzero().flatten().tolist()
    return [2 * row + start for row in rows]


def _made(stochastic: bool) -> Canaries:
    return Canaries(stochastic=stochastic)
