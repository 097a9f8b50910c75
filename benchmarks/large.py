"""One photograph of 224x224 pixels: seconds, peak memory, and where the time goes.

    python benchmarks/large.py [--engine openvino] [--precision int8] [--denoiser photo-mse]

Each plan runs in a process of its own, after a first certificate that converts the model. Memory
is the peak of the process in MB. The parts are measured apart, on one thread each, for one copy:
the noise, and the engine with and without the denoiser.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from denoised_smoothing import SmoothedClassifier, load_classifier, load_dataset, load_denoiser
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.noise import levels_of, noisy_copies

SIGMA = 0.25
PLANS = (1_000, 10_000)
REPEATS = 20


def build(engine: str, precision: str, denoiser: str) -> tuple[SmoothedClassifier, np.ndarray]:
    """Return the smoothed classifier, and photographs [N, 3, 224, 224]."""
    photos = load_dataset("photos")
    images = np.stack([photos[index].image for index in range(len(photos))])
    smoothed = SmoothedClassifier(
        load_classifier("efficientnet-lite0"), SIGMA, load_denoiser(denoiser),
        engine=engine, precision=precision, calibration=images,
    )  # fmt: skip
    return smoothed, images


def certify(engine: str, precision: str, denoiser: str, n: int) -> None:
    """Print seconds, copies and peak memory of one certificate."""
    smoothed, images = build(engine, precision, denoiser)
    smoothed.certify(images[0], n0=4, n=8)
    began = time.perf_counter()
    certificate = smoothed.certify(images[0], n0=100, n=n, seed=0)
    seconds = time.perf_counter() - began
    print(json.dumps({"calls": certificate.calls, "seconds": seconds, "peak": peak()}))


def peak() -> float:
    """Return the peak memory of this process in MB, on Linux.

    ``getrusage`` would count that of the process that started this one as well.
    """
    [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return int(line) / 1024


def parts(engine: str, precision: str, denoiser: str) -> dict[str, float]:
    """Return milliseconds of each part for one copy, on one thread."""
    whole, images = build(engine, precision, denoiser)
    bare, _ = build(engine, precision, "none")
    image = torch.from_numpy(images[0])
    size = whole.prepared.engine_for(images[0]).forward
    levels = levels_of(image)

    def noise() -> torch.Tensor:
        return noisy_copies(
            image, SIGMA, noise=Noise.GRID, seed=0, image_id="0", stage=Stage.ESTIMATION,
            start=0, stop=size, levels=levels,
        )  # fmt: skip

    copies = noise()
    answer, classify = (
        partial(smoothed.prepared.engine_for(images[0]).engine.answer, copies)
        for smoothed in (whole, bare)
    )
    drawn, both, alone = (best(work) / size for work in (noise, answer, classify))
    return {"noise": drawn, "denoiser": both - alone, "classifier": alone}


def best(work: Callable[[], object]) -> float:
    """Return the shortest of several times in milliseconds: others use the machine, too."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(1_000 * (time.perf_counter() - began))
    return min(times[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--denoiser", default="photo-mse")
    parser.add_argument("--n", type=int, help="only this plan, in this process")
    given = parser.parse_args()
    models = (given.engine, given.precision, given.denoiser)
    if given.n is not None:
        certify(*models, given.n)
        return
    torch.set_num_threads(1)
    found = parts(*models)
    print(f"{given.engine} {given.precision}, milliseconds of one core for a copy: ", end="")
    print(", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
    for n in PLANS:
        command = [sys.executable, __file__, "--n", str(n), "--engine", given.engine]
        command += ["--precision", given.precision, "--denoiser", given.denoiser]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        held = json.loads(done.stdout)
        print(
            f"n = {n:,}: {held['seconds']:.1f} s, {held['calls'] / held['seconds']:.0f} copies/s, "
            f"peak {held['peak']:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
