"""Cost of noise on the 8-bit grid: `grid_noise` and whole copies, against other samplers.

All take turns in one process on one thread, because machines are shared: compare the ratios.

    OMP_NUM_THREADS=1 python benchmarks/noise.py [--rounds 200]
    OMP_NUM_THREADS=1 python benchmarks/noise.py --pairs 7 [--before EARLIER/noise.py]

`--pairs` prints ratios of processor times of whole copies at sigma 0.25: an image off the 8-bit
grid to one on it and, of one on it, this module to an earlier version of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.noise import grid_noise, levels_of, noisy_copies, standard_normal

CPU = torch.device("cpu")
SHAPES = ((50, 3, 32, 32), (4, 3, 224, 224))
SIGMAS = (0.12, 0.25, 0.5, 1.0)
KEY = 2**127 + 1
REFERENCE = "torch.randn float32"


def copies(
    noise: Noise,
    shape: tuple[int, ...],
    sigma: float,
    *,
    on_grid: bool = True,
    draw: Callable[..., object] | None = None,
) -> Callable[[], object]:
    """Draw one chunk of noisy copies."""
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, shape[1:]) if on_grid else random.uniform(0, 255, shape[1:])
    image = torch.from_numpy(levels).float() / 255
    if draw is None:
        draw = partial(noisy_copies, levels=levels_of(image))  # known of a task, too
    return lambda: draw(
        image, sigma, noise=noise, seed=1, image_id="0", stage=Stage.ESTIMATION, start=0,
        stop=shape[0],
    )  # fmt: skip


def samplers(shape: tuple[int, ...], sigma: float) -> dict[str, Callable[[], object]]:
    """Return the samplers, each with the making of its generator."""
    return {
        REFERENCE: lambda: torch.randn(shape, generator=torch.Generator().manual_seed(1)),
        "NumPy standard_normal float32": lambda: standard_normal(KEY, shape, CPU),
        "grid: integers": lambda: grid_noise(KEY, shape, sigma, CPU),
        "grid: whole copies": copies(Noise.GRID, shape, sigma),
        "float: whole copies": copies(Noise.FLOAT, shape, sigma),
    }


def nanoseconds(work: dict[str, Callable[[], object]], rounds: int, size: int) -> dict[str, float]:
    """Return the median time of one number. The first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, draw in work.items():
            began = time.perf_counter()
            draw()
            if turn:
                times[name].append((time.perf_counter() - began) * 1e9 / size)
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(name: str, work: Callable[[], object], base: Callable[[], object], pairs: int) -> None:
    """Print ratios of pairs of times; draws of a pair take turns."""
    found = []
    for _ in range(pairs):
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(60):
            for draw, seconds in zip((work, base), times, strict=True):
                began = time.process_time()
                draw()
                if turn:
                    seconds.append(time.process_time() - began)
        found.append(statistics.median(times[0]) / statistics.median(times[1]))
    print(f"{name}: median {statistics.median(found):.3f} of", *(f"{x:.3f}" for x in found))


def compare(pairs: int, before: Path | None) -> None:
    """Print the ratios of off the grid to on it, and of on it to an earlier version."""
    for shape in SHAPES:
        name, on_grid = "x".join(map(str, shape)), copies(Noise.GRID, shape, 0.25)
        off_grid = copies(Noise.GRID, shape, 0.25, on_grid=False)
        ratios(f"{name}, off the grid / on it", off_grid, on_grid, pairs)
        if before is not None:
            spec = importlib.util.spec_from_file_location("before", before)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            earlier = copies(Noise.GRID, shape, 0.25, draw=module.noisy_copies)
            ratios(f"{name}, on the grid, now / before", on_grid, earlier, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--before", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.pairs is not None:
        compare(arguments.pairs, arguments.before)
        return
    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    print(f"torch {torch.__version__}, NumPy {np.__version__}, 1 thread, {machine}")
    print(f"ns a number, median of {arguments.rounds} rounds; in brackets of {REFERENCE}\n")
    header = None
    for shape in SHAPES:
        for sigma in SIGMAS:
            medians = nanoseconds(samplers(shape, sigma), arguments.rounds, math.prod(shape))
            if header is None:
                header = list(medians)
                print("| shape | sigma |", " | ".join(header), "|")
                print("| --- | --- |", " | ".join(["---:"] * len(header)), "|")
            cells = (
                f"{value:.1f} ({value / medians[REFERENCE]:.2f})" for value in medians.values()
            )
            print(f"| {'x'.join(map(str, shape))} | {sigma} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
