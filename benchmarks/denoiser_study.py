"""Denoisers trained at equal compute, compared by error and accuracy.

    python benchmarks/denoiser_study.py --shared FOLDER --seconds 80 --output study

Every variant is trained for the same seconds on this machine; its measured speed sets the number of
steps. Then its error and the accuracy of a classifier after it are measured on images that the
certified tables do not use. Variants that are in the output folder are skipped.
`python benchmarks/denoiser_study.py --table study` prints the results as Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from denoised_smoothing.datasets import ImageDataset, load_dataset
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.models.denoisers.files import build_denoiser, load_denoiser_file
from denoised_smoothing.training.config import TrainingConfig, Weighting
from denoised_smoothing.training.data import Preparation
from denoised_smoothing.training.fit import TrainingJob, train_denoiser

SIGMAS = (0.25, 0.5)
FIRST, COUNT = 500, 1000
"""The rows of the test images that are used; the certified tables use rows 0 to 499."""

VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: architecture, its options, what differs in the training
    "unet": ("unet", {}, {}),
    "dncnn": ("dncnn", {}, {"learning_rate": 1e-3}),
    "dncnn-wide": ("dncnn-wide", {}, {"learning_rate": 1e-3}),
    "memnet": ("memnet", {}, {"learning_rate": 1e-3}),
    "unet width 32": ("unet", {"width": 32}, {}),
    "unet width 96": ("unet", {"width": 96}, {}),
    "unet deeper (3, 6)": ("unet", {"outer": 3, "inner": 6}, {}),
    "unet shallower (1, 2)": ("unet", {"outer": 1, "inner": 2}, {}),
    "unet on single pixels, width 32": ("unet", {"unshuffle": 1, "width": 32}, {}),
    "unet on 4x4 pixels, width 128": ("unet", {"unshuffle": 4, "width": 128}, {}),
    "unet, noise predicted": ("unet", {"residual": "noise"}, {}),
    "unet, sigmas weighted alike": ("unet", {}, {"weighting": Weighting.VARIANCE}),
    "unet, last weights": ("unet", {}, {"ema": 0.0}),
    "unet, learning rate 1e-3": ("unet", {}, {"learning_rate": 1e-3}),
    "unet, learning rate 4e-3": ("unet", {}, {"learning_rate": 4e-3}),
    "unet, batch 32": ("unet", {}, {"batch_size": 32}),
    "unet, shifted by up to 4 pixels": ("unet", {}, {"pad": 4}),
}


def speed(job: TrainingJob, steps: int = 6) -> float:
    """Return training steps a second, without the data."""
    torch.manual_seed(0)
    network = build_denoiser(job.architecture, **job.architecture_options)
    network = network.to(memory_format=torch.channels_last)
    images = torch.rand(job.config.batch_size, 3, 32, 32)
    images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    began = 0.0
    for step in range(steps + 2):
        if step == 2:
            began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (network(images, 0.25) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps / (time.process_time() - began)


def trained(name: str, seconds: float, data: ImageDataset, folder: Path) -> dict[str, Any]:
    """Train one variant for a time, write its weights, and return images and seconds."""
    architecture, options, changes = VARIANTS[name]
    changes = dict(changes)
    pad = changes.pop("pad", 0)
    config = replace(TrainingConfig(sigma=0.05, sigma_max=1.0, learning_rate=2e-3), **changes)
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    job = TrainingJob(
        config=config,
        architecture=architecture,
        architecture_options=options,
        dataset=data,
        preparation=Preparation(3, crop=32 if pad else None, pad=pad),
        output=path,
        validation_limit=10,
        trainer_flags={
            "accelerator": "cpu",
            "precision": "bf16-mixed",
            "enable_progress_bar": False,
        },
    )
    # Images, noise and average cost about a millisecond an image in addition to the network.
    a_step = 1 / speed(job) + 0.0006 * config.batch_size
    steps = max(20, round(seconds / a_step))
    job = replace(job, config=replace(config, steps=steps, epoch_steps=steps))
    began = time.process_time()
    train_denoiser(job)
    return {
        "path": str(path),
        "steps": steps,
        "images": steps * config.batch_size,
        "seconds": time.process_time() - began,
    }


@torch.no_grad()
def judged(
    path: str, classifier: Any, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """Return error, and accuracy after the denoiser, at every sigma, and images a second."""
    denoiser = load_denoiser_file(path).to(memory_format=torch.channels_last)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in denoiser.parameters())}
    for sigma in SIGMAS:
        torch.manual_seed(1)
        errors, correct = [], []
        for start in range(0, len(images), 50):
            clean = images[start : start + 50]
            noisy = clean + sigma * torch.randn(clean.shape)
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            denoised = denoiser(noisy, sigma)
            errors.append((denoised - clean).square().mean().item())
            right = classifier(denoised).argmax(dim=1) == labels[start : start + 50]
            correct.append(right.float().mean().item())
        found[f"mse {sigma}"] = float(np.mean(errors))
        found[f"accuracy {sigma}"] = float(np.mean(correct))
    began, count = time.process_time(), 0
    while time.process_time() - began < 1.0:
        denoiser(noisy, 0.25)
        count += len(noisy)
    found["images a second"] = count / (time.process_time() - began)
    return found


def study(arguments: argparse.Namespace) -> None:
    """Train and measure all variants that are not in the output folder."""
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    shared = Path(arguments.shared)
    train = load_dataset(f"parquet:{shared / 'cifar10/train.parquet'}")
    test = load_dataset(f"parquet:{shared / 'cifar10/test.parquet'}")
    examples = [test[index] for index in range(FIRST, FIRST + COUNT)]
    images = torch.stack([torch.from_numpy(example.image) for example in examples])
    labels = torch.tensor([example.label for example in examples])
    weights = shared / "cifar10_classifiers/resnet56.safetensors"
    classifier = load_classifier(f"cifar-resnet56:{weights}")
    for name in arguments.only or VARIANTS:
        result = folder / f"{name.replace(' ', '-')}.json"
        if result.exists():
            continue
        took = trained(name, arguments.seconds, train, folder)
        found = {"name": name, **took, **judged(took["path"], classifier, images, labels)}
        result.write_text(json.dumps(found, indent=1))
        print(found, flush=True)


def table(folder: Path) -> None:
    """Print the results in the order of the variants, as Markdown."""
    print(
        "| denoiser | parameters | images trained | MSE σ 0.25 | MSE σ 0.5 | accuracy σ 0.25 | "
        "accuracy σ 0.5 | images/s forward |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in VARIANTS:
        path = folder / f"{name.replace(' ', '-')}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        cells = [
            name,
            f"{found['parameters'] / 1e6:.2f} M",
            f"{found['images']:,}",
            *(f"{found[f'mse {sigma}']:.5f}" for sigma in SIGMAS),
            *(f"{100 * found[f'accuracy {sigma}']:.1f} %" for sigma in SIGMAS),
            f"{found['images a second']:,.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Run the study, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", default="../shared/data", help="folder of data and classifiers")
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--output", default="study")
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.table)
    else:
        torch.set_num_threads(1)
        study(arguments)


if __name__ == "__main__":
    main()
