"""The protocols of a classifier that labels named noisy copies, one by one."""

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
    """Labels single noisy copies, many at once, and knows those of earlier sessions."""

    capacity: int
    """The number of copies that should be pending at once."""

    def known(self, key: CopyKey) -> Future[int] | None:
        """Return the label of a copy that was answered before, -1 for no class; or None."""

    def ask(
        self, keys: Sequence[CopyKey], images: Float[np.ndarray, "n c h w"]
    ) -> Sequence[Future[int]]:
        """Have denoised copies classified; return the futures of their labels, -1 for no class.

        A future's exception says why there is no label. Then nothing more is sent, and pending
        copies still get their labels.
        """


@runtime_checkable
class CopyClassifier(Protocol):
    """A classifier that must know which noisy copy it labels, as its answers are paid for."""

    def session(self) -> AbstractContextManager[CopySession]:
        """Open a connection to the vendor. On exit, wait for pending queries."""
