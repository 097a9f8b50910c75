"""Noisy copies a second: `certify`, the bare pipeline, and the loop of the original algorithm.

All three in one process, taking turns, because machines are shared: compare the ratios.

    python benchmarks/throughput.py [--denoiser dncnn|unet|...] [--depth 56] [--rounds 5]
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from denoised_smoothing import ImageClassifier, SmoothedClassifier
from denoised_smoothing.classifiers import CifarResNet
from denoised_smoothing.denoisers import build_denoiser
from denoised_smoothing.images import to_grid

SIGMA = 0.25
IMAGES = 2


def original_loop(pipeline: nn.Module, image: Tensor, n: int, batch: int, classes: int) -> None:
    """One image at a time, default layout, counted on the host (Cohen et al. 2019, section 3.2)."""
    counts = np.zeros(classes, dtype=int)
    with torch.no_grad():
        for _ in range(math.ceil(n / batch)):
            size = min(batch, n)
            n -= size
            copies = image.repeat(size, 1, 1, 1)
            noise = torch.randn_like(copies) * SIGMA
            for label in pipeline(copies + noise).argmax(dim=1).cpu().numpy():
                counts[label] += 1


def bare(pipeline: nn.Module, copies: Tensor, n: int) -> None:
    """Forward passes alone, on copies that are there already."""
    with torch.inference_mode():
        for _ in range(n // len(copies)):
            pipeline(copies)


class Pipeline(nn.Module):
    """Denoiser, then classifier."""

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier

    def forward(self, copies: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.denoiser(copies, SIGMA))
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--denoiser", default="dncnn")
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=400)
    arguments = parser.parse_args()

    def pipeline() -> Pipeline:
        torch.manual_seed(0)
        denoiser = build_denoiser(arguments.denoiser)
        classifier = ImageClassifier(CifarResNet(arguments.depth), [0.5] * 3, [0.25] * 3)
        return Pipeline(denoiser, classifier).eval()

    n = arguments.copies
    image = torch.rand(3, 32, 32)
    default, ours = pipeline(), pipeline()
    smoothed = SmoothedClassifier(ours.classifier, SIGMA, ours.denoiser)
    images = to_grid(np.random.default_rng(0).random((IMAGES, 3, 32, 32), dtype=np.float32))
    variants: dict[str, tuple[int, Callable[[], Any]]] = {
        "original loop, batch 400": (
            n,
            lambda: original_loop(default, image, n, 400, classes=10),
        ),
    }
    for layout in (torch.contiguous_format, torch.channels_last):
        for batch in (25, 50, 100, 200):
            copies = torch.rand(batch, 3, 32, 32).contiguous(memory_format=layout)
            name = str(layout).removeprefix("torch.")
            model = pipeline().to(memory_format=layout)
            variants[f"bare, {name}, batch {batch}"] = (
                n // batch * batch,
                lambda model=model, copies=copies: bare(model, copies, n),
            )
    selection = n // 10
    variants["certify"] = (
        0,  # as many as the certificates say: an image that will abstain ends early
        lambda: smoothed.certify_batch(images, n0=selection, n=n - selection),
    )
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(arguments.rounds + 1):
        for name, (copies_done, work) in variants.items():
            began = time.perf_counter()
            certificates = work()
            seconds = time.perf_counter() - began
            done = copies_done or sum(certificate.calls for certificate in certificates)
            if turn:  # the first is for warming up
                rates[name].append(done / seconds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(value for name, value in medians.items() if name.startswith("bare"))
    print(f"{arguments.denoiser} + CIFAR ResNet-{arguments.depth}, 32x32, float32, random weights")
    machine = f"{torch.get_num_threads()} threads, {platform.machine()}"
    machine = f"{machine} {torch.backends.cpu.get_cpu_capability()}"
    print(f"torch {torch.__version__}, {machine}, median of {arguments.rounds} rounds\n")
    print("| | copies/s | of the best bare | of the original loop |")
    print("| --- | ---: | ---: | ---: |")
    for name, value in medians.items():
        original = medians["original loop, batch 400"]
        print(f"| {name} | {value:.0f} | {value / best:.2f} | {value / original:.2f} |")


if __name__ == "__main__":
    main()
