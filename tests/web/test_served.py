"""The served models, and images converted to the format of a classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.errors import SettingError
from denoised_smoothing.images import is_on_grid
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.models.labels import LabelMatch
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.web import served
from denoised_smoothing.web.served import ServedModels, ServedNames
from denoised_smoothing.web.uploads import fit

TORCH = {"engine": EngineName.TORCH, "sigmas": (0.5,)}


def broken(images: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no such layer")


broken.resolution = 8  # type: ignore[attr-defined]
broken.channels = 1  # type: ignore[attr-defined]


def sizeless(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(2, 3))


def make_broken() -> object:
    return broken


def make_sizeless() -> object:
    return sizeless


def test_denoisers_go_with_classifiers_of_their_images() -> None:
    models = ServedModels(ServedNames(denoisers={"photo": "photo", "grey": "digits-mse"}, **TORCH))
    assert list(models.models["digits"].denoisers) == ["none", "grey"]


def test_bundles_are_served_with_their_models(tmp_path: Path) -> None:
    smoothed = SmoothedClassifier(load_classifier("digits"), 0.25, load_denoiser("digits-mse"))
    smoothed.save(tmp_path / "b", classifier="digits", denoiser="digits-mse")
    models = ServedModels(ServedNames(classifiers={}, bundles={"mine": str(tmp_path / "b")}))
    model = models.models["mine"]
    assert (list(model.denoisers), model.sigmas, model.shape) == (
        ["digits-mse"],
        (0.25,),
        (1, 8, 8),
    )
    assert len(model.examples) == 24
    models.prepare(lambda: False)
    assert models.model("mine").smoothed("digits-mse", 0.25).sigma == 0.25


def test_models_that_fail_are_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    models = ServedModels(
        ServedNames(
            classifiers={"digits": "digits", "b": "python:test_served:make_broken"}, **TORCH
        )
    )
    models.prepare(lambda: False)
    models.model("digits").smoothed("none", 0.5)
    with pytest.raises(SettingError, match="failed when the service started"):
        models.model("b").smoothed("none", 0.5)


def test_a_classifier_without_a_size_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    spec = {"s": "python:test_served:make_sizeless"}
    with pytest.raises(SettingError, match="--resolution"):
        ServedModels(ServedNames(classifiers=spec, denoisers={}, **TORCH))
    models = ServedModels(ServedNames(classifiers=spec, denoisers={}, resolution=16, **TORCH))
    assert models.models["s"].shape == (3, 16, 16)


def test_labels_of_examples_that_are_compared_by_number_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    match = LabelMatch({n: n for n in range(10)}, None, "labels are compared by number")
    monkeypatch.setattr(served, "matched", lambda dataset, classifier: match)
    ServedModels(ServedNames(denoisers={}, **TORCH))
    assert caplog.messages == ["The examples shown to digits: labels are compared by number"]


def test_remote_classifiers_are_not_served() -> None:
    with pytest.raises(SettingError, match="is remote"):
        ServedModels(ServedNames(classifiers={"s": "simulated"}, denoisers={}, **TORCH))


@pytest.mark.parametrize(
    ("shape", "wanted", "changes"),
    [
        ((1, 8, 8), (1, 8, 8), 0),
        ((3, 8, 8), (1, 8, 8), 1),
        ((1, 8, 8), (3, 8, 8), 1),
        ((3, 40, 30), (1, 8, 8), 2),
    ],
)
def test_images_are_converted_and_the_changes_are_named(
    shape: tuple[int, int, int], wanted: tuple[int, int, int], changes: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32) / np.float32(255)
    fitted, named = fit(image, wanted)
    assert fitted.shape == wanted
    assert is_on_grid(fitted)
    assert len(named) == changes
