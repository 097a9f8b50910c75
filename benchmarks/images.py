"""Copies a second and peak memory with 1, 10 and 500 images, n0 = 100 and n = 1,000.

    python benchmarks/images.py [--engine openvino] [--precision int8] [--n 1000,100000]

Each line is measured in a process of its own. The classifier is small, so that the cost of
everything else is visible.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable

import numpy as np
import torch

from denoised_smoothing import FixedBudget, ImageClassifier, SmoothedClassifier
from denoised_smoothing.images import to_grid
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet
from denoised_smoothing.smoothing.scheduler import ImageTask

SEED = 20190208


def smoothed(engine: str, precision: str) -> SmoothedClassifier:
    torch.manual_seed(0)
    classifier = ImageClassifier(CifarResNet(20), [0.5] * 3, [0.25] * 3)
    return SmoothedClassifier(
        classifier, 0.25, engine=engine, precision=precision, calibration=images(8)
    )


def images(count: int) -> np.ndarray:
    return to_grid(np.random.default_rng(0).random((count, 3, 32, 32), dtype=np.float32))


def tasks(count: int) -> Iterable[ImageTask]:
    """Yield images one by one, as a data set does."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = to_grid(rng.random((1, 3, 32, 32), dtype=np.float32))[0]
        yield ImageTask("run", str(number), pixels)


def measure(engine: str, precision: str, count: int, n: int) -> dict[str, float]:
    """Return copies a second and peak memory in MiB."""
    classifier, plan = smoothed(engine, precision), FixedBudget(100, n)
    parameters = classifier.parameters(images(1)[0], 0.001, SEED)
    warm = classifier.count_labels(tasks(1), lambda c: plan.targets(c, parameters), SEED)
    list(warm)
    began, calls = time.perf_counter(), 0
    for task in classifier.count_labels(
        tasks(count), lambda counts: plan.targets(counts, parameters), SEED
    ):
        calls += task.calls
    rate = calls / (time.perf_counter() - began)
    return {"rate": rate, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_a_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, "--one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--images", default="1,10,500")
    parser.add_argument("--n", default="1000,100000", help="for memory, with two images")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        engine, precision, count, n = arguments.one
        print(json.dumps(measure(engine, precision, int(count), int(n))))
        return
    print(f"ResNet-20 without a denoiser, {arguments.engine} {arguments.precision}\n")
    print("| images | n | copies/s | peak memory, MiB |\n| ---: | ---: | ---: | ---: |")
    lines = [(int(count), 1000) for count in arguments.images.split(",")]
    lines += [(2, int(n)) for n in arguments.n.split(",")]
    for count, n in lines:
        found = in_a_process(arguments.engine, arguments.precision, count, n)
        print(f"| {count} | {n:,} | {found['rate']:.0f} | {found['memory']:.0f} |")


if __name__ == "__main__":
    main()
