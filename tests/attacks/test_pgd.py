from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from denoised_smoothing.attacks import PGD, attack, check_differentiable, to_grid_within
from denoised_smoothing.attacks.pgd import distance
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import ClassifierError, SettingError
from denoised_smoothing.images import is_on_grid
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

from .samples import SHAPE, SIGMA, Cut, Labels, Linear, Numpy, exact_radius, picture, smoothed

QUICK = PGD(steps=15, copies=16)


def square(image: np.ndarray, other: np.ndarray) -> Fraction:
    """The squared distance of two images on the grid, exact."""
    levels = [np.rint(values.astype(np.float64) * 255).astype(int) for values in (image, other)]
    return Fraction(int(((levels[0] - levels[1]) ** 2).sum()), 255**2)


class TestKnownRadius:
    """Of the linear classifier the boundary is known."""

    @pytest.mark.parametrize("seed", range(5))
    def test_within_the_exact_radius_nothing_changes(self, seed: int) -> None:
        image = picture(0.3, seed)
        after = attack(smoothed(), image, 0, 0.99 * exact_radius(image), QUICK, seed=seed)
        with torch.no_grad():
            assert Linear().score(torch.tensor(after[None])).item() > 0
        assert smoothed().predict(after, n=2000, alpha=1e-4, seed=seed).label in (0, None)

    @pytest.mark.parametrize("seed", range(5))
    def test_a_little_beyond_it_the_label_changes(self, seed: int) -> None:
        image = picture(0.3, seed)
        after = attack(smoothed(), image, 0, 1.3 * exact_radius(image), QUICK, seed=seed)
        assert smoothed().predict(after, n=2000, alpha=1e-4, seed=seed).label == 1

    def test_the_attack_is_nearly_the_best_one(self) -> None:
        image, epsilon = picture(0.3), 0.5
        after = attack(smoothed(), image, 0, epsilon, QUICK, seed=0)
        assert exact_radius(image) - 0.3 == pytest.approx(0, abs=0.01)
        with torch.no_grad():
            moved = 0.3 - Linear().score(torch.tensor(after[None])).item()
        assert 0.95 * epsilon < moved < epsilon + 0.01

    def test_of_a_denoiser_too(self) -> None:
        """Behind a denoiser that halves, the boundary is where the half-way image has it."""
        image = picture(0.6)
        halved = SmoothedClassifier(
            Linear(), SIGMA, lambda noisy, sigma: 0.5 + (noisy - 0.5) / 2, device="cpu"
        )
        after = attack(halved, image, 0, 0.75, QUICK, seed=0)
        assert halved.predict(after, n=1000, seed=0).label == 1


@settings(max_examples=150, deadline=None)
@given(
    before=arrays.arrays(np.int64, SHAPE, elements=st.integers(0, 255)),
    after=arrays.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32)),
    epsilon=st.floats(1e-4, 20),
)
def test_any_change_ends_on_the_grid_strictly_within_epsilon(
    before: np.ndarray, after: np.ndarray, epsilon: float
) -> None:
    image = before.astype(np.float32) / np.float32(255)
    moved = to_grid_within(image, after, epsilon)
    assert moved.dtype == np.float32
    assert moved.shape == image.shape
    assert is_on_grid(moved)
    assert 0 <= moved.min() <= moved.max() <= 1
    assert square(image, moved) < Fraction(epsilon) ** 2
    assert distance(image, moved) == pytest.approx(math.sqrt(square(image, moved)), abs=1e-12)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize(
    ("epsilon", "least"), [(0.05, 0.2), (0.1, 0.4), (0.25, 0.85), (0.5, 0.95), (1.0, 0.97)]
)
def test_rounding_loses_little_of_the_length(epsilon: float, least: float, even: bool) -> None:
    """Also below half a level a pixel, and where all pixels would be rounded alike.

    Of an even change of 0.05, 162 of 3072 pixels can move: 0.23 of it in its direction.
    """
    rng = np.random.default_rng(0)
    shape = (3, 32, 32)
    image = rng.integers(64, 192, shape).astype(np.float32) / np.float32(255)
    change = np.ones(shape) if even else rng.standard_normal(shape)
    change *= epsilon / np.linalg.norm(change)
    moved = to_grid_within(image, (image + change).astype(np.float32), epsilon)
    assert 0.99 * epsilon < distance(image, moved) < epsilon
    along = float(((moved - image) * change).sum()) / epsilon
    assert least * epsilon < along < epsilon


def test_no_room_for_one_level_leaves_the_image() -> None:
    image = picture(0.3)
    assert np.array_equal(attack(smoothed(), image, 0, 0.99 / 255, QUICK, seed=0), image)
    assert np.array_equal(to_grid_within(image, image, 5.0), image)


def test_of_an_image_off_the_grid_ends_on_it_and_within_epsilon_of_the_image() -> None:
    image = (picture(0.3) + np.float32(0.4 / 255)).clip(0, 1)
    rounding = float(np.linalg.norm((image.astype(np.float64) * 255 % 1).clip(0, 0.4))) / 255
    after = attack(smoothed(), image, 0, 1.5 * rounding, QUICK, seed=0)
    assert is_on_grid(after)
    assert rounding / 2 < np.linalg.norm(after.astype(np.float64) - image) < 1.5 * rounding
    with pytest.raises(SettingError, match=r"epsilon is 0\.01, but the nearest 8-bit image"):
        attack(smoothed(), image, 0, 0.01, QUICK, seed=0)


class TestNoise:
    def test_a_seed_repeats_the_attack(self) -> None:
        image = picture(0.3)
        one, same, other = (
            attack(smoothed(Bent()), image, 0, 0.4, QUICK, seed=seed) for seed in (1, 1, 2)
        )
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_stopped_it_is_where_as_many_steps_lead(self) -> None:
        image, asked = picture(0.3), iter([False, False, True])
        after = attack(smoothed(), image, 0, 0.5, QUICK, seed=3, stopped=lambda: next(asked))
        two = attack(smoothed(), image, 0, 0.5, PGD(2, QUICK.copies), seed=3)
        assert np.array_equal(after, two)
        untouched = attack(smoothed(), image, 0, 0.5, QUICK, seed=3, stopped=lambda: True)
        assert distance(image, untouched) == 0

    def test_each_step_sees_other_copies_with_the_noise_of_sigma(self) -> None:
        seen: list[torch.Tensor] = []

        class Spy(Linear):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                seen.append(images.detach().clone())
                return super().forward(images)

        image = picture(0.3)
        pipeline = smoothed(Spy())
        pipeline.prepared.engine_for(image)  # which checks the classifier
        seen.clear()
        attack(pipeline, image, 0, 1e-6, PGD(steps=2, copies=200), seed=0)
        noise = [(copies - torch.tensor(image)).numpy() for copies in seen]
        assert [values.shape for values in noise] == [(200, *SHAPE)] * 2
        assert not np.allclose(noise[0], noise[1], atol=1e-3)
        for values in noise:
            assert values.std() == pytest.approx(SIGMA, rel=0.03)
            assert values.mean() == pytest.approx(0, abs=0.01)

    def test_parts_of_the_copies_give_the_same_gradient(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image, results, engine_for = picture(0.3), [], PreparedPipeline.engine_for
        for size in (64, 5):
            monkeypatch.setattr(
                PreparedPipeline,
                "engine_for",
                lambda self, image, size=size: replace(engine_for(self, image), forward=size),
            )
            results.append(attack(smoothed(Bent()), image, 0, 0.4, QUICK, seed=1))
        assert distance(*results) < 0.02


class Bent(Linear):
    """Not linear, so that the gradient depends on the noise."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images + 0.5 * torch.sin(8 * images))


class Saturated(Linear):
    """Probabilities that are 0 or 1 in float32."""

    def __init__(self) -> None:
        super().__init__(gain=1e6)


def test_no_slope_anywhere_leaves_an_image_and_no_nan() -> None:
    after = attack(smoothed(Saturated()), picture(3.0), 0, 0.2, QUICK, seed=0)
    assert np.isfinite(after).all()
    assert is_on_grid(after)


class TestRefusals:
    @pytest.mark.parametrize("classifier", [Labels(), Cut(), Numpy()])
    def test_without_gradients_it_says_to_name_a_surrogate(self, classifier: nn.Module) -> None:
        for run in (
            lambda: check_differentiable(smoothed(classifier), picture(0.3), 0),
            lambda: attack(smoothed(classifier), picture(0.3), 0, 0.2, QUICK, seed=0),
        ):
            with pytest.raises(SettingError, match=r"(?i)no gradient .* a surrogate"):
                run()

    def test_a_gradient_that_is_not_finite(self) -> None:
        class Broken(Linear):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return super().forward(images) * float("nan")

        with pytest.raises(ClassifierError, match=r"gradient .* is not finite"):
            attack(smoothed(Broken()), picture(0.3), 0, 0.2, QUICK, seed=0)

    def test_a_surrogate_of_other_classes(self) -> None:
        with pytest.raises(SettingError, match=r"has 2 classes, and none is the label 7"):
            check_differentiable(smoothed(), picture(0.3), 7)

    @pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
    def test_lengths(self, epsilon: float) -> None:
        with pytest.raises(
            SettingError, match=f"epsilon must be above 0 and finite, got {epsilon}"
        ):
            attack(smoothed(), picture(0.3), 0, epsilon, QUICK, seed=0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
            ({"copies": 0}, "copies must be a whole number of at least 1, got 0"),
            ({"step": 0.0}, "step must be above 0 and finite, got 0.0"),
        ],
    )
    def test_settings(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingError, match=message):
            PGD(**arguments)
