from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from denoised_smoothing.training.config import Target
from denoised_smoothing.training.objectives import mse, psnr, stability


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def test_stability_towards_the_label_is_cross_entropy_with_it() -> None:
    answers, clean = logits(0), logits(1)
    labels = clean.argmax(dim=1)
    reference = functional.nll_loss(functional.log_softmax(answers, dim=1), labels)
    torch.testing.assert_close(stability(answers, clean, Target.LABEL), reference)


def test_stability_towards_all_probabilities() -> None:
    answers, clean = logits(0), logits(1)
    reference = -(clean.softmax(1) * answers.log_softmax(1)).sum(dim=1).mean()
    torch.testing.assert_close(stability(answers, clean, Target.SOFT), reference)


def test_soft_stability_is_least_where_the_answers_agree() -> None:
    clean = logits(1)
    answers = clean.clone().requires_grad_()
    least = stability(answers, clean, Target.SOFT)
    least.backward()
    entropy = torch.distributions.Categorical(logits=clean).entropy().mean()
    torch.testing.assert_close(least, entropy)
    torch.testing.assert_close(answers.grad, torch.zeros_like(clean), rtol=0, atol=1e-6)
    for seed in range(2, 12):
        assert stability(clean + 0.1 * logits(seed), clean, Target.SOFT) > least


def test_stability_of_uniform_answers_is_log_k() -> None:
    for target in Target:
        assert float(stability(torch.zeros(3, 4), logits(0)[:3], target)) == pytest.approx(
            math.log(4)
        )


@pytest.mark.parametrize(("error", "decibel"), [(0.1, 20.0), (0.25, 12.0412), (0.01, 40.0)])
def test_mse_and_psnr_of_a_constant_error(error: float, decibel: float) -> None:
    clean = torch.full((2, 3, 4, 4), 0.5)
    squared = mse(clean + error, clean)
    assert float(squared) == pytest.approx(error**2, rel=1e-5)
    assert float(psnr(squared)) == pytest.approx(decibel, abs=1e-3)
