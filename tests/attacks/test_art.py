from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np
import pytest
import torch

from denoised_smoothing import SmoothedClassifier, load_classifier, load_dataset, load_denoiser
from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.images import to_grid

pytest.importorskip("art")
SIGMA = 0.25


@pytest.fixture(scope="module")
def smoothed() -> SmoothedClassifier:
    return SmoothedClassifier(
        load_classifier("digits"), SIGMA, load_denoiser("digits-mse"), device="cpu"
    )


@pytest.fixture(scope="module")
def estimator(smoothed: SmoothedClassifier) -> Any:
    from denoised_smoothing.attacks.art import SmoothedEstimator

    return SmoothedEstimator(smoothed, (1, 8, 8), 10, sample_size=50, seed=0)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    dataset = load_dataset("digits:test")
    examples = [dataset[index] for index in range(6)]
    return np.stack([e.image for e in examples]), np.array([e.label for e in examples])


def test_signatures_are_those_of_art(estimator: Any) -> None:
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    for name in ("predict", "certify"):
        theirs = inspect.signature(getattr(PyTorchRandomizedSmoothing, name))
        ours = inspect.signature(getattr(estimator, name))
        assert list(ours.parameters) == list(theirs.parameters)[1:]
        for parameter in ours.parameters.values():
            assert parameter.default == theirs.parameters[parameter.name].default


def test_predict_and_certify_agree_with_the_smoothed_classifier(
    estimator: Any, smoothed: SmoothedClassifier, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = digits
    rows = estimator.predict(images)
    assert rows.shape == (6, 10)
    assert (rows.argmax(axis=1) == labels).mean() > 0.7
    found, radii = estimator.certify(images, n=500)
    own = smoothed.certify_batch(images, n0=50, n=500, seed=0)
    assert found.tolist() == [-1 if c.label is None else c.label for c in own]
    assert radii.tolist() == [0.0 if c.label is None else c.radius for c in own]
    assert radii.max() > 0.2


def test_images_off_the_grid_are_not_rounded(
    estimator: Any, smoothed: SmoothedClassifier, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    moved = digits[0] * np.float32(0.97)
    _, radii = estimator.certify(moved.astype(np.float64), n=200)
    exact, rounded = (
        [c.radius for c in smoothed.certify_batch(images, n0=50, n=200, seed=0)]
        for images in (moved, to_grid(moved))
    )
    assert radii.tolist() == exact != rounded


def test_an_abstention_is_a_row_of_zeros_or_the_most_frequent(smoothed: SmoothedClassifier) -> None:
    from denoised_smoothing.attacks.art import SmoothedEstimator

    unsure = SmoothedEstimator(smoothed, (1, 8, 8), 10, sample_size=5, seed=0)
    image = np.full((1, 1, 8, 8), 102 / 255, np.float32)
    assert unsure.predict(image).sum() == 0
    assert unsure.predict(image, is_abstain=False).sum() == 1
    labels, radii = unsure.certify(image, n=5)
    assert (labels.tolist(), radii.tolist()) == ([-1], [0.0])


def test_where_no_copy_has_a_label_there_is_no_most_frequent_one() -> None:
    from denoised_smoothing.attacks.art import SmoothedEstimator

    class NoClass(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images),), -1)

    smoothed = SmoothedClassifier(NoClass(), SIGMA, device="cpu")
    estimator = SmoothedEstimator(smoothed, (1, 8, 8), 3, sample_size=5)
    assert estimator.predict(np.zeros((1, 1, 8, 8)), is_abstain=False).tolist() == [[0, 0, 0]]


def test_a_label_beyond_the_classes_is_named(
    smoothed: SmoothedClassifier, estimator: Any, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    from denoised_smoothing.attacks.art import SmoothedEstimator

    images, _ = digits
    label = int(estimator.predict(images).argmax(axis=1).max())
    few = SmoothedEstimator(smoothed, (1, 8, 8), label, seed=0)
    with pytest.raises(SettingError, match=f"got classes={label} and label {label}. Give the num"):
        few.predict(images)


def test_an_attack_of_art_runs_on_it(estimator: Any, digits: tuple[np.ndarray, np.ndarray]) -> None:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    images, labels = digits
    wanted = np.eye(10, dtype=np.float32)[labels]
    gradient = estimator.loss_gradient(images, wanted)
    assert gradient.shape == images.shape
    assert np.abs(gradient).max() > 0
    attack = ProjectedGradientDescentPyTorch(
        estimator, norm=2, eps=0.5, eps_step=0.2, max_iter=3, verbose=False
    )
    moved = attack.generate(images, wanted)
    distance = np.linalg.norm((moved - images).reshape(6, -1), axis=1)
    assert distance.max() <= 0.5 + 1e-5
    assert distance.min() > 0.1
    before, after = (
        torch.from_numpy(estimator._model(torch.from_numpy(x))[-1].detach().numpy())
        for x in (images, moved)
    )
    index = torch.arange(6), torch.from_numpy(labels)
    assert (after[index] < before[index]).float().mean() > 0.6


def test_a_classifier_without_gradients_is_refused() -> None:
    from denoised_smoothing.attacks.art import SmoothedEstimator

    smoothed = SmoothedClassifier(lambda images: images.flatten(1), SIGMA)
    with pytest.raises(SettingError, match=r"needs a torch module .* Use a surrogate"):
        SmoothedEstimator(smoothed, (1, 8, 8), 64)


def test_without_the_toolbox_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art.estimators.classification", None)
    monkeypatch.delitem(sys.modules, "denoised_smoothing.attacks.art", raising=False)
    with pytest.raises(MissingExtraError, match=r"'denoised-smoothing\[art\]'"):
        import denoised_smoothing.attacks.art  # noqa: F401
