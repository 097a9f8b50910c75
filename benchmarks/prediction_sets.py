"""Robust prediction sets: their mean size, and how often they hold the true label.

    python benchmarks/prediction_sets.py parquet:data/cifar10/test.parquet \
        --classifier cifar-resnet56:data/cifar10_classifiers/resnet56.safetensors \
        --denoiser cifar10-resnet56 --images 1000 --calibration 500

The images are split many times into calibration and test images. All rules get the same copies:
scores of one copy, scores of all, and votes of all. Nobody changes the test images: coverage is
then well above the requested one, which is that of the worst change. With ``--attacked N``, PGD
changes the last N images, and the first ones calibrate.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from denoised_smoothing import (
    PGD,
    SmoothedClassifier,
    attack,
    load_classifier,
    load_dataset,
    load_denoiser,
)
from denoised_smoothing.certificates.grid import grid_error
from denoised_smoothing.certificates.prediction_sets import (
    Demand,
    SetRule,
    calibrate_scores,
    calibrate_votes,
)
from denoised_smoothing.datasets import select
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.tables import markdown_table
from denoised_smoothing.runs.labels import matched
from denoised_smoothing.runs.loading import common_shape, load_at
from denoised_smoothing.runs.prediction_sets import copy_scores
from denoised_smoothing.smoothing.scheduler import ImageTask

SEED, AT_ONCE = 20190208, 200
RULES = ("scores of one copy", "scores", "votes")


def load(
    smoothed: SmoothedClassifier, given: argparse.Namespace
) -> tuple[list[ImageTask], np.ndarray]:
    """Return the images and their true labels [N]."""
    dataset = load_dataset(given.data)
    indices = select(dataset, limit=given.images, stride=given.stride)
    shape = common_shape(smoothed, dataset, indices, None)
    match, tasks, labels = matched(dataset, smoothed.classifier), [], []
    for index in indices:
        example, image = load_at(shape, smoothed, dataset, index, None)
        tasks.append(ImageTask("benchmark", example.image_id, image))
        labels += match.labels([example.label])
    return tasks, np.array(labels)


def draw(smoothed: SmoothedClassifier, tasks: list[ImageTask], copies: int) -> np.ndarray:
    """Return scores [N, n, K] of noisy copies."""
    size = max(1, AT_ONCE // copies)
    parts = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    return np.concatenate(
        [copy_scores(smoothed, part, copies, SEED).astype(np.float32) for part in parts]
    )


def attacked(
    smoothed: SmoothedClassifier, tasks: list[ImageTask], labels: np.ndarray, radius: float
) -> list[ImageTask]:
    """Return the images, changed by less than the radius to be given other labels."""
    return [
        ImageTask(
            "benchmark",
            f"changed {task.image_id}",
            attack(smoothed, task.image, int(label), radius, PGD(5, 8, 0.3), seed=SEED),
        )
        for task, label in zip(tasks, labels, strict=True)
    ]


def calibrated(rule: str, scores: np.ndarray, labels: np.ndarray, demand: Demand) -> SetRule:
    if rule == "votes":
        votes = (scores.argmax(axis=2) == labels[:, None]).sum(axis=1)
        return calibrate_votes(votes.tolist(), scores.shape[1], demand)
    true = scores[np.arange(len(labels)), :, labels]
    return calibrate_scores(true[:, :1] if rule == RULES[0] else true, demand)


def sets(rule: SetRule, name: str, scores: np.ndarray) -> np.ndarray:
    """Return which labels are in the sets [N, K]."""
    if name == "votes":
        answers = scores.argmax(axis=2)
        values = np.stack([(answers == k).sum(axis=1) for k in range(scores.shape[2])], axis=1)
    else:
        values = np.sort(scores[:, : rule.copies], axis=1)[:, -rule.needed]
    return values >= rule.threshold


def measured(
    name: str, scores: np.ndarray, labels: np.ndarray, demand: Demand, given: argparse.Namespace
) -> list[str]:
    random, sizes, hits = np.random.default_rng(SEED), [], []
    for _ in range(given.splits):
        order = random.permutation(len(labels))
        first, rest = order[: given.calibration], order[given.calibration :]
        try:
            rule = calibrated(name, scores[first], labels[first], demand)
        except SettingError:
            return ["all labels", ""]
        found = sets(rule, name, scores[rest])
        sizes.append(found.sum(axis=1).mean())
        hits.append(found[np.arange(len(rest)), labels[rest]].mean())
    return [f"{np.mean(sizes):.1f}", f"{100 * np.mean(hits):.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--denoiser", required=True)
    parser.add_argument("--sigmas", default="0.25,0.5")
    parser.add_argument("--radii", default="0.12,0.25,0.5")
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--copies", type=int, default=25)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--calibration", type=int, default=500)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--attacked", type=int, default=0)
    given = parser.parse_args()
    lines = []
    for sigma in map(float, given.sigmas.split(",")):
        smoothed = SmoothedClassifier(
            load_classifier(given.classifier), sigma, load_denoiser(given.denoiser), engine="auto"
        )
        began = time.perf_counter()
        tasks, labels = load(smoothed, given)
        scores, dimension = draw(smoothed, tasks, given.copies), tasks[0].image.size
        seconds = time.perf_counter() - began
        right = 100 * (scores.argmax(axis=2) == labels[:, None]).mean()
        print(f"sigma {sigma:g}: {seconds:.0f} s, {right:.1f} % of the copies are classified right")
        for radius in map(float, given.radii.split(",")):
            demand = Demand(given.coverage, radius, sigma, dimension * grid_error(sigma))
            cells = [
                cell for name in RULES for cell in measured(name, scores, labels, demand, given)
            ]
            lines.append([f"{sigma:g}", f"{radius:g}", *cells])
            if given.attacked:
                first, last = slice(given.calibration), slice(-given.attacked, None)
                changed = attacked(smoothed, tasks[last], labels[last], radius)
                moved = draw(smoothed, changed, given.copies)
                for name in RULES[:2]:
                    rule = calibrated(name, scores[first], labels[first], demand)
                    hits = [
                        sets(rule, name, part)[np.arange(given.attacked), labels[last]].sum()
                        for part in (scores[last], moved)
                    ]
                    print(
                        f"sigma {sigma:g}, radius {radius:g}, {name}: {hits[0]} of "
                        f"{given.attacked} sets hold the label before, {hits[1]} after the attack",
                        flush=True,
                    )
    headings = ["sigma", "radius"]
    for name in (RULES[0], f"scores of {given.copies}", f"votes of {given.copies}"):
        headings += [f"{name}: mean size", "held, %"]
    print(markdown_table(headings, lines))


if __name__ == "__main__":
    main()
