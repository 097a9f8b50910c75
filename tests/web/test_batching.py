"""Images that join while others are counted, in batches that they share."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.images import to_grid
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


@dataclass(eq=False, kw_only=True)
class Asked(PendingImage):
    """A pending image and the events of its batcher."""

    first = Stage.SELECTION
    smoothed: SmoothedClassifier
    plan: FixedBudget = PLAN
    progress: int = 0
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        return self.plan.targets(counts, self.smoothed.parameters(self.image, 0.001, self.seed))

    def is_as_alone(self) -> bool:
        certificate = self.smoothed.certify(self.image, plan=PLAN, seed=self.seed)
        mine = PLAN.certificate(self.counts, certificate.parameters)
        return [s.votes for s in mine.stages] == [s.votes for s in certificate.stages]


def asked_for(smoothed: SmoothedClassifier, level: float, seed: int) -> Asked:
    image = to_grid(np.full((1, 16, 16), level, np.float32))
    return Asked(image=image, seed=seed, smoothed=smoothed)


def note_progress(asked: Asked) -> None:
    asked.progress += 1


def note_end(asked: Asked, error: Exception | None) -> None:
    asked.error = error
    asked.ended.set()


@pytest.fixture
def smoothed() -> SmoothedClassifier:
    return SmoothedClassifier(classify, 0.25)


@pytest.fixture
def batcher(smoothed: SmoothedClassifier) -> Any:
    ready = threading.Event()
    ready.set()
    opened = Batcher(smoothed, "test", ready, note_progress, note_end)
    yield opened
    opened.close()


def test_counts_are_those_of_each_image_alone(
    batcher: Batcher[Asked], smoothed: SmoothedClassifier
) -> None:
    asked = [asked_for(smoothed, level / 20, seed) for seed, level in enumerate((2, 5, 8, 10, 12))]
    for each in asked:
        batcher.add(each)
    for each in asked:
        assert each.ended.wait(60)
    late = asked_for(smoothed, 0.4, 99)  # after the batcher was idle
    batcher.add(late)
    assert late.ended.wait(60)
    assert all(each.error is None and each.is_as_alone() for each in (*asked, late))
    assert all(each.progress for each in asked)


def test_an_image_that_fails_does_not_fail_others(
    batcher: Batcher[Asked], smoothed: SmoothedClassifier
) -> None:
    levels = (0.2, 0.3, POISON, 0.4, 0.45)
    asked = [asked_for(smoothed, level, seed) for seed, level in enumerate(levels)]
    for each in asked:
        batcher.add(each)
    for each in asked:
        assert each.ended.wait(60)
    assert [each.error is not None for each in asked] == [level == POISON for level in levels]
    assert "NaN" in str(asked[2].error)
    assert all(each.is_as_alone() for each in asked if each.error is None)


def test_an_image_that_ends_with_copies_in_flight_does_not_fail_others() -> None:
    """No copy of the dark one has a label; the estimation begins before that is known."""

    def classify_bright(images: torch.Tensor) -> torch.Tensor:
        return torch.where(images.mean(dim=(1, 2, 3)) < 0.5, -1, 0)

    smoothed, ready = SmoothedClassifier(classify_bright, 0.25), threading.Event()
    dark, bright = asked_for(smoothed, 0.1, 1), asked_for(smoothed, 0.9, 2)
    dark.plan = FixedBudget(20, 500_000)
    batcher = Batcher(smoothed, "test", ready, note_progress, note_end)
    batcher.add(dark)
    batcher.add(bright)
    ready.set()
    assert dark.ended.wait(60)
    assert bright.ended.wait(60)
    batcher.close()
    assert (dark.error, bright.error) == (None, None)
    assert {stage: votes.n for stage, votes in dark.counts.items()} == {
        Stage.SELECTION: 20, Stage.ESTIMATION: 0,
    }  # fmt: skip
    assert bright.is_as_alone()


def test_cancelled_ones_end_early(batcher: Batcher[Asked], smoothed: SmoothedClassifier) -> None:
    first, second = asked_for(smoothed, 0.3, 1), asked_for(smoothed, 0.35, 2)
    first.cancelled = True
    batcher.add(first)
    batcher.add(second)
    assert first.ended.wait(60)
    assert second.ended.wait(60)
    assert sum(votes.n for votes in first.counts.values()) == 0
    assert first.error is None
    assert second.is_as_alone()


def test_closing_keeps_the_counts(smoothed: SmoothedClassifier) -> None:
    ready = threading.Event()
    batcher = Batcher(smoothed, "test", ready, note_progress, note_end)
    asked = asked_for(smoothed, 0.3, 1)
    batcher.add(asked)
    ready.set()
    batcher.close()
    assert asked.ended.is_set()
