"""The comparison of two answers to the same noisy copies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing.certificates.parameters import Precision

ROUNDING = {
    Precision.FLOAT32: 1e-3,
    Precision.FLOAT16: 1e-2,
    Precision.BFLOAT16: 5e-2,
    Precision.INT8: 5e-2,
}
"""Largest difference of two answers to one copy that counts as rounding. Logits are compared less
their maximum over the classes, and the share is of the logit itself or of the gap between the two
largest logits that three in four copies exceed; that of pixels is of 1."""
CHANGED_LABELS = 1e-3
"""Share of labels that rounding may change, where a pipeline gives labels and no logits."""
FALSE_ALARM = 1e-6
"""Probability that a comparison refuses a pipeline with that share."""


def among_others(
    copies: Float[Tensor, "b c h w"], others: Float[Tensor, "n c h w"]
) -> Float[Tensor, "b c h w"]:
    """Return every other copy of a batch at another place, among copies of other images.

    No copy keeps its place, nor its place modulo 2, except for the first of an odd number.

    Args:
        others: the copies of other images, which take turns.
    """
    batch = copies.clone()
    places = len(batch[1::2])
    batch[1::2] = others[torch.arange(places) % max(1, len(others))] if places else batch[1::2]
    return batch.flip(0).roll(len(batch) % 2, 0)


def in_first_order(answers: Tensor) -> Tensor:
    """Return the answers to :func:`among_others` in the order of the batch."""
    return answers.roll(-(len(answers) % 2), 0).flip(0)


@dataclass(frozen=True)
class Comparison:
    """The comparison of two answers to the same copies.

    Args:
        precision: of the engine, for the rounding that is tolerated.
        pixels: whether the answers are images [B, C * H * W] in [0, 1], not logits.
    """

    precision: Precision
    pixels: bool = False

    def differing(self, answer: Tensor, expected: Tensor) -> Tensor:
        """Return whether each row differs by more than rounding: bool [B].

        A changed label is rounding too, as long as labels change no more often than those of a
        pipeline that gives labels only.
        """
        if answer.shape != expected.shape:
            return expected.new_ones(len(expected), dtype=torch.bool)
        if expected.ndim == 1:
            return answer != expected
        if self.pixels:
            return ((answer - expected).abs() > ROUNDING[self.precision]).any(dim=1)
        first, second = centred(answer), centred(expected)
        # Between the two largest logits, as a class that is never chosen may have any other. Three
        # in four copies have more: huge logits of some say nothing about the rounding of others.
        gaps = -second.topk(min(2, second.shape[1]), dim=1).values[:, -1]
        gaps = gaps[gaps.isfinite()].sort().values
        scale = float(gaps[(len(gaps) - 1) // 4]) if len(gaps) else 0.0
        near = (first - second).abs() <= ROUNDING[self.precision] * second.abs().clamp_min(scale)
        same = near | (first == second) | (first.isnan() & second.isnan())
        changed = first.argmax(dim=1) != second.argmax(dim=1)
        often = int(changed.sum()) > _allowed_labels(len(changed))
        return ~same.all(dim=1) | (changed & often)

    @staticmethod
    def allowed(answer: Tensor, compared: int) -> int:
        """Return how many of ``compared`` rows may differ: none for logits."""
        return 0 if answer.ndim != 1 else _allowed_labels(compared)


@cache
def _allowed_labels(compared: int) -> int:
    """Return how many labels may change: more do with probability FALSE_ALARM at most."""
    from scipy import special

    numbers = range(compared + 1)
    return next(k for k in numbers if special.bdtrc(k, compared, CHANGED_LABELS) <= FALSE_ALARM)


def centred(logits: Tensor) -> Tensor:
    """Return logits less their maximum over the classes, which changes no label."""
    logits = logits.double()
    most = logits.amax(dim=1, keepdim=True)
    return logits - torch.where(most.isfinite(), most, 0)


@dataclass(frozen=True, eq=False)
class KnownAnswers:
    """Answers [N, ...] to copies [N, C, H, W] before any copy was counted, and how to compare."""

    copies: Tensor
    answers: Tensor
    compare: Comparison
