"""From raw data to a denoiser that helps, by short versions of the shipped denoisers' commands.

All seeds are fixed. The bounds leave room for what processors and versions change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from denoised_smoothing.cli import main
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.engines.engine import processor
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.models.denoisers.files import load_denoiser_file

pytest.importorskip("lightning")

DEFAULT = Path(__file__).parents[2] / "shared"
DIGITS_MSE, DIGITS_ACCURACY = 0.03, 0.75
"""0.024 and 0.87 were reached; the noise itself is 0.09, and 0.64 are right without a denoiser."""
CIFAR10_MSE, CIFAR10_ACCURACY = 0.012, 0.22
"""0.0065 and 0.30 were reached; the noise itself is 0.0625, and 0.12 are right without."""
SHARED = Path(os.environ.get("DENOISED_SMOOTHING_SHARED", DEFAULT)) / "data"


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Run the command ``train`` and return the quality on its card."""

    def run(data: str, output: str, *arguments: str) -> dict[str, float]:
        command = ["train", data, *arguments, "--output", str(tmp_path / output), "--json"]
        with pytest.raises(SystemExit) as end:
            main([*command, "--accelerator", "cpu", "--half"])
        assert not end.value.code, capsys.readouterr().err
        quality: dict[str, float] = json.loads(json.loads(capsys.readouterr().out)["quality"])
        return quality

    return run


def noisy_accuracy(
    classifier: Any, data: str, sigma: float, count: int, path: Path | None
) -> float:
    """Return the share of right labels on noisy images, after a denoiser if there is one."""
    dataset = load_dataset(data)
    images = torch.stack([torch.from_numpy(dataset[index].image) for index in range(count)])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        noisy = images + sigma * noise
        answers = classifier(noisy if path is None else load_denoiser_file(path)(noisy, sigma))
    right = answers.argmax(dim=1) == torch.tensor(dataset.labels[:count])
    return float(right.float().mean())


def test_digits(train: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    common = ("--sigma", "0.3", "--validation", "digits:test", "--no-flip", "--judge", "digits")
    small = ("--option", "width=16", "--option", "outer=1", "--option", "inner=1")
    mse = train(
        "digits:train",
        "mse.safetensors",
        *("--objective", "mse", "--steps", "300", "--learning-rate", "4e-3", *small, *common),
    )
    assert mse["validation_mse"] < DIGITS_MSE  # 0.09 is the noise itself
    fine = train(
        "digits:train",
        "stability.safetensors",
        *("--objective", "stability", "--classifier", "digits", "--steps", "100"),
        *("--start", str(tmp_path / "mse.safetensors"), "--learning-rate", "3e-4", *common),
    )
    classifier = load_classifier("digits")
    bare = noisy_accuracy(classifier, "digits:test", 0.3, 400, None)
    black = noisy_accuracy(classifier, "digits:test", 0.3, 400, tmp_path / "mse.safetensors")
    assert black > max(bare + 0.05, DIGITS_ACCURACY)
    assert fine["accuracy_digits"] > mse["accuracy_digits"] - 0.02


PRECISION = "bf16-mixed" if "bf16" in processor() else "32-true"
"""A processor without bfloat16 imitates it, ten times as slowly."""


@pytest.mark.timeout(900)
@pytest.mark.skipif(not SHARED.exists(), reason="needs the CIFAR-10 images in shared/data")
def test_cifar10(train: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    images = f"parquet:{SHARED / 'cifar10/train.parquet'}"
    test = f"parquet:{SHARED / 'cifar10/test.parquet'}"
    spec = f"cifar-resnet56:{SHARED / 'cifar10_classifiers/resnet56.safetensors'}"
    common = (
        *("--sigma", "0.25", "--validation", test, "--validation-limit", "300"),
        *("--precision", PRECISION),
    )
    mse = train(
        images,
        "mse.safetensors",
        *("--objective", "mse", "--steps", "100", "--epoch-steps", "100", *common),
    )
    assert mse["validation_mse"] < CIFAR10_MSE  # 0.0625 is the noise itself
    fine = train(
        images,
        "stability.safetensors",
        *("--objective", "stability", "--temperature", "4", "--classifier", spec, "--steps", "20"),
        *("--start", str(tmp_path / "mse.safetensors"), "--learning-rate", "1e-4", *common),
    )
    classifier = load_classifier(spec)
    bare = noisy_accuracy(classifier, test, 0.25, 300, None)
    black = noisy_accuracy(classifier, test, 0.25, 300, tmp_path / "mse.safetensors")
    assert black > bare + 0.05
    assert fine["accuracy_resnet56"] > CIFAR10_ACCURACY
