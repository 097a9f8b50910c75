from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.attacks.soft_votes import SoftVotes
from denoised_smoothing.errors import ClassifierError, SettingError


class Linear(nn.Module):
    """Two classes; the probability of the second is a logistic function of the mean pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(4.0))

    def forward(self, images: Tensor) -> Tensor:
        score = self.slope * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-score, score], dim=1)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_is_the_mean_of_the_probabilities_of_noisy_copies() -> None:
    """Against 4,000 copies drawn here; both means are within 0.01 of the truth by far."""
    smoothed = SmoothedClassifier(Linear(), 0.5, device="cpu")
    soft = SoftVotes(smoothed, copies=4000, chunk=1000)
    probabilities = soft(images()).exp()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    noise = 0.5 * torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for index in range(3):
        expected = smoothed.classifier(images()[index] + noise).softmax(dim=1).mean(dim=0)
        torch.testing.assert_close(probabilities[index], expected, rtol=0, atol=0.01)


def test_one_forward_pass_or_several_make_no_difference() -> None:
    smoothed = SmoothedClassifier(Linear(), 0.5, lambda noisy: 0.9 * noisy, device="cpu")
    once, split = (SoftVotes(smoothed, copies=10, chunk=chunk)(images()) for chunk in (10, 3))
    torch.testing.assert_close(once, split)


def test_the_noise_is_new_at_each_call_or_stays() -> None:
    smoothed = SmoothedClassifier(Linear(), 0.5, device="cpu")
    fresh, kept = SoftVotes(smoothed), SoftVotes(smoothed, fresh=False)
    assert not torch.equal(fresh(images()), fresh(images()))
    assert torch.equal(kept(images()), kept(images()))
    assert torch.equal(SoftVotes(smoothed)(images()), kept(images()))
    assert not torch.equal(SoftVotes(smoothed, seed=1)(images()), kept(images()))


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (lambda score: score[:, None], r"torch.stack\(\[-y, y\], dim=1\)"),
        (lambda score: torch.stack([score, -score], dim=1) * 1j, "Return real logits"),
    ],
)
def test_an_answer_that_is_no_logits_is_refused(answer: Any, remedy: str) -> None:
    smoothed = SmoothedClassifier(lambda x: answer(x.mean(dim=(1, 2, 3))), 0.5, device="cpu")
    with pytest.raises(ClassifierError, match=remedy):
        SoftVotes(smoothed)(images())


def test_gradients_reach_the_image_and_the_weights() -> None:
    model = SoftVotes(SmoothedClassifier(Linear(), 0.5, device="cpu"))
    batch = images().requires_grad_()
    nn.functional.cross_entropy(model(batch), torch.tensor([0, 1, 0])).backward()
    assert batch.grad is not None
    assert (batch.grad.flatten(1).norm(dim=1) > 0).all()
    assert len(list(model.parameters())) == 1
    assert not model.training


def test_labels_have_no_soft_votes() -> None:
    smoothed = SmoothedClassifier(lambda batch: batch.mean(dim=(1, 2, 3)).long(), 0.5)
    with pytest.raises(
        SettingError, match="answers with labels, which have no gradient and no soft votes"
    ):
        SoftVotes(smoothed)(images())
    with pytest.raises(SettingError, match="copies"):
        SoftVotes(smoothed, copies=0)
