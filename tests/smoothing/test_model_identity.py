"""What certificates of a smoothed classifier say that they are about."""

from __future__ import annotations

import hashlib
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.errors import ContractError
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.smoothing import model_identity
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

IMAGE = np.full((3, 8, 8), 128 / 255, np.float32)


class Network(nn.Module):
    """Keeps what it computes, as users' modules do."""

    label_names = ("cat", "dog")
    resolution = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 2)
        nn.init.zeros_(self.layer.weight)
        self.layer.bias = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, images: Tensor) -> Tensor:
        self.kept = self.layer(images.flatten(1))
        return self.kept


def identity(smoothed: SmoothedClassifier, image: np.ndarray = IMAGE) -> Identity:
    found = smoothed.certify(image, n0=10, n=50, seed=1).identity
    assert found is not None
    return found


def test_a_certificate_names_model_and_image() -> None:
    network = Network()
    before = fingerprint(network)
    smoothed = SmoothedClassifier(network, 0.25, device="cpu")
    found = identity(smoothed)
    engine = smoothed.prepared.record(IMAGE)
    pixels = hashlib.sha256(b"(3, 8, 8)" + bytes([128]) * 192).hexdigest()
    assert found == Identity(
        classifier="Network",
        classifier_fingerprint=before,
        denoiser="none",
        denoiser_fingerprint=fingerprint(None),
        image_sha256=pixels,
        label_name="dog",
        resolution=8,
        image_shape=(3, 8, 8),
        version=metadata.version("denoised-smoothing"),
        noise_stream="cpu",
        machine=f"engine_version {engine['engine_version']}; processor {engine['processor']}; "
        f"forward_shape {engine['forward_shape']}",
    )


def test_pixels_off_the_grid_count_as_float32() -> None:
    image = np.full((1, 2, 2), 0.3, np.float32)
    found = identity(SmoothedClassifier(lambda x: x.flatten(1)[:, :2], 0.25, device="cpu"), image)
    expected = hashlib.sha256(b"(1, 2, 2)" + np.full(4, 0.3, "<f4").tobytes()).hexdigest()
    assert (found.image_sha256, found.resolution, found.label_name) == (expected, None, None)


def test_fingerprints_of_modules_follow_their_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    monkeypatch.setattr(
        model_identity, "fingerprint", lambda part: computed.append(part) or fingerprint(part)
    )
    network = Network()
    smoothed = SmoothedClassifier(network, 0.25, device="cpu")
    first = identity(smoothed)
    assert identity(smoothed) == first
    assert smoothed.fingerprints()[0] == first.classifier_fingerprint
    assert len(computed) == 2  # classifier and denoiser
    with torch.no_grad():
        network.layer.bias[1] = 2.0
    changed = identity(smoothed)
    assert changed.classifier_fingerprint != first.classifier_fingerprint
    assert changed.denoiser_fingerprint == first.denoiser_fingerprint


@pytest.mark.parametrize("before", ["predict", "prepare", "fail"])
def test_a_change_after_another_use_changes_the_fingerprint(
    before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    smoothed = SmoothedClassifier(network, 0.25, device="cpu")
    if before == "predict":
        smoothed.predict(IMAGE, n=10, seed=1)
    elif before == "prepare":
        smoothed.models.prepare()
    else:
        with monkeypatch.context() as patch:
            patch.setattr(smoothed, "count_labels", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                smoothed.certify(IMAGE, n0=10, n=50, seed=1)
    with torch.no_grad():
        network[1].weight += 0.5
    assert identity(smoothed).classifier_fingerprint == fingerprint(network)


def test_a_function_whose_weights_change_is_refused() -> None:
    """Its fingerprint would be that of before."""
    weights = torch.tensor([0.0, 1.0])

    def classifier(weights: Tensor, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2] * 0 + weights

    smoothed = SmoothedClassifier(partial(classifier, weights), 0.25, device="cpu")
    identity(smoothed)
    weights[0] = 2.0
    with pytest.raises(ContractError, match="not a function of that copy"):
        identity(smoothed)


def test_a_batch_names_each_image() -> None:
    smoothed = SmoothedClassifier(Network(), 0.25, device="cpu")
    images = np.stack([IMAGE, IMAGE / 2])
    one, two = smoothed.certify_batch(images, n0=10, n=50, seed=1)
    assert one.identity == identity(smoothed)
    assert two.identity == identity(smoothed, IMAGE / 2)


def test_a_bundle_gives_the_same_identity(tmp_path: Path) -> None:
    original = SmoothedClassifier(Network(), 0.25, device="cpu")
    original.save(tmp_path / "bundle", shape=(3, 8, 8), classifier="python:mine:build")
    loaded = SmoothedClassifier.load(tmp_path / "bundle", classifier=Network(), device="cpu")
    found = identity(loaded)
    assert found.classifier == "python:mine:build"
    assert found.classifier_fingerprint == identity(original).classifier_fingerprint
    certificate = loaded.certify(IMAGE, n0=10, n=50, seed=1)
    assert Certificate.from_json(certificate.to_json()) == certificate
