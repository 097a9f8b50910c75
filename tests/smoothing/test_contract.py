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
from denoised_smoothing.errors import ContractError
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from tests.engines.breaches import ONE_THREAD, SHARED, judged

STREAMS = int(os.environ.get("STREAMS", "400"))
"""Images of each simulation; the figures in docs/statistics.md are of 10,000."""
ALPHA = 0.05
EDGE = np.full((1, 2, 2), 128 / 255, np.float32)
DARK = np.full((1, 2, 2), 20 / 255, np.float32)


def false_certificates(smoothed: SmoothedClassifier) -> int:
    """Of STREAMS images on the plane, for which no label has a majority; others lie between."""
    images = np.stack([EDGE, EDGE, EDGE, DARK] * (-(-STREAMS // 3)))
    on_plane = np.array([True, True, True, False] * (-(-STREAMS // 3)))
    certificates = smoothed.certify_batch(images, n0=10, n=40, alpha=ALPHA, seed=5)
    labels = [certificate.label for certificate in certificates]
    assert {label for label, edge in zip(labels, on_plane, strict=True) if not edge} == {0}
    found = [label is not None for label, edge in zip(labels, on_plane, strict=True) if edge]
    return sum(found[:STREAMS])


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
    """Refused with probability 1e-4 if alpha holds."""
    options = {"device": "cpu", **options}
    smoothed = SmoothedClassifier(made(), 0.25, **options)  # type: ignore[arg-type]
    assert stats.binom.sf(false_certificates(smoothed) - 1, STREAMS, ALPHA) > 1e-4


class Late(nn.Module):
    """A function of the copy for some calls, and of the batch from then on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = [calls]

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(0)
        return judged(images - (images.mean(0) - 0.5) * (len(self.calls) > self.calls[0]))


def test_a_difference_during_the_count_names_image_and_copies() -> None:
    smoothed = SmoothedClassifier(Late(6), 0.25, device="cpu")
    with pytest.raises(ContractError, match=r"copies 0, 2, 4, .* of the stage selection of image"):
        smoothed.certify(EDGE, n0=50, n=1000)


def test_the_certificate_names_the_contract() -> None:
    checked = SmoothedClassifier(judged, 0.25, device="cpu").certify(EDGE, n0=10, n=50)
    assert checked.parameters.contract is Contract.CHECKED
    stochastic = SmoothedClassifier(Drawn(), 0.25, device="cpu", stochastic=True)
    certificate = stochastic.certify(DARK, n0=10, n=50)
    assert certificate.parameters.contract is Contract.STOCHASTIC
    assert "stochastic classifier, counts do not repeat" in str(certificate)
    assert certificate.to_dict()["contract"] == "stochastic"


def test_an_exported_bundle_stays_stochastic(tmp_path: Any) -> None:
    smoothed = SmoothedClassifier(Drawn(), 0.25, device="cpu", stochastic=True)
    smoothed.save(tmp_path / "bundle", shape=(1, 2, 2), classifier="python:tests:Drawn")
    loaded = SmoothedClassifier.load(tmp_path / "bundle", classifier=Drawn(), device="cpu")
    assert loaded.prepared.contract is Contract.STOCHASTIC
