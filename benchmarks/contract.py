"""Cost of the contract check and of the canaries on ResNet-56, as a share of a run.

With and without them in turn in one process, because machines are shared: compare the differences.

    python benchmarks/contract.py [--rounds 7] [--engine torch]
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest.mock import patch

import numpy as np
import torch

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.engines.canaries import EVERY, FIRST, Canaries
from denoised_smoothing.engines.contract import ContractCheck
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

IMAGES, N0, N = 100, 100, 1_000
"""Of the run whose share is printed."""


def seconds(model: CifarResNet, image: np.ndarray, engine: str, *, checked: bool) -> float:
    """Return the time of the first certificate of a smoothed classifier, from 200 copies."""
    smoothed = SmoothedClassifier(model, 0.25, engine=engine, device="cpu")
    began = time.perf_counter()
    if checked:
        smoothed.certify(image, n0=N0, n=100, seed=1)
    else:
        with (
            patch.object(ContractCheck, "run", lambda check: ()),
            patch.object(Canaries, "is_due", lambda canaries, engine: False),
        ):
            smoothed.certify(image, n0=N0, n=100, seed=1)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engine", choices=[name.value for name in EngineName], default="torch")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = CifarResNet(56)
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.float32) / 255
    seconds(model, image, options.engine, checked=True)  # converts and warms up
    later = []
    for _ in range(options.rounds):
        without = seconds(model, image, options.engine, checked=False)
        later.append(seconds(model, image, options.engine, checked=True) - without)
    smoothed = SmoothedClassifier(model, 0.25, engine=options.engine, device="cpu")
    choice = smoothed.prepared.engine_for(image)
    began = time.perf_counter()
    certificate = smoothed.certify(image, n0=N0, n=N, seed=2)
    copies = certificate.calls / (time.perf_counter() - began)
    first, run = statistics.median(later), IMAGES * (N0 + N) / copies
    measured, passes = (N0 + 100) // choice.forward, IMAGES * (N0 + N) // choice.forward
    due = [number in FIRST or number % EVERY == 0 for number in range(passes)]
    canaries = sum(due)
    share = (first + sum(due[measured:]) * choice.forward / copies) / run
    print(f"engine {options.engine}, {choice.forward} copies a pass, {copies:.0f} copies a second")
    print(f"first certificate later by {first:.2f} s (median of {options.rounds} pairs)")
    print(f"share of a run of {IMAGES} images, n = {N:,}: {share:.2%}, {canaries} canaries")


if __name__ == "__main__":
    main()
