"""Prediction sets of images: calibrated on a stored run or a data set, then drawn."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.bounds import check_copies
from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.grid import grid_error
from denoised_smoothing.certificates.parameters import EngineName, Noise
from denoised_smoothing.certificates.prediction_sets import (
    Demand,
    Evidence,
    PredictionSet,
    SetRule,
    calibrate_scores,
    calibrate_votes,
    score_rank,
)
from denoised_smoothing.datasets import ImageDataset, select
from denoised_smoothing.errors import (
    CountsError,
    DatasetError,
    ImageError,
    RunMismatchError,
    SettingError,
    differences,
)
from denoised_smoothing.models.labels import GivenLabels
from denoised_smoothing.runs.labels import matched
from denoised_smoothing.runs.loading import (
    Loaded,
    Shape,
    common_shape,
    load_at,
    none_usable,
    usable,
)
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask
from denoised_smoothing.smoothing.votes import VoteCounter
from denoised_smoothing.store import Store, StoredRun

_COMPARED = (
    *("classifier_fingerprint", "denoiser_fingerprint", "sigma", "noise", "engine", "precision"),
    "calibration",
)
"""Run settings that make the classifier whose votes are exchangeable."""
_AT_ONCE = 100
"""Noisy copies of several images that are drawn together, at least those of one."""


@dataclass(frozen=True)
class PredictionSets:
    """A smoothed classifier that answers with sets of labels of a proven coverage.

    Make one with :meth:`from_run` or :meth:`from_data`.

    Args:
        smoothed: the smoothed classifier.
        rule: calibrated on images as it sees them.
        shape: of the images [C, H, W].
        resolution: to which images were resized before the noise, None for the classifier's.
        calibration: the images of the calibration, for a reader.
    """

    smoothed: SmoothedClassifier
    rule: SetRule
    shape: Shape
    resolution: int | None
    calibration: str

    @classmethod
    def from_run(
        cls,
        smoothed: SmoothedClassifier,
        store: Store,
        name: str,
        *,
        coverage: float,
        radius: float,
    ) -> PredictionSets:
        """Calibrate on the votes of a stored run with true labels (BinCP).

        Votes are those of the selection stage: every plan draws all its n0 copies of every image,
        while it may stop the estimation early. Images that the run refused are left out.

        Args:
            coverage: probability that a set holds the true label, such as 0.9.
            radius: largest L2 change of an image, in pixel values in [0, 1].

        Raises:
            RunNotFoundError: the store holds no run of that name.
            RunMismatchError: the run is of another classifier, denoiser, sigma or precision.
            CountsError: the run is not finished, or an image has other than n0 copies.
            SettingError: the plan has no selection stage, an image no label, or the images are too
                few; says what to change.
        """
        run = store.run(name)
        n = getattr(SamplingPlan.from_dict(run.settings["plan"]), "n0", 0)
        if n < 1:
            raise SettingError(
                f"The run {name!r} has no selection stage, whose n0 copies of every image are "
                "needed. Use a run with --n0 100."
            )
        depth, height, width = run.settings["image_shape"]
        _check_same(smoothed, run, (depth, height, width))
        votes = list(_true_votes(store, run, n))
        rule = calibrate_votes(
            votes, n, _demand(smoothed, coverage, radius, run.settings["dimension"])
        )
        calibration = (
            f"{len(votes):,} images of run {name!r} ({run.settings['data']})"
            f"{_left_out(run.refused)}"
        )
        resolution = run.settings["resolution"]
        return cls(smoothed, rule, (depth, height, width), resolution, calibration)

    @classmethod
    def from_data(
        cls,
        smoothed: SmoothedClassifier,
        dataset: ImageDataset,
        *,
        coverage: float,
        radius: float,
        copies: int = 1,
        resolution: int | None = None,
        limit: int | None = None,
        stride: int = 1,
        labels: GivenLabels | None = None,
        seed: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> PredictionSets:
        """Calibrate on the scores of noisy copies of a data set (RCP1 for one copy, else BinCP).

        Images that cannot be read, or that have another shape, are left out.

        Args:
            coverage, radius: as for :meth:`from_run`.
            copies: n, noisy copies of each image, here and in :meth:`predict`. More give smaller
                sets.
            resolution, limit, stride, labels: as for
                :class:`~denoised_smoothing.CertificationRun`.
            seed: of the noise; None for fresh entropy of the operating system, recorded.
            progress: called with the images that are done, and all of them.

        Raises:
            SettingError: the classifier gives labels only, or the images are too few; says how
                many are needed.
            DatasetError: an image has no label, or one that the classifier does not have.
            ImageError: no image can be used, or two shapes are equally frequent.
        """
        if smoothed.is_remote:
            raise SettingError(
                "Scores need a local classifier, and a remote one gives labels. Use vote shares of "
                "a stored run (--calibration-run)."
            )
        match = matched(dataset, smoothed.classifier, labels)
        indices = select(dataset, limit=limit, stride=stride)
        if unlabelled := sum(dataset.labels[index] is None for index in indices):
            raise DatasetError(
                f"{unlabelled:,} of {len(indices):,} images of {dataset.name} have no label. Use a "
                "labelled data set for the calibration."
            )
        shape = common_shape(smoothed, dataset, indices, resolution)
        demand = _demand(smoothed, coverage, radius, int(np.prod(shape)))
        check_copies("copies", copies)
        score_rank(len(indices), copies, demand)  # refuses too few images before any work
        seed = secrets.randbits(128) if seed is None else seed
        load, refused = partial(load_at, shape, smoothed, dataset), list[ImageError]()
        loaded = usable(partial(load, resolution=resolution), indices, refused)
        scores: list[Float[np.ndarray, " n"]] = []
        for part, values in _scored(smoothed, loaded, copies, seed):
            for (example, _), of_image in zip(part, values, strict=True):
                (label,), classes = match.labels([example.label]), of_image.shape[1]
                if label is None or label >= classes:
                    raise DatasetError(
                        f"Image {example.image_id!r} has label {label}, and the classifier gives "
                        f"scores of {classes} labels. Use data of its labels, or --labels FILE."
                    )
                scores.append(of_image[:, label])
            if progress is not None:
                progress(len(scores) + len(refused), len(indices))
        if not scores:
            raise none_usable(refused)
        rule = calibrate_scores(np.stack(scores), demand)
        calibration = f"{len(scores):,} images of {dataset.name}{_left_out(refused)}, seed {seed}"
        return cls(smoothed, rule, shape, resolution, calibration)

    def predict(self, image: Any, *, seed: int | None = None) -> PredictionSet:
        """Return the set of an image, from its own noisy copies.

        Args:
            image: tensor or array [C, H, W] in [0, 1], or a PIL image, of the shape of the
                calibration images; see :meth:`SmoothedClassifier.prepare`.
            seed: of the noise; None for fresh entropy. Anyone who changed the image must not
                know it.

        Raises:
            ImageError: the image cannot be used, or has another shape.
            ClassifierError: an answer is unusable.
        """
        pixels = image_forms.as_image(image)
        if pixels.shape != self.shape:
            raise ImageError(
                f"The image has shape {list(pixels.shape)}, but the calibration images have "
                f"{list(self.shape)}. Resize it as they were, with SmoothedClassifier.prepare."
            )
        seed = secrets.randbits(128) if seed is None else seed
        task = ImageTask(f"seed {seed}", image_forms.digest(pixels), pixels)
        values = self._values(task, seed)
        labels = self.rule.labels(values)
        return PredictionSet(
            labels, tuple(values[label] for label in labels), self.rule,
            self.smoothed.parameters(pixels, self.rule.demand.miss, seed), self.calibration,
        )  # fmt: skip

    def _values(self, task: ImageTask, seed: int) -> dict[int, int | float]:
        """Return the scores or the numbers of votes by label."""
        if self.rule.evidence is Evidence.SCORES:
            (scores,) = copy_scores(self.smoothed, [task], self.rule.copies, seed)
            return dict(enumerate(np.sort(scores, axis=0)[-self.rule.needed].tolist()))
        wanted = {Stage.PREDICTION: self.rule.copies}
        (task,) = self.smoothed.count_labels([task], lambda counts: wanted, seed)
        return dict(task.counts[Stage.PREDICTION].votes)


def _demand(smoothed: SmoothedClassifier, coverage: float, radius: float, size: int) -> Demand:
    error = size * grid_error(smoothed.sigma) if smoothed.noise is Noise.GRID else 0.0
    return Demand(coverage, radius, smoothed.sigma, error)


def _check_same(smoothed: SmoothedClassifier, run: StoredRun, shape: Shape) -> None:
    """Check that a run counted votes of this classifier, and take the engine of the run.

    Raises:
        RunMismatchError: it did not, with the differences; or its counts may be wrong.
    """
    if why := run.info.get("stopped"):
        raise RunMismatchError(
            f"The run {run.name!r} was stopped, and some of its counts may be wrong: {why} "
            "Calibrate with another run."
        )
    classifier, denoiser = smoothed.fingerprints()
    prepared, held = smoothed.prepared, run.settings
    if prepared.is_used and prepared.engine is EngineName.AUTO and held["engine"] is not None:
        prepared.use_engine(EngineName(held["engine"]), held["forward_shape"][0])
    now = {
        "classifier_fingerprint": classifier,
        "denoiser_fingerprint": denoiser,
        "sigma": smoothed.sigma,
        "noise": smoothed.noise.value,
        **prepared.record(np.full(shape, 128 / 255, np.float32)),
    }
    mine, theirs = ({key: part.get(key) for key in _COMPARED} for part in (held, now))
    if found := differences(mine, theirs, where=("in the run", "now")):
        raise RunMismatchError(
            f"The run {run.name!r} has votes of another classifier: {'; '.join(found)}. Use the "
            "classifier, denoiser, sigma, noise, engine and precision of the run."
        )


def _left_out(refused: Sequence[object]) -> str:
    """Return the number of images that could not be used, as part of a sentence."""
    return f", {len(refused):,} left out" if refused else ""


def _true_votes(store: Store, run: StoredRun, n: int) -> Iterator[int]:
    """Yield the selection votes of each image for its true label, without refused images."""
    refused = {image.image_id for image in run.refused}
    for image in store.stream_images(run.name):
        if image.image_id in refused:
            continue
        selection = image.counts.get(Stage.SELECTION)
        if not image.finished or selection is None or selection.n != n:
            raise CountsError(
                f"Image {image.image_id!r} of run {run.name!r} is not finished, and the "
                f"calibration needs {n} copies of the selection stage of every image. Resume the "
                "run."
            )
        if image.label is None:
            raise SettingError(
                f"Image {image.image_id!r} of run {run.name!r} has no true label, which the "
                "calibration needs. Use a run on labelled images."
            )
        yield selection.of(image.label)


def _scored(
    smoothed: SmoothedClassifier, loaded: Iterator[Loaded], copies: int, seed: int
) -> Iterator[tuple[Sequence[Loaded], Float[np.ndarray, "b n k"]]]:
    """Yield images in parts, with the scores of their noisy copies."""
    while part := list(islice(loaded, max(1, _AT_ONCE // copies))):
        # Named by place, so that no test image shares the noise of one, whatever its seed.
        tasks = [ImageTask("calibration", f"calibration {e.index}", image) for e, image in part]
        yield part, copy_scores(smoothed, tasks, copies, seed)


def copy_scores(
    smoothed: SmoothedClassifier, tasks: Sequence[ImageTask], copies: int, seed: int
) -> Float[np.ndarray, "b n k"]:
    """Return the log-probabilities of the first noisy copies of images of one shape.

    Raises:
        SettingError: the classifier answers with labels.
        ClassifierError: an answer is unusable.
    """
    choice = smoothed.prepared.engine_for(tasks[0].image)
    ranges = [CopyRange(task, Stage.PREDICTION, range(copies)) for task in tasks]
    scores = VoteCounter(smoothed.prepared).scores(ranges, choice, seed)
    return scores.reshape(len(tasks), copies, -1)
