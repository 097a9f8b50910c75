"""Certificates of classifiers that keep state or depend on the batch: none is false."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from denoised_smoothing.certificates.parameters import Contract
from denoised_smoothing.errors import ContractError, SettingError
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.cluster import RayCluster
from tests.engines.breaches import ONE_THREAD, SHARED, judged

STREAMS = int(os.environ.get("STREAMS", "400"))
"""Images of each simulation; the figures in docs/statistics.md are of 10,000."""
ALPHA = 0.05
EDGE = np.full((1, 2, 2), 128 / 255, np.float32)
DARK = np.full((1, 2, 2), 20 / 255, np.float32)


def on_the_plane(number: int) -> np.ndarray:
    """Return an image of its own, and so with noise of its own, whose mean is on the plane."""
    first, second = divmod(number, 100)
    levels = 128 + np.array([first, -first, second, -second])
    return (levels / 255).astype(np.float32).reshape(1, 2, 2)


def false_certificates(smoothed: SmoothedClassifier) -> int:
    """Of STREAMS images on the plane, for which no label has a majority; others lie between."""
    images, on_plane = [], []
    for number in range(STREAMS):
        images.append(on_the_plane(number))
        on_plane.append(True)
        if number % 3 == 0:
            images.append(DARK)
            on_plane.append(False)
    certificates = smoothed.certify_batch(np.stack(images), n0=10, n=40, alpha=ALPHA, seed=5)
    labels = [certificate.label for certificate in certificates]
    between = [label for label, edge in zip(labels, on_plane, strict=True) if not edge]
    assert between.count(0) > 0.99 * len(between)
    return sum(edge and label is not None for label, edge in zip(labels, on_plane, strict=True))


class Drawn(nn.Module):
    """The plane, and one label in five drawn at random."""

    def forward(self, images: Tensor) -> Tensor:
        chance = torch.rand(len(images), 1) < 0.2
        return torch.where(chance, torch.randn(len(images), 3), judged(images))


RUN: dict[str, tuple[Callable[[], object], dict[str, Any]]] = {
    **{name: (made, {}) for name, made in {**SHARED, **ONE_THREAD}.items()},
    "two devices, module": (SHARED["module"], {"device": "cpu,cpu"}),
    "two devices, state in an attribute": (
        ONE_THREAD["state in an attribute"],
        {"device": "cpu,cpu"},
    ),
    "two devices, state in a global": (ONE_THREAD["state in a global"], {"device": "cpu,cpu"}),
    "stochastic": (Drawn, {"stochastic": True}),
}


@pytest.mark.parametrize(("made", "options"), RUN.values(), ids=list(RUN))
def test_false_certificates_are_as_rare_as_alpha(
    made: Callable[[], object], options: dict[str, Any]
) -> None:
    """Refused with probability 1e-4 if alpha holds. Stochastic ones draw each time anew."""
    options = {"device": "cpu", **options}
    smoothed = SmoothedClassifier(made(), 0.25, **options)  # type: ignore[arg-type]
    found = false_certificates(smoothed)
    assert found > 0 or "stochastic" in options, (
        "images on the plane are certified by chance, if each has its own noise"
    )
    assert stats.binom.sf(found - 1, STREAMS, ALPHA) > 1e-4


class Late(nn.Module):
    """A function of the copy for some calls, and of the batch from then on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = [calls]

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(0)
        return judged(images - (images.mean(0) - 0.5) * (len(self.calls) > self.calls[0]))


def test_a_difference_during_the_count_names_image_and_copies() -> None:
    smoothed = SmoothedClassifier(Late(5), 0.25, device="cpu")
    with pytest.raises(ContractError, match=r"copies 0, 2, 4, .* of the stage selection of image"):
        smoothed.certify(EDGE, n0=50, n=1000)


class Drifting(nn.Module):
    """Logits that move a little with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def forward(self, images: Tensor) -> Tensor:
        self.calls[0] += 1
        return judged(images) + 1e-2 * self.calls[0] * torch.tensor([-1.0, 1.0, 0.0])


class Following(nn.Module):
    """A mean that follows the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.5))

    def forward(self, images: Tensor) -> Tensor:
        answer = judged(images - self.mean + 0.5)
        self.mean.lerp_(images.mean(), 1e-5)
        return answer


@pytest.mark.parametrize("made", [Drifting, Following])
def test_answers_that_move_with_the_calls_are_found_during_the_count(
    made: Callable[[], nn.Module],
) -> None:
    smoothed = SmoothedClassifier(made(), 0.25, device="cpu")
    with pytest.raises(ContractError, match="other answers than before the count"):
        smoothed.certify(DARK, n0=50, n=100_000)


def test_the_certificate_names_the_contract() -> None:
    checked = SmoothedClassifier(judged, 0.25, device="cpu").certify(EDGE, n0=10, n=50)
    assert checked.parameters.contract is Contract.CHECKED
    stochastic = SmoothedClassifier(Drawn(), 0.25, device="cpu", stochastic=True)
    certificate = stochastic.certify(DARK, n0=10, n=50)
    assert certificate.parameters.contract is Contract.STOCHASTIC
    assert "stochastic classifier, counts do not repeat" in str(certificate)
    assert certificate.to_dict()["contract"] == "stochastic"


@pytest.mark.parametrize("options", [{"device": "cpu,cpu"}, {"cluster": RayCluster()}])
def test_a_stochastic_classifier_has_no_copies(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="runs in this process on one device"):
        SmoothedClassifier(Drawn(), 0.25, stochastic=True, **options)


def test_an_exported_bundle_stays_stochastic(tmp_path: Any) -> None:
    smoothed = SmoothedClassifier(Drawn(), 0.25, device="cpu", stochastic=True)
    smoothed.save(tmp_path / "bundle", shape=(1, 2, 2), classifier="python:tests:Drawn")
    loaded = SmoothedClassifier.load(tmp_path / "bundle", classifier=Drawn(), device="cpu")
    assert loaded.prepared.contract is Contract.STOCHASTIC
