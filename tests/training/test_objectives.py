from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional

from denoised_smoothing.training.config import Target
from denoised_smoothing.training.objectives import (
    answer_entropy,
    consistency,
    feature_distance,
    mse,
    psnr,
    stability,
    stability_target,
    variance_weights,
)

LABELS = torch.tensor([3, 1, 0, 2, 2])


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def copies(*seeds: int) -> torch.Tensor:
    return torch.stack([logits(seed) for seed in seeds])


def test_stability_towards_the_label_is_cross_entropy_with_it() -> None:
    answers, clean = logits(0), logits(1)
    labels = clean.argmax(dim=1)
    reference = functional.nll_loss(functional.log_softmax(answers, dim=1), labels)
    torch.testing.assert_close(stability(answers, stability_target(clean, Target.LABEL)), reference)


def test_stability_towards_all_probabilities() -> None:
    answers, clean = logits(0), logits(1)
    reference = -(clean.softmax(1) * answers.log_softmax(1)).sum(dim=1).mean()
    torch.testing.assert_close(stability(answers, stability_target(clean, Target.SOFT)), reference)


def test_soft_stability_is_least_where_the_answers_agree() -> None:
    clean = logits(1)
    answers = clean.clone().requires_grad_()
    least = stability(answers, stability_target(clean, Target.SOFT))
    least.backward()
    entropy = torch.distributions.Categorical(logits=clean).entropy().mean()
    torch.testing.assert_close(least, entropy)
    torch.testing.assert_close(answers.grad, torch.zeros_like(clean), rtol=0, atol=1e-6)
    for seed in range(2, 12):
        assert stability(clean + 0.1 * logits(seed), clean.softmax(dim=1)) > least


def test_the_distance_of_features_is_relative_to_each_position_and_layer() -> None:
    # Two positions with |t|^2 of 4 and 16, mean 10: errors 1 / (4 + 1) and 9 / (16 + 1).
    target = torch.tensor([[[2.0, 4.0], [0.0, 0.0]]])
    feature = torch.tensor([[[2.0, 4.0], [1.0, 3.0]]])
    expected = (1 / 5 + 9 / 17) / 2
    assert float(feature_distance([feature], [target])) == pytest.approx(expected)
    scaled = feature_distance([feature, 100 * feature], [target, 100 * target])
    assert float(scaled) == pytest.approx(2 * expected)
    assert float(feature_distance([target], [target])) == 0
    assert float(feature_distance([0 * target], [0 * target])) == 0


def test_stability_of_uniform_answers_is_log_k() -> None:
    for answer in (
        LABELS,
        *(stability_target(logits(0), target) for target in (Target.LABEL, Target.SOFT)),
    ):
        assert float(stability(torch.zeros(5, 4), answer)) == pytest.approx(math.log(4))


def test_consistency_is_the_divergence_of_every_copy_from_their_mean() -> None:
    given = copies(0, 1, 2)
    mean = Categorical(probs=given.softmax(dim=2).mean(dim=0))
    each = [kl_divergence(mean, Categorical(logits=answers)).mean() for answers in given]
    torch.testing.assert_close(consistency(given), torch.stack(each).mean())
    torch.testing.assert_close(answer_entropy(given), mean.entropy().mean())


def test_copies_that_agree_are_consistent() -> None:
    assert float(consistency(copies(0, 0, 0))) == pytest.approx(0, abs=1e-6)
    assert float(consistency(copies(0, 1))) > 0.1
    # A constant added to all logits of a copy changes no answer.
    shifted = copies(0, 0) + torch.tensor([0.0, 5.0]).reshape(2, 1, 1)
    assert float(consistency(shifted)) == pytest.approx(0, abs=1e-6)


def test_entropy_is_of_the_mean_answer() -> None:
    certain = 50.0 * torch.eye(4)[:2].reshape(2, 1, 4)  # two copies, sure of different classes
    assert float(answer_entropy(certain)) == pytest.approx(math.log(2))
    assert float(answer_entropy(certain[:1])) == pytest.approx(0, abs=1e-6)


def test_logits_of_any_size_stay_finite() -> None:
    large = (1000 * copies(0, 1)).requires_grad_()
    loss = consistency(large) + answer_entropy(large)
    loss.backward()
    assert torch.isfinite(loss)
    assert large.grad is not None
    assert torch.isfinite(large.grad).all()


def test_weights_count_images() -> None:
    clean, errors = torch.zeros(2, 3, 4, 4), torch.tensor([0.1, 0.2]).reshape(2, 1, 1, 1)
    denoised = clean + errors
    assert float(mse(denoised, clean, torch.ones(2))) == pytest.approx(float(mse(denoised, clean)))
    assert float(mse(denoised, clean, torch.tensor([3.0, 0.5]))) == pytest.approx(
        (3 * 0.01 + 0.5 * 0.04) / 2
    )


def test_variance_weights_make_linear_denoisers_equally_wrong() -> None:
    sigmas, std = torch.tensor([0.05, 0.25, 1.0]), 0.25
    left = (sigmas * std) ** 2 / (sigmas**2 + std**2)  # by x -> x s^2 / (s^2 + sigma^2)
    weighted = variance_weights(sigmas) * left
    torch.testing.assert_close(weighted, torch.full((3,), weighted[0].item()))
    assert float(variance_weights(torch.tensor([std]))) == pytest.approx(1.0)


@pytest.mark.parametrize(("error", "decibel"), [(0.1, 20.0), (0.25, 12.0412), (0.01, 40.0)])
def test_mse_and_psnr_of_a_constant_error(error: float, decibel: float) -> None:
    clean = torch.full((2, 3, 4, 4), 0.5)
    squared = mse(clean + error, clean)
    assert float(squared) == pytest.approx(error**2, rel=1e-5)
    assert float(psnr(squared)) == pytest.approx(decibel, abs=1e-3)
