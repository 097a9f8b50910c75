"""Classifiers whose robustness is known, and certificates for their images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from denoised_smoothing.reporting.results import ImageResult
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

SIGMA = 0.25
SHAPE = (1, 8, 8)


class Linear(nn.Module):
    """Logits (score, -score) with score w·x + b: smoothed, its radius is |w·x + b| / ||w||."""

    channels = 1

    def __init__(self, gain: float = 4.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weights = torch.randn(SHAPE, generator=generator)
        self.weights = nn.Parameter(weights / weights.norm())
        self.gain = gain

    def score(self, images: Tensor) -> Tensor:
        return ((images - 0.5) * self.weights).sum(dim=(1, 2, 3))

    def forward(self, images: Tensor) -> Tensor:
        score = self.gain * self.score(images)
        return torch.stack([score, -score], dim=1)


class Labels(Linear):
    """The same as a black box that answers labels alone."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).argmax(dim=1)


class Cut(Linear):
    """Logits through which no gradient comes."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach())


class Numpy(Linear):
    """Leaves torch on the way."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.tensor(images.numpy()))


def picture(distance: float, seed: int = 0) -> np.ndarray:
    """An image on the grid, about ``distance`` on the side of label 0 of the boundary."""
    generator = np.random.default_rng(seed)
    values = torch.tensor(0.5 + 0.1 * generator.standard_normal((1, *SHAPE)), dtype=torch.float32)
    classifier = Linear()
    with torch.no_grad():
        values += (distance - classifier.score(values)) * classifier.weights
    levels = (values.clamp(0, 1) * 255).round().numpy()[0].astype(np.float32)
    return np.asarray(levels / np.float32(255))


def exact_radius(image: np.ndarray) -> float:
    """The L2 distance of an image from the boundary of :class:`Linear`."""
    with torch.no_grad():
        return abs(float(Linear().double().score(torch.tensor(image[None], dtype=torch.float64))))


def smoothed(classifier: nn.Module | None = None) -> SmoothedClassifier:
    return SmoothedClassifier(classifier or Linear(), SIGMA, device="cpu")


def certified(image: np.ndarray, index: int = 0, n: int = 2_000) -> ImageResult:
    certificate = smoothed().certify(image, n0=50, n=n, seed=5)
    assert certificate.label == 0
    return ImageResult(index, f"image-{index}", 0, certificate, 0.1)
