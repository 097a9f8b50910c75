"""The opening of a report: a small change that alters the answer of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Opening:
    """A small change that alters the answer of a classifier, and what is certified.

    Args:
        image, changed: both images [C, H, W] in [0, 1].
        before, after: the classifier's answers to them, without noise and denoiser.
        distance: between the two, in L2, in pixel values in [0, 1].
        run: whose certificate of the image is shown.
        image_id: of the image in that run.
    """

    image: Float[np.ndarray, "c h w"]
    changed: Float[np.ndarray, "c h w"]
    before: str
    after: str
    distance: float
    run: str
    image_id: str

    @property
    def gain(self) -> int:
        """How many times as strong :attr:`difference` shows the change."""
        return max(1, int(0.5 / np.abs(self.changed - self.image).max()))

    @property
    def difference(self) -> Float[np.ndarray, "c h w"]:
        """The change as an image around grey [C, H, W] in [0, 1]."""
        shown = 0.5 + self.gain * (self.changed - self.image)
        clipped: Float[np.ndarray, "c h w"] = np.clip(shown, 0, 1).astype(np.float32)
        return clipped
