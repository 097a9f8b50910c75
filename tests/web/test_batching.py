"""Images that join while others are counted, in batches that they share."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.images import digest, to_grid
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.web.batching import Batcher, Counts, PendingImage

POISON = 200 / 255
PLAN = FixedBudget(20, 400)


def classify(images: torch.Tensor) -> torch.Tensor:
    """Bright or dark; NaN for what is nearly constant at the poisonous level."""
    means = images.mean(dim=(1, 2, 3))
    logits = torch.stack([0.5 - means, means - 0.5], dim=1)
    logits[(means - POISON).abs() < 0.05] = torch.nan
    return logits


class Asked:
    """A pending image and the events of its batcher."""

    def __init__(self, smoothed: SmoothedClassifier, level: float, seed: int) -> None:
        self.image = to_grid(np.full((1, 16, 16), level, np.float32))
        self.smoothed, self.seed, self.progress = smoothed, seed, 0
        self.counts: Counts = {}
        self.error: Exception | None = None
        self.ended = threading.Event()
        parameters = smoothed.parameters(self.image, 0.001, seed)
        self.pending = PendingImage(
            f"{level} {seed}", digest(self.image), self.image, seed, Stage.SELECTION,
            partial(PLAN.targets, parameters=parameters), self._note, self._end,
        )  # fmt: skip

    def _note(self, _: Counts) -> None:
        self.progress += 1

    def _end(self, counts: Counts, error: Exception | None) -> None:
        self.counts, self.error = dict(counts), error
        self.ended.set()

    def is_as_alone(self) -> bool:
        certificate = self.smoothed.certify(self.image, plan=PLAN, seed=self.seed)
        mine = PLAN.certificate(self.counts, certificate.parameters)
        return [s.votes for s in mine.stages] == [s.votes for s in certificate.stages]


@pytest.fixture
def smoothed() -> SmoothedClassifier:
    return SmoothedClassifier(classify, 0.25)


@pytest.fixture
def batcher(smoothed: SmoothedClassifier) -> Any:
    ready = threading.Event()
    ready.set()
    opened = Batcher(smoothed, "test", ready)
    yield opened
    opened.close()


def test_counts_are_those_of_each_image_alone(
    batcher: Batcher, smoothed: SmoothedClassifier
) -> None:
    asked = [Asked(smoothed, level / 20, seed) for seed, level in enumerate((2, 5, 8, 10, 12))]
    for each in asked:
        batcher.add(each.pending)
    for each in asked:
        assert each.ended.wait(60)
    late = Asked(smoothed, 0.4, 99)  # after the batcher was idle
    batcher.add(late.pending)
    assert late.ended.wait(60)
    assert all(each.error is None and each.is_as_alone() for each in (*asked, late))
    assert all(each.progress for each in asked)


def test_an_image_that_fails_does_not_fail_others(
    batcher: Batcher, smoothed: SmoothedClassifier
) -> None:
    levels = (0.2, 0.3, POISON, 0.4, 0.45)
    asked = [Asked(smoothed, level, seed) for seed, level in enumerate(levels)]
    for each in asked:
        batcher.add(each.pending)
    for each in asked:
        assert each.ended.wait(60)
    assert [each.error is not None for each in asked] == [level == POISON for level in levels]
    assert "NaN" in str(asked[2].error)
    assert all(each.is_as_alone() for each in asked if each.error is None)


def test_cancelled_ones_end_early(batcher: Batcher, smoothed: SmoothedClassifier) -> None:
    first, second = Asked(smoothed, 0.3, 1), Asked(smoothed, 0.35, 2)
    first.pending.cancelled = True
    batcher.add(first.pending)
    batcher.add(second.pending)
    assert first.ended.wait(60)
    assert second.ended.wait(60)
    assert sum(votes.n for votes in first.counts.values()) == 0
    assert first.error is None
    assert second.is_as_alone()


def test_closing_keeps_the_counts(smoothed: SmoothedClassifier) -> None:
    ready = threading.Event()
    batcher = Batcher(smoothed, "test", ready)
    asked = Asked(smoothed, 0.3, 1)
    batcher.add(asked.pending)
    ready.set()
    batcher.close()
    assert asked.ended.is_set()
