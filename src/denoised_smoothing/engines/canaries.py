"""Canaries: forward passes of a count that are computed again, with copies of other images."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor

from denoised_smoothing.engines.contract import Comparison
from denoised_smoothing.engines.engine import Engine

FIRST = 2
"""Forward passes of each engine that are compared at the start."""
EVERY = 500
"""After them, every 500th pass is compared."""


class Canaries:
    """Chooses forward passes to compute again, and counts those compared. Threads may share it.

    In the second pass every other copy is replaced by one of another image, and the order is
    reversed. Nothing is compared of a stochastic classifier, whose answers differ anyway.
    """

    def __init__(self, *, stochastic: bool = False) -> None:
        self._stochastic, self._lock = stochastic, threading.Lock()
        self.restart()

    def __reduce__(self) -> tuple[Any, ...]:  # to a worker, which counts its own
        return _made, (self._stochastic,)

    def restart(self) -> None:
        """Begin a new run."""
        with self._lock:
            self.passes, self.copies, self._changed = 0, 0, 0
            self._seen = WeakKeyDictionary[Engine, int]()

    def add(self, passes: int, copies: int) -> None:
        """Add passes and copies that a worker compared."""
        with self._lock:
            self.passes += passes
            self.copies += copies

    def is_due(self, engine: Engine) -> bool:
        """Count a pass of this engine, and return whether it is to be compared."""
        with self._lock:
            number = self._seen.get(engine, 0)
            self._seen[engine] = number + 1
        return not self._stochastic and (number < FIRST or number % EVERY == 0)

    @staticmethod
    def batch(copies: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the pass to compare with: every other copy, reversed, among other images."""
        batch = 1 - copies
        batch[::2] = copies[::2]
        return batch.flip(0)

    def differing(self, engine: Engine, first: Tensor, second: Tensor, real: int) -> list[int]:
        """Return the rows of the first ``real`` copies whose answers differ, if too many do.

        Args:
            first: the answers that were counted.
            second: those to :meth:`batch`.
        """
        first, second = first[:real:2], second.flip(0)[:real:2]
        compare = Comparison(engine.precision)
        rows = compare.differing(second, first).nonzero().flatten().tolist()
        with self._lock:
            self.passes += 1
            self.copies += len(first)
            self._changed += len(rows)
            few = self._changed <= compare.allowed(first, self.copies)
        return [] if few else [2 * row for row in rows]


def _made(stochastic: bool) -> Canaries:
    return Canaries(stochastic=stochastic)
