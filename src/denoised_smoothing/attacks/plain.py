"""An attack on a classifier as it is, without noise: what smoothing protects from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from denoised_smoothing.attacks.pgd import PGD, attack, distance
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

_TINY = 1e-3
"""Sigma of the one copy: the gradient is that of the classifier at the image itself."""


@dataclass(frozen=True)
class FooledAnswer:
    """A changed image that gets another answer.

    Args:
        image: the changed image [C, H, W], on the 8-bit grid.
        distance: L2 distance from the original, in pixel values in [0, 1].
        before, after: labels of the original and of the changed image.
    """

    image: Float[np.ndarray, "c h w"]
    distance: float
    before: int
    after: int


def fool(
    classifier: Classifier,
    image: Float[np.ndarray, "c h w"],
    lengths: Sequence[float],
    *,
    steps: int = 20,
    seed: int | None = None,
) -> FooledAnswer | None:
    """Change an image so that the classifier, without noise and denoiser, answers otherwise.

    Projected gradient descent in L2 (Madry et al. 2018), from the answer of the classifier.

    Args:
        classifier: with gradients.
        image: [C, H, W] in [0, 1], on the 8-bit grid.
        lengths: L2 lengths to try, in pixel values in [0, 1]; the first that succeeds is taken.
        steps: gradient steps for each length.
        seed: of the attack; None for fresh entropy.

    Returns:
        The changed image, or None where no length succeeds.

    Raises:
        SettingError: no length, or the classifier has no gradient.
    """
    if not lengths:
        raise SettingError("lengths must have at least one L2 length, got none")
    exact = SmoothedClassifier(classifier, _TINY)

    def answer(shown: Float[np.ndarray, "c h w"]) -> int:
        with torch.no_grad():
            return int(classifier(torch.tensor(shown[None], device=exact.device)).argmax())

    before = answer(image)
    for length in lengths:
        changed = attack(exact, image, before, length, PGD(steps, copies=1), seed=seed)
        if (after := answer(changed)) != before:
            return FooledAnswer(changed, distance(changed, image), before, after)
    return None
