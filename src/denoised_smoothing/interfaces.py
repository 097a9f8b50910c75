"""The protocols that classifiers and denoisers follow; any callable of this form will do."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.queries import CopyKey


@runtime_checkable
class Classifier(Protocol):
    """Images [B, C, H, W] in [0, 1] (noisy ones reach beyond) to logits [B, K] or labels [B].

    A label of -1 is a vote for no class. May carry ``label_names`` (a tuple of K strings),
    ``resolution`` (height and width that it expects) and ``channels`` (1 or 3).
    """

    def __call__(self, images: Float[Tensor, "b c h w"], /) -> Num[Tensor, "b ..."]: ...


@runtime_checkable
class Denoiser(Protocol):
    """Noisy images [B, C, H, W] and the noise's standard deviation to denoised images."""

    def __call__(
        self, noisy: Float[Tensor, "b c h w"], sigma: float | Float[Tensor, " b"], /
    ) -> Float[Tensor, "b c h w"]: ...


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
