"""Copies that are shown, and their labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.errors import ClassifierError, SettingError
from denoised_smoothing.noise import noisy_copies
from denoised_smoothing.smoothing import SmoothedClassifier
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask
from denoised_smoothing.smoothing.votes import VoteCounter, shown_copies, shown_labels

SEED = 0
GREY = image_forms.to_grid(np.full((1, 4, 4), 0.5, np.float32))


def bright(images: Tensor) -> Tensor:
    """Label 1 for bright copies, 0 for dark ones, and none between."""
    means = images.mean(dim=(1, 2, 3)) - 0.5
    return torch.where(means.abs() < 0.02, -1, (means > 0).long())


class TestCopies:
    @pytest.mark.parametrize("noise", Noise)
    def test_are_those_of_the_estimation_and_what_the_classifier_sees(self, noise: Noise) -> None:
        pipeline = SmoothedClassifier(
            bright, 0.25, lambda noisy: noisy.clamp(0, 1), noise=noise, device="cpu"
        )
        noisy, seen = shown_copies(pipeline.prepared, GREY, "7", SEED, 3)
        expected = noisy_copies(
            torch.from_numpy(GREY),
            0.25,
            noise=noise,
            seed=SEED,
            image_id="7",
            stage=Stage.ESTIMATION,
            start=0,
            stop=3,
        )
        assert np.array_equal(noisy, expected.numpy())
        assert np.array_equal(seen, noisy.clip(0, 1))

    def test_have_the_labels_that_are_counted(self) -> None:
        smoothed = SmoothedClassifier(bright, 0.25, device="cpu")
        copies, seen = shown_copies(smoothed.prepared, GREY, "7", SEED, 60)
        labels = [None if label < 0 else label for label in bright(torch.tensor(copies)).tolist()]
        assert shown_labels(smoothed.prepared, GREY, "7", SEED, 60) == labels
        assert set(labels) == {0, 1, None}
        assert np.array_equal(copies, seen)


class TestScores:
    RANGES = tuple(
        CopyRange(ImageTask("run", name, GREY), Stage.PREDICTION, range(start, stop))
        for name, start, stop in (("7", 2, 9), ("8", 0, 3))
    )

    def scores(self, classify: Callable[[Tensor], Tensor]) -> np.ndarray:
        prepared = SmoothedClassifier(classify, 0.25, device="cpu").prepared
        return VoteCounter(prepared).scores(self.RANGES, prepared.engine_for(GREY), SEED)

    def test_are_log_probabilities_of_each_copy(self) -> None:
        def logits(images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3] * 9

        copies = [
            noisy_copies(
                torch.from_numpy(GREY), 0.25, noise=Noise.GRID, seed=SEED, stage=part.stage,
                image_id=part.task.image_id, start=part.copies.start, stop=part.copies.stop,
            )
            for part in self.RANGES
        ]  # fmt: skip
        odds = np.exp(logits(torch.cat(copies)).double().numpy())
        expected = np.log(odds / odds.sum(axis=1, keepdims=True))
        assert self.scores(logits) == pytest.approx(expected, abs=1e-6)

    def test_labels_have_none(self) -> None:
        with pytest.raises(SettingError, match="Scores need a classifier that answers with logits"):
            self.scores(bright)

    def test_infinite_logits_are_refused(self) -> None:
        with pytest.raises(ClassifierError, match="gave logits that are NaN or infinite"):
            self.scores(lambda images: images.flatten(1) / 0.0)
