from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from denoised_smoothing.errors import SettingError, TrainingError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.training.config import (
    Objective,
    Spacing,
    Target,
    TrainingConfig,
    Weighting,
)
from denoised_smoothing.training.lightning import DenoiserTraining, check_loss
from denoised_smoothing.training.objectives import feature_distance


class Scale(DenoiserNetwork):
    """Multiplies, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, noisy: Tensor, sigma: float | Tensor) -> Tensor:
        self.seen = noisy.detach(), torch.as_tensor(sigma)
        return self.factor * noisy


class Classes(nn.Module):
    """A linear classifier that notes whether it is called."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(64, 10)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.linear(images.flatten(1))
        return logits


@pytest.fixture(autouse=True)
def step(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The step [0] and rank [1] that modules without a trainer believe to be at."""
    now = [0, 0]
    monkeypatch.setattr(DenoiserTraining, "global_step", property(lambda self: now[0]))
    monkeypatch.setattr(DenoiserTraining, "global_rank", property(lambda self: now[1]))
    monkeypatch.setattr(DenoiserTraining, "log", lambda *args, **kwargs: None)
    return now


def batch(count: int = 16, value: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    return torch.full((count, 1, 8, 8), value), torch.zeros(count).long(), torch.arange(count)


def noise(training: DenoiserTraining) -> tuple[Tensor, Tensor]:
    """Noise and sigmas of one training step on grey images."""
    training.training_step(batch(200), 0)
    noisy, sigmas = training.denoiser.seen  # type: ignore[attr-defined]
    return noisy - 0.5, sigmas


def test_noise_is_gaussian_of_the_sigma_asked_for() -> None:
    training = DenoiserTraining(Scale(), TrainingConfig(sigma=0.5))
    drawn, sigmas = noise(training)
    torch.testing.assert_close(sigmas, torch.full((200,), 0.5))
    # Seed fixed; another one would fail with probability 0.001.
    assert stats.kstest(drawn.flatten() / 0.5, "norm").pvalue > 0.001


@pytest.mark.parametrize("spacing", Spacing)
def test_sigmas_of_a_range_are_uniform_in_it_or_in_the_logarithm(spacing: Spacing) -> None:
    training = DenoiserTraining(Scale(), TrainingConfig(sigma=0.1, sigma_max=1.0, spacing=spacing))
    drawn, sigmas = noise(training)
    share = (sigmas - 0.1) / 0.9 if spacing is Spacing.LINEAR else 1 + sigmas.log10()
    # Seed fixed; another one would fail either test with probability 0.002.
    assert stats.kstest(share, "uniform").pvalue > 0.001
    standard = drawn / sigmas.reshape(-1, 1, 1, 1)
    assert stats.kstest(standard.flatten(), "norm").pvalue > 0.001


def test_noise_is_keyed_by_seed_step_and_device(step: list[int]) -> None:
    def at(seed: int, number: int, rank: int) -> Tensor:
        step[:] = number, rank
        return noise(DenoiserTraining(Scale(), TrainingConfig(seed=seed)))[0]

    assert torch.equal(at(0, 7, 1), at(0, 7, 1))
    different = [at(0, 0, 0), at(1, 0, 0), at(0, 1, 0), at(0, 0, 1)]
    for index, one in enumerate(different):
        assert not any(torch.equal(one, other) for other in different[:index])


def test_validation_noise_stays_the_same_and_differs_from_training(step: list[int]) -> None:
    training = DenoiserTraining(Scale(), TrainingConfig())
    seen = []
    for number in (0, 100):
        step[0] = number
        training.validation_step(batch(200), 0)
        seen.append(training.averaged.seen[0])  # type: ignore[union-attr]
    assert torch.equal(seen[0], seen[1])
    step[0] = 0
    assert not torch.equal(seen[0] - 0.5, noise(training)[0])


def test_mse_is_against_the_clean_images() -> None:
    training = DenoiserTraining(Scale(), TrainingConfig(sigma=0.5))
    loss = training.training_step(batch(200), 0)
    noisy, _ = training.denoiser.seen  # type: ignore[attr-defined]
    torch.testing.assert_close(loss.detach(), (noisy - 0.5).square().mean())


def test_hybrid_takes_surrogates_in_turn_once_mse_is_over(step: list[int]) -> None:
    surrogates = Classes(0), Classes(1), Classes(2)
    config = TrainingConfig(objective=Objective.HYBRID, steps=8, mse_steps=2)
    training = DenoiserTraining(Scale(), config, surrogates)
    calls = []
    for step[0] in range(8):
        training.training_step(batch(), 0)
        calls.append([surrogate.calls for surrogate in surrogates])
        for surrogate in surrogates:
            surrogate.calls = 0
    none, first, second, third = [0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]
    assert calls == [none, none, third, first, second, third, first, second]


def test_stability_trains_the_denoiser_alone() -> None:
    surrogate = Classes()
    config = TrainingConfig(objective=Objective.STABILITY)
    training = DenoiserTraining(Scale(), config, [surrogate], {"judge": Classes(1)})
    training.training_step(batch(), 0).backward()
    assert training.denoiser.factor.grad.abs() > 0  # type: ignore[union-attr]
    assert surrogate.linear.weight.grad is None
    assert not surrogate.training
    names = {name for name, _ in training.named_parameters()}
    assert names == training.state_dict().keys() == {"denoiser.factor", "averaged.factor"}


def test_the_average_moves_faster_while_young(step: list[int]) -> None:
    training = DenoiserTraining(Scale(), TrainingConfig(ema=0.5))
    training.denoiser.factor.data.fill_(2.0)
    expected = 1.0
    for step[0], decay in [(1, 1 / 10), (2, 2 / 11), (3, 3 / 12), (1000, 0.5)]:
        training.on_train_batch_end(None, None, 0)
        expected = decay * expected + (1 - decay) * 2.0
        assert float(training.averaged.factor) == pytest.approx(expected)
    assert not training.averaged.factor.requires_grad


def test_the_average_has_statistics_of_its_own(step: list[int]) -> None:
    training = DenoiserTraining(DnCNN(1, depth=3, width=4), TrainingConfig())
    assert not training.averaged.training
    step[0] = 1
    for _ in range(2):
        training.training_step(batch(), 0)
    training.on_train_batch_end(None, None, 0)
    own, average = (net.noise[3] for net in (training.denoiser, training.averaged))
    assert average.num_batches_tracked == own.num_batches_tracked == 2
    torch.testing.assert_close(average.running_mean, 0.9 * own.running_mean)


def test_a_loss_that_is_not_finite_ends_the_training(step: list[int]) -> None:
    step[0] = 7
    training = DenoiserTraining(Scale(), TrainingConfig())
    with pytest.raises(TrainingError, match=r"loss became nan at step 7\. Lower the learning"):
        training.training_step(batch(value=float("nan")), 0)
    training.denoiser.factor.data.fill_(1e30)
    with pytest.raises(TrainingError, match="loss became inf"):
        training.training_step(batch(), 0)


def test_images_without_label_do_not_count_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = {}
    monkeypatch.setattr(
        DenoiserTraining,
        "log",
        lambda self, name, value, **how: logged.update({name: (value, how)}),
    )
    judge = Classes()
    training = DenoiserTraining(Scale(), TrainingConfig(sigma=1e-6), (), {"judge": judge})
    images, _, numbers = batch(4)
    label = int(judge(images)[0].argmax())
    training.validation_step((images, torch.tensor([label, -1, label, -1]), numbers), 0)
    accuracy, how = logged["accuracy_judge"]
    assert accuracy == 1.0
    assert how["batch_size"] == 2
    logged.clear()
    training.validation_step((images, torch.full((4,), -1), numbers), 0)
    assert logged.keys() == {"validation_mse"}


def stability_training(**settings: object) -> DenoiserTraining:
    config = TrainingConfig(objective=Objective.STABILITY, sigma=0.5, **settings)  # type: ignore[arg-type]
    return DenoiserTraining(Scale(), config, [Classes()])


def test_copies_of_an_image_share_its_sigma_and_not_its_noise() -> None:
    training = stability_training(copies=3, sigma_max=1.0)
    training.training_step(batch(4), 0)
    noisy, sigmas = training.denoiser.seen  # type: ignore[attr-defined]
    assert len(noisy) == 12
    assert torch.equal(sigmas, sigmas[:4].repeat(3))
    assert len(set(sigmas.tolist())) == 4
    assert not torch.equal(noisy[:4], noisy[4:8])


def test_one_copy_has_the_noise_of_an_mse_step() -> None:
    mse, stability = DenoiserTraining(Scale(), TrainingConfig(sigma=0.5)), stability_training()
    for training in (mse, stability):
        training.training_step(batch(), 0)
    assert torch.equal(mse.denoiser.seen[0], stability.denoiser.seen[0])  # type: ignore[index]


def test_terms_add_up() -> None:
    def loss(**settings: object) -> float:
        return float(stability_training(copies=2, **settings).training_step(batch(), 0).detach())

    plain = loss()
    parts = {"consistency": 2.0, "entropy": 0.5, "anchor": 3.0}
    added = {name: loss(**{name: weight}) - plain for name, weight in parts.items()}
    assert all(value > 0 for value in added.values())
    assert loss(**parts) == pytest.approx(plain + sum(added.values()), rel=1e-5)
    assert loss(anchor=6.0) - plain == pytest.approx(2 * added["anchor"], rel=1e-4)


def test_truth_is_the_label_of_the_data() -> None:
    training = stability_training(target=Target.TRUTH)
    images, _, numbers = batch(8)
    losses = [
        float(training.training_step((images, torch.full((8,), label), numbers), 0).detach())
        for label in range(10)
    ]
    answers = training.surrogates[0](training.denoiser.seen[0])  # type: ignore[index]
    expected = -answers.log_softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(torch.tensor(losses), expected.detach())


def test_the_classifier_is_asked_about_clean_images_where_its_answer_counts() -> None:
    asked = {}
    for target in Target:
        layers = "linear" if target is Target.FEATURES else ""
        training = stability_training(target=target, layers=layers)
        calls = asked[target] = []
        training.surrogates[0].register_forward_hook(lambda *_, to=calls: to.append(1))
        training.training_step(batch(8), 0)
    assert {target: len(calls) for target, calls in asked.items()} == {
        Target.TRUTH: 1, Target.LABEL: 2, Target.SOFT: 2, Target.FEATURES: 2,
    }  # fmt: skip


class Layered(nn.Module):
    """A classifier of two layers, the first of which is a feature map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean(dim=(2, 3)))
        return logits


def features_training(layers: str, network: nn.Module | None = None) -> DenoiserTraining:
    config = TrainingConfig(
        sigma=0.5, objective=Objective.STABILITY, target=Target.FEATURES, layers=layers, copies=2
    )
    return DenoiserTraining(Scale(), config, [network or Layered()])


def test_features_are_those_of_the_named_layers() -> None:
    training = features_training("body.0, head")
    loss = training.training_step(batch(8), 0)
    network, clean = training.surrogates[0], batch(8)[0].repeat(2, 1, 1, 1)
    noisy = training.denoiser.seen[0]  # type: ignore[index]
    maps = network.body[0](noisy), network.body[0](clean)
    expected = feature_distance([maps[0]], [maps[1]])
    expected += feature_distance([network(noisy)], [network(clean)])
    torch.testing.assert_close(loss.detach(), expected.detach())
    loss.backward()
    assert training.denoiser.factor.grad.abs() > 0  # type: ignore[union-attr, operator]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_layers_of_a_classifier_with_preprocessing_have_the_names_of_its_network() -> None:
    training = features_training("body", ImageClassifier(Layered(), [0.25], [0.5]))
    assert training.training_step(batch(8), 0) > 0


@pytest.mark.parametrize("layers", ["tail", "body,", "body.2"])
def test_a_layer_that_is_missing_is_named(layers: str) -> None:
    with pytest.raises(SettingError, match=r"no layer .*its layers: body, body\.0, body\.1, head"):
        features_training(layers)


def test_an_accelerator_is_not_waited_for_at_every_step() -> None:
    there = torch.empty((), device="meta")  # whose value nobody can look at
    check_loss(there, 19)
    with pytest.raises(RuntimeError, match="meta tensors"):
        check_loss(there, 20)


def test_temperature_divides_the_logits_of_both_answers() -> None:
    training = stability_training(temperature=4.0)
    loss = training.training_step(batch(8), 0)
    surrogate = training.surrogates[0]
    clean = (surrogate(batch(8)[0]) / 4).softmax(dim=1)
    answers = (surrogate(training.denoiser.seen[0]) / 4).log_softmax(dim=1)  # type: ignore[index]
    torch.testing.assert_close(loss.detach(), -(clean * answers).sum(dim=1).mean().detach())


def test_weighted_mse_counts_weak_noise_more() -> None:
    losses = {}
    for sigma in (0.05, 1.0):
        for weighting in Weighting:
            config = TrainingConfig(sigma=sigma, weighting=weighting)
            loss = DenoiserTraining(Scale(), config).training_step(batch(200), 0)
            losses[sigma, weighting] = float(loss.detach())
    ratio = {
        sigma: losses[sigma, Weighting.VARIANCE] / losses[sigma, Weighting.EQUAL]
        for sigma in (0.05, 1.0)
    }
    assert ratio[0.05] == pytest.approx(13.0)
    assert ratio[1.0] == pytest.approx(0.53125)
