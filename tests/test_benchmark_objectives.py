"""benchmarks/objectives.py: objectives that only the study uses."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("lightning")

from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.training.config import Objective, Target, TrainingConfig
from denoised_smoothing.training.lightning import DenoiserTraining
from denoised_smoothing.training.objectives import stability
from tests.test_benchmarks import load

IMAGES = torch.zeros(3, 1, 4, 4)
LABELS = torch.tensor([3, 1, 0, 2, 2])
BATCH = torch.full((8, 1, 8, 8), 0.5), torch.zeros(8).long(), torch.arange(8)


@pytest.fixture(scope="module")
def objectives() -> ModuleType:
    return load("objectives")


@pytest.mark.parametrize("steps", [1, 4])
def test_a_linear_loss_is_climbed_along_its_gradient(objectives: ModuleType, steps: int) -> None:
    direction = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    shift = objectives.adversarial_shift(
        lambda shift: (shift * direction).sum(), IMAGES, 0.5, steps
    )
    norms = direction.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(shift, 0.5 * direction / norms)
    assert not shift.requires_grad


def test_the_shift_stays_in_its_ball_and_raises_the_loss(objectives: ModuleType) -> None:
    def loss(shift: Tensor) -> Tensor:
        return (shift - 0.1).square().sum()

    shift = objectives.adversarial_shift(loss, IMAGES, 1.0, 5)
    assert (shift.flatten(1).norm(dim=1) <= 1 + 1e-6).all()
    # The farthest point of a ball of radius 1 from 0.1 in all 16 pixels, whose norm is 0.4.
    assert float(loss(shift)) == pytest.approx(3 * 1.4**2, rel=1e-4)


def test_without_a_gradient_nothing_moves(objectives: ModuleType) -> None:
    shift = objectives.adversarial_shift(lambda shift: (0 * shift).sum(), IMAGES, 1.0, 2)
    assert torch.equal(shift, IMAGES)


def test_lost_votes_are_the_share_of_copies_where_the_classifier_is_sure(
    objectives: ModuleType,
) -> None:
    sure = 100.0 * functional.one_hot(torch.tensor([3, 1, 1, 2, 0]), 4)
    assert float(objectives.lost_votes(sure, LABELS)) == pytest.approx(2 / 5)
    soft = functional.one_hot(LABELS, 4).float()
    assert float(objectives.lost_votes(sure, soft)) == pytest.approx(2 / 5)
    assert float(objectives.lost_votes(torch.zeros(5, 4), LABELS)) == pytest.approx(3 / 4)


def test_a_sure_and_wrong_answer_costs_at_most_one_vote(objectives: ModuleType) -> None:
    wrong = 1000.0 * functional.one_hot((LABELS + 1) % 4, 4)
    assert float(objectives.lost_votes(wrong, LABELS)) == pytest.approx(1.0)
    assert float(stability(wrong, LABELS)) == pytest.approx(1000.0)


class Scale(DenoiserNetwork):
    """Multiplies, and keeps its input."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, noisy: Tensor, sigma: float | Tensor) -> Tensor:
        self.seen = noisy.detach()
        return self.factor * noisy


def stability_training(kind: type[DenoiserTraining], target: Target) -> DenoiserTraining:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    config = TrainingConfig(objective=Objective.STABILITY, sigma=0.5, target=target)
    return kind(Scale(), config, [classifier])


@pytest.fixture(autouse=True)
def at_step_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules without a trainer believe to be at step 0 of rank 0."""
    monkeypatch.setattr(DenoiserTraining, "global_step", 0)
    monkeypatch.setattr(DenoiserTraining, "global_rank", 0)
    monkeypatch.setattr(DenoiserTraining, "log", lambda *args, **kwargs: None)


def test_votes_are_lost_where_nats_are_counted_otherwise(objectives: ModuleType) -> None:
    votes = stability_training(objectives.VotesTraining, Target.TRUTH)
    loss = float(votes.training_step(BATCH, 0).detach())
    answers = votes.surrogates[0](votes.denoiser.seen)
    assert loss == pytest.approx(1 - float(answers.softmax(dim=1)[:, 0].mean().detach()))


def test_an_adversary_raises_the_loss_and_leaves_no_gradient(
    objectives: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives.AdversarialTraining, "length", 0.5)
    monkeypatch.setattr(objectives.AdversarialTraining, "steps", 2)
    plain = stability_training(DenoiserTraining, Target.SOFT).training_step(BATCH, 0)
    training = stability_training(objectives.AdversarialTraining, Target.SOFT)
    attacked = training.training_step(BATCH, 0)
    assert float(attacked.detach()) > float(plain.detach())
    assert training.denoiser.factor.grad is None
