"""PSNR of a denoiser for photographs, compared with the noisy input and BM3D.

    python benchmarks/photo.py --data parquet:../shared/data/photos/validation.parquet \
        --denoiser photo --images 40 --size 128

BM3D (Dabov et al. 2007) is the package `bm3d`, with sigma and its colour-transform variant. Without
the package, its row is omitted. All denoise the same noisy centre crops of the first images, which
are not clipped to [0, 1]. PSNR is the mean over the images.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.models.catalogue import load_denoiser

SIGMAS = (0.12, 0.25, 0.5)


def psnr(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Return the PSNR of one image, after clipping the estimate to [0, 1]."""
    error = np.mean((np.clip(estimate, 0, 1) - clean) ** 2)
    return float(-10 * np.log10(error))


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--denoiser", default="photo")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    try:
        from bm3d import bm3d_rgb
    except ImportError:
        bm3d_rgb = None
    dataset, denoiser = load_dataset(arguments.data), load_denoiser(arguments.denoiser)
    assert denoiser is not None
    found: dict[tuple[float, str], list[float]] = {}
    seconds: dict[str, float] = {"denoiser": 0.0, "BM3D": 0.0}
    for index in range(arguments.images):
        image = dataset[index].image
        top, left = ((side - arguments.size) // 2 for side in image.shape[1:])
        clean = image[:, top : top + arguments.size, left : left + arguments.size]
        for number, sigma in enumerate(SIGMAS):
            rng = np.random.default_rng((index, number))
            noisy = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
            found.setdefault((sigma, "noisy"), []).append(psnr(noisy, clean))
            began = time.perf_counter()
            with torch.inference_mode():
                denoised = denoiser(torch.from_numpy(noisy)[None], sigma)[0].numpy()
            seconds["denoiser"] += time.perf_counter() - began
            found.setdefault((sigma, "denoiser"), []).append(psnr(denoised, clean))
            if bm3d_rgb is not None:
                began = time.perf_counter()
                restored = bm3d_rgb(noisy.transpose(1, 2, 0).astype(np.float64), sigma)
                seconds["BM3D"] += time.perf_counter() - began
                found.setdefault((sigma, "BM3D"), []).append(
                    psnr(restored.transpose(2, 0, 1), clean)
                )
    print(f"{arguments.images} images, centre crops of {arguments.size} pixels; PSNR in dB\n")
    print(f"| | {' | '.join(f'σ {sigma:g}' for sigma in SIGMAS)} | s/image |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in ("noisy", "BM3D", "denoiser"):
        if (SIGMAS[0], name) in found:
            cells = [f"{np.mean(found[sigma, name]):.2f}" for sigma in SIGMAS]
            took = seconds.get(name, 0.0) / arguments.images / len(SIGMAS)
            print(f"| {name} | {' | '.join(cells)} | {took:.3f} |")


if __name__ == "__main__":
    main()
