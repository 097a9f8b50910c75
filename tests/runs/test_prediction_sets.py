"""Prediction sets from stored runs and from data sets: what calibrates them, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.prediction_sets import (
    Demand,
    Evidence,
    calibrate_scores,
    calibrate_votes,
)
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import (
    CountsError,
    DatasetError,
    ImageError,
    RunMismatchError,
    SettingError,
)
from denoised_smoothing.images import digest
from denoised_smoothing.noise import noisy_copies
from denoised_smoothing.runs.prediction_sets import PredictionSets
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

IMAGES, SIGMA, CLASSES = 60, 0.25, 3
PLAN = FixedBudget(n0=40, n=500)
LEVELS = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 2, 2)).astype(np.float32)
"""Each class is a channel; that of the label is brighter in most images."""
LABELS = [index % CLASSES for index in range(IMAGES)]
for _index, _label in enumerate(LABELS):
    LEVELS[_index, _label] = np.minimum(255, LEVELS[_index, _label] // 2 + 128)
PIXELS = LEVELS / np.float32(255)


class Channels(nn.Module):
    """The logits are the means of the channels, times a weight."""

    def __init__(self, weight: float = 8.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * images.mean(dim=(2, 3))


def made(**changes: Any) -> ImageDataset:
    data = ImageDataset(
        "folder:made", "f", [f"image-{index}" for index in range(IMAGES)],
        lambda index: PIXELS[index], LABELS,
    )  # fmt: skip
    return replace(data, **changes)


def smooth(classifier: Any = None, sigma: float = SIGMA, **options: Any) -> SmoothedClassifier:
    return SmoothedClassifier(
        Channels() if classifier is None else classifier, sigma, device="cpu", **options
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "runs.sqlite") as opened:
        CertificationRun(smooth(), made(), PLAN, 0.001, name="a", seed=1).execute(opened)
        yield opened


class TestFromRun:
    def test_uses_the_selection_votes_for_true_labels(self, store: Store) -> None:
        sets = PredictionSets.from_run(smooth(), store, "a", coverage=0.8, radius=0.1)
        votes = [
            image.counts[Stage.SELECTION].of(image.label) for image in store.stream_images("a")
        ]
        assert sets.rule == calibrate_votes(votes, 40, sets.rule.demand)
        assert sets.rule.demand == Demand(0.8, 0.1, SIGMA, sets.rule.demand.error)
        assert 0 < sets.rule.demand.error < 1e-14
        assert sets.calibration == "60 images of run 'a' (folder:made)"
        # Some images ended early, so the estimation has no fixed number of copies.
        drawn = {image.counts[Stage.ESTIMATION].n for image in store.stream_images("a")}
        assert len(drawn) > 1

    def test_predicts_by_the_votes_of_as_many_own_copies(self, store: Store) -> None:
        smoothed = smooth()
        sets = PredictionSets.from_run(smoothed, store, "a", coverage=0.8, radius=0.1)
        found = sets.predict(PIXELS[0], seed=5)
        copies = noisy_copies(
            torch.from_numpy(PIXELS[0]), SIGMA, noise=smoothed.noise, seed=5,
            image_id=digest(PIXELS[0]), stage=Stage.PREDICTION, start=0, stop=40,
        )  # fmt: skip
        votes = np.bincount(Channels()(copies).argmax(dim=1), minlength=CLASSES)
        expected = [k for k in np.argsort(-votes, kind="stable") if votes[k] >= sets.rule.threshold]
        assert found.labels == tuple(expected)
        assert found.values == tuple(votes[list(found.labels)])
        assert found.parameters.seed == 5
        assert sets.predict(PIXELS[0], seed=5) == found
        assert sets.predict(PIXELS[0]).parameters.seed != sets.predict(PIXELS[0]).parameters.seed

    def test_an_anytime_run_has_a_fixed_selection(self, store: Store) -> None:
        plan = Anytime((0.1,), max_n=400, n0=30)
        CertificationRun(smooth(), made(), plan, 0.001, name="b", seed=1).execute(store)
        sets = PredictionSets.from_run(smooth(), store, "b", coverage=0.8, radius=0.1)
        assert (sets.rule.copies, sets.rule.images) == (30, IMAGES)

    def test_a_plan_without_selection_is_refused(self, store: Store) -> None:
        plan = Anytime((0.1,), max_n=400, n0=0)
        CertificationRun(smooth(), made(), plan, 0.001, name="b", seed=1).execute(store)
        with pytest.raises(SettingError, match=r"'b' has no selection stage.* with --n0 100"):
            PredictionSets.from_run(smooth(), store, "b", coverage=0.8, radius=0.1)

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            (lambda: smooth(sigma=0.5), "sigma: 0.25 in the run, 0.5 now"),
            (lambda: smooth(Channels(9.0)), "classifier_fingerprint: "),
            (lambda: smooth(noise="float"), "noise: 'grid' in the run, 'float' now"),
            (lambda: smooth(precision="bfloat16"), "precision: 'float32' in the run, 'bfloat16'"),
        ],
    )
    def test_another_classifier_is_refused(self, store: Store, other: Any, named: str) -> None:
        with pytest.raises(RunMismatchError, match=named):
            PredictionSets.from_run(other(), store, "a", coverage=0.8, radius=0.1)

    def test_an_unfinished_run_is_refused(self, store: Store) -> None:
        image = next(iter(store.stream_images("a")))
        store.save_images("a", [replace(image, finished=False)])
        with pytest.raises(CountsError, match=r"'image-0' of run 'a' is not finished.* Resume the"):
            PredictionSets.from_run(smooth(), store, "a", coverage=0.8, radius=0.1)

    def test_a_refused_image_that_was_begun_is_left_out(self, store: Store) -> None:
        whole = PredictionSets.from_run(smooth(), store, "a", coverage=0.8, radius=0.1)
        image = next(iter(store.stream_images("a")))
        store.save_images("a", [replace(image, finished=False)])
        refused = {"index": image.index, "image_id": image.image_id, "reason": "too dark"}
        store.note("a", refused=[refused])
        sets = PredictionSets.from_run(smooth(), store, "a", coverage=0.8, radius=0.1)
        assert (sets.rule.images, whole.rule.images) == (IMAGES - 1, IMAGES)
        assert sets.calibration == "59 images of run 'a' (folder:made), 1 left out"

    def test_a_run_whose_counts_may_be_wrong_is_refused(self, store: Store) -> None:
        store.note("a", stopped="The answer to a noisy copy is not a function of that copy.")
        with pytest.raises(
            RunMismatchError, match=r"'a' was stopped.* not a function of that copy"
        ):
            PredictionSets.from_run(smooth(), store, "a", coverage=0.8, radius=0.1)

    def test_images_without_labels_are_refused(self, store: Store) -> None:
        data = made(labels=[None, *LABELS[1:]])
        CertificationRun(smooth(), data, PLAN, 0.001, name="b", seed=1).execute(store)
        with pytest.raises(SettingError, match="'image-0' of run 'b' has no true label"):
            PredictionSets.from_run(smooth(), store, "b", coverage=0.8, radius=0.1)

    def test_too_few_images_are_refused_with_the_smallest_number(self, store: Store) -> None:
        with pytest.raises(SettingError, match="needs at least 111 calibration images, got 60"):
            PredictionSets.from_run(smooth(), store, "a", coverage=0.99, radius=0.1)


class TestFromData:
    @pytest.mark.parametrize("copies", [1, 30])
    def test_uses_the_scores_of_true_labels(self, copies: int) -> None:
        smoothed, seen = smooth(), []
        sets = PredictionSets.from_data(
            smoothed, made(), coverage=0.8, radius=0.1, copies=copies, seed=3,
            progress=lambda done, images: seen.append((done, images)),
        )  # fmt: skip
        true = np.empty((IMAGES, copies))
        for index in range(IMAGES):
            noisy = noisy_copies(
                torch.from_numpy(PIXELS[index]), SIGMA, noise=smoothed.noise, seed=3,
                image_id=f"calibration {index}", stage=Stage.PREDICTION, start=0, stop=copies,
            )  # fmt: skip
            logits = Channels()(noisy).double().detach().numpy()
            scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            true[index] = scores[:, LABELS[index]]
        expected = calibrate_scores(true, sets.rule.demand)
        assert sets.rule.threshold == pytest.approx(expected.threshold, abs=1e-5)
        assert replace(sets.rule, threshold=0.0) == replace(expected, threshold=0.0)
        assert sets.calibration == "60 images of folder:made, seed 3"
        assert seen[-1] == (IMAGES, IMAGES)

    def test_predicts_by_scores(self) -> None:
        sets = PredictionSets.from_data(
            smooth(), made(), coverage=0.8, radius=0.1, copies=20, seed=3
        )
        found = sets.predict(torch.from_numpy(PIXELS[1]), seed=3)
        assert found.rule.evidence is Evidence.SCORES
        assert list(found.values) == sorted(found.values, reverse=True)
        assert all(sets.rule.threshold <= value <= 0 for value in found.values)
        # The image is one of the calibration, but its noise is its own.
        assert found != replace(sets, smoothed=smooth()).predict(PIXELS[1], seed=4)

    @pytest.mark.parametrize("copies", [1, 20])
    def test_sets_hold_the_labels_of_changed_images(self, copies: int) -> None:
        """The change makes all other channels brighter, which is the worst one for this model."""
        sets = PredictionSets.from_data(
            smooth(), made(), coverage=0.8, radius=0.1, copies=copies, seed=3
        )
        held = []
        for pixels, label in zip(PIXELS, LABELS, strict=True):
            step = np.full_like(pixels, 1.0)
            step[label] = -2.0
            changed = np.clip(pixels + 0.1 * step / np.linalg.norm(step), 0, 1)
            held.append(label in sets.predict(changed.astype(np.float32)).labels)
        # 60 independent images, each held with probability 0.8 or more: 36 is 4 sigma away.
        assert sum(held) >= 36

    def test_a_classifier_of_labels_has_no_scores(self) -> None:
        with pytest.raises(SettingError, match="Scores need a classifier that answers with logits"):
            PredictionSets.from_data(
                smooth(lambda images: images.mean(dim=(2, 3)).argmax(dim=1)), made(),
                coverage=0.8, radius=0.1,
            )  # fmt: skip

    def test_bad_input_is_refused_before_any_copy(self) -> None:
        def fail(images: Tensor) -> Tensor:
            raise AssertionError("a copy was classified")

        smoothed = smooth(fail)
        for options, message in (
            ({"coverage": 0.99, "radius": 0.25}, "needs at least 2,272 calibration images, got 60"),
            ({"coverage": 90.0, "radius": 0.1}, "coverage must lie strictly between 0 and 1"),
            ({"coverage": 0.8, "radius": 0.1, "copies": 0}, "copies must be a whole number"),
        ):
            with pytest.raises(SettingError, match=message):
                PredictionSets.from_data(smoothed, made(), **options)
        with pytest.raises(DatasetError, match="1 of 60 images of folder:made have no label"):
            PredictionSets.from_data(
                smoothed, made(labels=[None, *LABELS[1:]]), coverage=0.8, radius=0.1
            )

    def test_labels_that_the_classifier_lacks(self) -> None:
        with pytest.raises(DatasetError, match=r"'image-0' has label 7, .* scores of 3 labels"):
            PredictionSets.from_data(
                smooth(), made(labels=[7, *LABELS[1:]]), coverage=0.8, radius=0.1
            )

    def test_an_image_of_another_shape(self) -> None:
        sets = PredictionSets.from_data(smooth(), made(), coverage=0.8, radius=0.1)
        with pytest.raises(ImageError, match=r"has shape \[3, 4, 4\], but the calibration images"):
            sets.predict(np.zeros((3, 4, 4), np.float32))

    def test_images_that_cannot_be_read_are_left_out(self) -> None:
        def read(index: int) -> np.ndarray:
            if index == 4:
                raise ImageError("image 4 is damaged")
            return PIXELS[index]

        sets = PredictionSets.from_data(smooth(), made(read=read), coverage=0.8, radius=0.1)
        assert sets.rule.images == 59
        assert sets.calibration.startswith("59 images of folder:made, 1 left out, seed ")
