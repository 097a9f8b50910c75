"""Objectives of fine-tuning at equal compute, compared by the votes of noisy copies.

    python benchmarks/objective_study.py --shared FOLDER --start cifar10.safetensors --output FOLDER

Every objective starts from the same denoiser and passes the same number of noisy copies through
the classifier, forward and backward, with those of an attack. Then the share of images with enough
right votes for a radius is measured, which a certificate would reach with unlimited copies. The
certified tables do not use these images. Objectives that are in the output folder are skipped.
`--table FOLDER` prints the results as Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from objectives import AdversarialTraining, VotesTraining
from torch.distributions import Normal
from votes import right_votes

from denoised_smoothing.datasets import ImageDataset, load_dataset
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.models.denoisers.files import load_denoiser_file
from denoised_smoothing.training.config import Objective, Target, TrainingConfig
from denoised_smoothing.training.data import Preparation
from denoised_smoothing.training.fit import TrainingJob, train_denoiser
from denoised_smoothing.training.lightning import DenoiserTraining

FIRST = 500
"""The first row that is used; the certified tables use rows 0 to 499."""
COPIES = 32
QUESTIONS = ((0.25, 0.0), (0.25, 0.25), (0.25, 0.5), (0.5, 0.0), (0.5, 0.5), (0.5, 0.75))
"""(sigma, radius) pairs."""
TRUTH = {"target": Target.TRUTH}
PAIR = {**TRUTH, "copies": 2, "batch_size": 32}

OBJECTIVES: dict[str, dict[str, Any] | None] = {
    "mse alone": None,
    "stability, label": {"target": Target.LABEL},
    "stability, soft": {"target": Target.SOFT},
    "truth": TRUTH,
    "truth, temperature 4": {**TRUTH, "temperature": 4.0},
    "votes": TRUTH,
    "votes, temperature 4": {**TRUTH, "temperature": 4.0},
    "temperature 4, consistency 1": {**PAIR, "temperature": 4.0, "consistency": 1.0},
    "temperature 4, consistency 5": {**PAIR, "temperature": 4.0, "consistency": 5.0},
    "temperature 4, adversary 0.25": {**TRUTH, "temperature": 4.0},
    "temperature 4, anchor 10": {**TRUTH, "temperature": 4.0, "anchor": 10.0},
    "temperature 4, rate 3e-4": {**TRUTH, "temperature": 4.0, "learning_rate": 3e-4},
    "temperature 16": {**TRUTH, "temperature": 16.0},
    "soft, temperature 4": {"target": Target.SOFT, "temperature": 4.0},
    "votes, rate 3e-4": {**TRUTH, "learning_rate": 3e-4},
}


def training(name: str) -> type[DenoiserTraining]:
    """Return the Lightning module of an objective."""
    if name.startswith("votes"):
        return VotesTraining
    return AdversarialTraining if "adversary" in name else DenoiserTraining


def passes(name: str, config: TrainingConfig) -> int:
    """Return the number of copies that one step passes forward and backward."""
    kind = training(name)
    attack = kind.steps if issubclass(kind, AdversarialTraining) else 0
    return config.batch_size * config.copies * (1 + attack)


def trained(
    name: str, budget: int, start: Path, data: ImageDataset, classifier: Any, folder: Path
) -> dict[str, Any]:
    """Fine-tune with one objective, write the weights, and return images and seconds."""
    changes = OBJECTIVES[name]
    if changes is None:
        return {"path": str(start), "images": 0, "seconds": 0.0}
    settings: dict[str, Any] = {
        "objective": Objective.STABILITY,
        "sigma": 0.1,
        "sigma_max": 1.0,
        "learning_rate": 1e-4,
        "ema": 0.99,
        **changes,
    }
    steps = budget // passes(name, TrainingConfig(**settings))
    config = TrainingConfig(**settings, steps=steps, epoch_steps=steps)
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    job = TrainingJob(
        config=config,
        architecture="unet",
        dataset=data,
        preparation=Preparation(3),
        output=path,
        validation_limit=10,
        surrogates=[classifier],
        start=start,
        trainer_flags={
            "accelerator": "cpu",
            "precision": "bf16-mixed",
            "enable_progress_bar": False,
        },
    )
    began = time.process_time()
    train_denoiser(job, training(name))
    seconds = time.process_time() - began
    return {"path": str(path), "images": steps * config.batch_size, "seconds": seconds}


def votes(path: str, classifier: Any, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Return the share of right votes of each image, for each sigma."""
    denoiser = load_denoiser_file(path).to(memory_format=torch.channels_last)
    return {
        str(sigma): right_votes(denoiser, classifier, images, labels, sigma, COPIES).tolist()
        for sigma in sorted({sigma for sigma, _ in QUESTIONS})
    }


def study(arguments: argparse.Namespace) -> None:
    """Train and measure all objectives that are not in the output folder."""
    folder, shared = Path(arguments.output), Path(arguments.shared)
    folder.mkdir(parents=True, exist_ok=True)
    train = load_dataset(f"parquet:{shared / 'cifar10/train.parquet'}")
    test = load_dataset(f"parquet:{shared / 'cifar10/test.parquet'}")
    rows = range(FIRST, FIRST + arguments.images)
    images = torch.stack([torch.from_numpy(test[row].image) for row in rows])
    labels = torch.tensor([test.labels[row] for row in rows])
    weights = shared / "cifar10_classifiers/resnet56.safetensors"
    classifier: Any = load_classifier(f"cifar-resnet56:{weights}")
    classifier.to(memory_format=torch.channels_last)
    for name in arguments.only or OBJECTIVES:
        result = folder / f"{name.replace(' ', '-')}.json"
        if result.exists():
            continue
        took = trained(name, arguments.copies, Path(arguments.start), train, classifier, folder)
        shares = votes(took["path"], classifier, images, labels)
        result.write_text(json.dumps({"name": name, **took, "shares": shares}))
        print(f"| {' | '.join(cells(json.loads(result.read_text())))} |", flush=True)


def cells(found: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    row = [found["name"], f"{found['seconds']:.0f}"]
    for shares in found["shares"].values():
        row.append(f"{100 * sum(shares) / len(shares):.1f}")
    for sigma, radius in QUESTIONS:
        needed = float(Normal(0.0, 1.0).cdf(torch.tensor(radius / sigma)))
        shares = found["shares"][str(sigma)]
        row.append(f"{100 * sum(share > needed for share in shares) / len(shares):.1f}")
    return row


def table(folder: Path) -> None:
    """Print the results in the order of the objectives, as Markdown."""
    sigmas = sorted({sigma for sigma, _ in QUESTIONS})
    headings = ["objective", "CPU s", *(f"votes σ {sigma:g}" for sigma in sigmas)]
    headings += [f"r {radius:g} σ {sigma:g}" for sigma, radius in QUESTIONS]
    print(f"| {' | '.join(headings)} |")
    print(f"| --- |{' ---: |' * (len(headings) - 1)}")
    for name in OBJECTIVES:
        path = folder / f"{name.replace(' ', '-')}.json"
        if path.exists():
            print(f"| {' | '.join(cells(json.loads(path.read_text())))} |")


def main() -> None:
    """Run the study, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", default="../shared/data", help="folder of data and classifiers")
    parser.add_argument("--start", help="the denoiser to start from")
    parser.add_argument("--copies", type=int, default=20_000, help="noisy copies of each objective")
    parser.add_argument("--images", type=int, default=200, help="number of test images")
    parser.add_argument("--output", default="objectives")
    parser.add_argument("--only", nargs="*", help="names of objectives")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.table)
    else:
        torch.set_num_threads(1)
        study(arguments)


if __name__ == "__main__":
    main()
