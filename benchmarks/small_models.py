"""Train a timm and a transformers model on CIFAR-10 for minutes, and save both.

python benchmarks/small_models.py --train train.parquet --output models --minutes 4
denoised-smoothing certify parquet:test.parquet --classifier timm:models/timm ...
denoised-smoothing certify parquet:test.parquet --classifier hf:models/hf ...
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from denoised_smoothing import load_dataset

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def timm_model(names: tuple[str, ...]) -> tuple[nn.Module, Any]:
    """Return a ResNet of timm for small images, and a function to save it."""
    import timm
    from timm.models import save_for_hf

    model = timm.create_model("resnet10t", num_classes=len(names), stem_width=32, stem_type="")
    data = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD, "crop_pct": 1.0}

    def save(folder: Path) -> None:
        save_for_hf(
            model,
            str(folder),
            model_config={"label_names": list(names)},
            safe_serialization=True,
            data_config=data,
        )

    return model, save


def transformers_model(names: tuple[str, ...]) -> tuple[nn.Module, Any]:
    """Return a small ResNet of transformers, and a function to save it."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[64, 128, 256],
        depths=[2, 2, 2],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    model = ResNetForImageClassification(config)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        size = {"height": 32, "width": 32}
        ViTImageProcessor(size=size, image_mean=MEAN, image_std=STD).save_pretrained(folder)

    return model, save


def train(model: nn.Module, images: Tensor, labels: Tensor, minutes: float) -> None:
    """Train with AdamW, a cosine over the time, shifts and mirror images."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
    mean, std = torch.tensor([MEAN, STD]).reshape(2, 1, 3, 1, 1)
    model.train()
    began, step = time.monotonic(), 0
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        chosen = torch.randint(len(images), (128,), generator=generator)
        top, left = torch.randint(9, (2,), generator=generator).tolist()
        batch = padded[chosen, :, top : top + 32, left : left + 32]
        batch = batch.flip(3) if step % 2 else batch
        answer = model((batch - mean) / std)
        logits = answer if isinstance(answer, Tensor) else answer.logits
        loss = nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, step / 50) * (1 + np.cos(np.pi * share)) / 2
        optimiser.step()
        step += 1
    print(f"{step} steps, last loss {loss.item():.3f}")
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--only", choices=["timm", "hf"])
    arguments = parser.parse_args()
    dataset = load_dataset(f"parquet:{arguments.train}")
    count = min(arguments.rows, len(dataset))
    examples = [dataset[index] for index in range(count)]
    images = torch.from_numpy(np.stack([example.image for example in examples]))
    labels = torch.tensor([example.label or 0 for example in examples])
    assert dataset.label_names is not None
    for name, make in (("timm", timm_model), ("hf", transformers_model)):
        if arguments.only not in (None, name):
            continue
        torch.manual_seed(0)
        model, save = make(dataset.label_names)
        train(model, images, labels, arguments.minutes)
        save(arguments.output / name)


if __name__ == "__main__":
    main()
