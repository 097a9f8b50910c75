"""Photographs behind denoisers: PSNR, and the accuracy of classifiers on noisy copies.

    python benchmarks/photo.py --data parquet:data/imagenet/test.parquet \
        --denoiser photo --denoiser photo-mse --classifier efficientnet-lite0
    python benchmarks/photo.py --data parquet:data/photos/validation.parquet --denoiser photo \
        --sigmas 0.12,0.25,0.5 --images 16 --size 96 --bm3d

All denoise the same noisy centre crops of the images, which are not clipped to [0, 1]. More
`--copies` of each image lower the error of the accuracy, and so of differences between denoisers.
PSNR is the mean over the images. `--bm3d` adds BM3D (Dabov et al. 2007, package `bm3d`) in its
variant for colours, which is given sigma.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from denoised_smoothing.datasets import ImageDataset, load_dataset
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.reporting.tables import markdown_table
from denoised_smoothing.runs.labels import matched

BATCH = 10

Denoise = Callable[[Tensor, float], Tensor]


def crops(dataset: ImageDataset, indices: range, size: int) -> Tensor:
    """Return centre crops of these images [N, 3, size, size]."""
    found = []
    for index in indices:
        image = dataset[index].image
        if min(image.shape[1:]) < size:
            raise SystemExit(
                f"Image {index} has {image.shape[1]}x{image.shape[2]} pixels, fewer than {size}. "
                "Name a smaller --size."
            )
        top, left = ((side - size) // 2 for side in image.shape[1:])
        found.append(image[:, top : top + size, left : left + size])
    return torch.from_numpy(np.stack(found))


def bm3d(noisy: Tensor, sigma: float) -> Tensor:
    """Denoise images one by one."""
    from bm3d import bm3d_rgb

    images = noisy.permute(0, 2, 3, 1).double().numpy()
    restored = np.stack([bm3d_rgb(image, sigma) for image in images])
    return torch.from_numpy(restored.astype(np.float32)).permute(0, 3, 1, 2)


def measure(
    denoise: Denoise | None,
    clean: Tensor,
    sigma: float,
    judges: list[tuple[Callable[[Tensor], Tensor], Tensor]],
    copies: int,
) -> tuple[list[str], float]:
    """Return PSNR and accuracies (%) as cells, and seconds for each image."""
    seconds, errors, right = 0.0, [], np.zeros(len(judges))
    for copy, (number, images) in product(range(copies), enumerate(clean.split(BATCH))):
        generator = torch.Generator().manual_seed(1_000_003 * number + copy)
        noisy = images + sigma * torch.randn(images.shape, generator=generator)
        began = time.perf_counter()
        with torch.inference_mode():
            seen = noisy if denoise is None else denoise(noisy, sigma)
            seconds += time.perf_counter() - began
            error = (seen.clamp(0, 1) - images).square().mean(dim=(1, 2, 3))
            errors.append(-10 * error.log10())
            for judge, (classify, labels) in enumerate(judges):
                answers = classify(seen).argmax(dim=1)
                right[judge] += int((answers == labels.split(BATCH)[number]).sum())
    total = copies * len(clean)
    cells = [f"{torch.cat(errors).mean():.2f}", *(f"{100 * n / total:.1f}" for n in right)]
    return cells, seconds / total


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--denoiser", action="append", default=[])
    parser.add_argument("--classifier", action="append", default=[])
    parser.add_argument("--sigmas", default="0.25,0.5,1.0")
    parser.add_argument("--images", type=int, help="how many (default: all)")
    parser.add_argument("--skip", type=int, default=0, help="images before the first")
    parser.add_argument("--copies", type=int, default=1, help="noisy copies of each image")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bm3d", action="store_true")
    given = parser.parse_args()
    dataset = load_dataset(given.data)
    last = len(dataset) if given.images is None else given.skip + given.images
    indices = range(given.skip, last)
    clean = crops(dataset, indices, given.size)
    judges = []
    for spec in given.classifier:
        classifier = load_classifier(spec)
        labels = matched(dataset, classifier).labels([dataset.labels[i] for i in indices])
        judges.append((classifier, torch.tensor(labels)))
    rows: list[tuple[str, Denoise | None]] = [("none", None)]
    rows += [("BM3D", bm3d)] if given.bm3d else []
    for spec in given.denoiser:
        denoiser = load_denoiser(spec)
        assert denoiser is not None
        rows.append((spec, denoiser))
    sigmas = [float(text) for text in given.sigmas.split(",")]
    headings, lines = ["denoiser"], []
    for sigma in sigmas:
        headings += [f"σ {sigma:g}: dB", *given.classifier]
    for name, denoise in rows:
        cells, times = [name], []
        for sigma in sigmas:
            found, seconds = measure(denoise, clean, sigma, judges, given.copies)
            cells += found
            times.append(seconds)
        lines.append([*cells, f"{np.mean(times):.3f}"])
    print(
        f"Images {indices.start} to {indices.stop - 1}, centre crops of {given.size} pixels, "
        f"noisy copies of each: {given.copies}\n"
    )
    print(markdown_table([*headings, "s/image"], lines))


if __name__ == "__main__":
    main()
