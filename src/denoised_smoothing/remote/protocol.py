"""The protocols of a classifier that is asked about single noisy copies."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from denoised_smoothing.remote.records import CopyKey


@runtime_checkable
class CopySession(Protocol):
    """Answers single noisy copies, many at once, and knows those that were answered before."""

    room: int
    """How many copies are worth having on their way."""

    def known(self, key: CopyKey) -> Future[int] | None:
        """The label of a copy that was answered before, or None. -1 is a vote for no class."""

    def ask(
        self, keys: Sequence[CopyKey], images: Float[np.ndarray, "n c h w"]
    ) -> Sequence[Future[int]]:
        """Have denoised copies classified: the futures of their labels, -1 for no class.

        A future's exception says why there is none; then nothing more is asked, and copies on
        their way still come in.
        """


@runtime_checkable
class CopyClassifier(Protocol):
    """A classifier that must be told which noisy copy it answers, as its answers are bought."""

    def session(self) -> AbstractContextManager[CopySession]:
        """Ready to answer; leaving it waits for what is on its way."""
