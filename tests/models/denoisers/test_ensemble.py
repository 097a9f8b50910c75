from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import SmoothedClassifier, load_classifier, load_denoiser
from denoised_smoothing.attacks.soft_votes import SoftVotes
from denoised_smoothing.engines.pipeline import folded
from denoised_smoothing.errors import ClassifierError, SettingError, SpecError
from denoised_smoothing.models.answers import labels_of
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.ensemble import (
    EnsembleClassifier,
    MeanDenoiser,
    MultiSampleDenoiser,
    mean_logits,
)
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.noise import derive_key, standard_normal
from denoised_smoothing.smoothing.votes import shown_copies


class Adding(DenoiserNetwork):
    """Adds a number to every pixel."""

    def __init__(self, number: float) -> None:
        super().__init__(image_channels=1)
        self.number = number

    def forward(self, noisy: Tensor, sigma: float | Tensor) -> Tensor:
        return noisy + self.number


class Corners(nn.Module):
    """Logits: the upper left pixel, and the upper right one."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, [0, -1]]


def test_scores_are_averaged_over_denoisers_and_mirror_images() -> None:
    image = torch.tensor([[[[1.0, 5.0]]]])
    plain = EnsembleClassifier(Corners(), MeanDenoiser([Adding(0), Adding(2)]), 0.5)
    assert plain(image).tolist() == [[2, 6]]
    mirrored = MeanDenoiser([Adding(0), Adding(2)], mirror=True)
    assert mirrored.samples == 4
    assert EnsembleClassifier(Corners(), mirrored, 0.5)(image).tolist() == [[4, 4]]
    torch.testing.assert_close(mirrored(image, 0.5), image)


def test_labels_have_no_mean() -> None:
    mean = EnsembleClassifier(
        lambda images: torch.zeros(len(images)).long(), MeanDenoiser([Adding(0)] * 2), 0.5
    )
    with pytest.raises(ClassifierError, match="needs logits, got labels"):
        mean(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("denoisers", "said"),
    [
        ([UNet()], r"at least 2 members, got 1\. Add a denoiser"),
        ([], "at least 2 members, got 0"),
        ([UNet(), UNet(image_channels=1)], "must have equal channels, got 1 and 3"),
        ([MeanDenoiser([UNet()], mirror=True), UNet()], "got a diffusion model or a mean"),
    ],
)
def test_what_has_no_mean_is_refused(denoisers: list[DenoiserNetwork], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        MeanDenoiser(denoisers)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mean:digits-mse+none", "'none' is not a denoiser of this package"),
        ("mean:digits-mse?mirror=1", "mirror must be yes or no, got '1'"),
        ("mean:digits-mse+digits-msee", "part 'digits-msee': Unknown denoiser"),
        ("mean:digits-mse+unet:a+b.safetensors", "part 'unet:a': there is no"),
        ("mean:digits-mse+", "must name different denoisers between plus signs"),
        ("mean:digits-mse+digits-mse", "must name different denoisers between plus signs"),
    ],
)
def test_specs_that_say_no_mean(spec: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_denoiser(spec)


@pytest.fixture
def image() -> Tensor:
    return torch.randint(256, (1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255


@pytest.fixture
def mean() -> MeanDenoiser:
    loaded = load_denoiser("mean:digits-mse+digits-stability?mirror=yes")
    assert isinstance(loaded, MeanDenoiser)
    return loaded


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_a_copy_has_one_vote_which_is_that_of_the_mean(
    image: Tensor, mean: MeanDenoiser, engine: str
) -> None:
    if engine != "torch":
        pytest.importorskip(engine)
    classifier = load_classifier("digits")

    def by_hand(noisy: Tensor) -> Tensor:
        views = [(d, x) for d in mean.denoisers for x in (noisy, noisy.flip(3))]
        return sum((classifier(d(x, 0.5)) for d, x in views), torch.zeros(1)) / 4

    smoothed = SmoothedClassifier(classifier, 0.5, mean, device="cpu", engine=engine)
    expected = SmoothedClassifier(by_hand, 0.5, None, device="cpu")
    assert counts(smoothed, image) == counts(expected, image)
    one = SmoothedClassifier(classifier, 0.5, mean.denoisers[0], device="cpu")
    assert counts(one, image) != counts(expected, image)


def counts(smoothed: SmoothedClassifier, image: Tensor) -> list[Mapping[int, int]]:
    return [stage.votes for stage in smoothed.certify(image, n0=10, n=200, seed=0).stages]


def test_gradients_follow_every_view(image: Tensor, mean: MeanDenoiser) -> None:
    smoothed = SmoothedClassifier(load_classifier("digits"), 0.5, mean, device="cpu")
    soft = SoftVotes(smoothed, copies=1, fresh=False)
    key = derive_key(0, "soft votes", 0)
    noisy = image[None] + 0.5 * standard_normal(key, (1, 1, 8, 8), torch.device("cpu"))
    logits = EnsembleClassifier(smoothed.classifier, mean, 0.5)(noisy)
    torch.testing.assert_close(soft(image[None]), torch.log_softmax(logits, dim=1))


def test_fingerprints_see_members_order_and_mirror() -> None:
    one, two = UNet(width=8, outer=1, inner=1), UNet(width=8, outer=1, inner=2)
    means = [MeanDenoiser([one, two]), MeanDenoiser([two, one])]
    means += [MeanDenoiser([one, two], mirror=True), MeanDenoiser([one], mirror=True)]
    assert len({fingerprint(mean) for mean in means}) == 4


def test_a_bundle_answers_as_its_parts(image: Tensor, mean: MeanDenoiser, tmp_path: Path) -> None:
    smoothed = SmoothedClassifier(load_classifier("digits"), 0.5, mean, device="cpu")
    spec = "mean:digits-mse+digits-stability?mirror=yes"
    smoothed.save(tmp_path / "bundle", shape=(1, 8, 8), classifier="digits", denoiser=spec)
    assert counts(SmoothedClassifier.load(tmp_path / "bundle", device="cpu"), image) == counts(
        smoothed, image
    )


def test_batch_normalisation_of_the_parts_is_folded() -> None:
    mean = MeanDenoiser([DnCNN(), UNet(width=8)])
    smoothed = SmoothedClassifier(nn.Flatten(), 0.5, mean, device="cpu")
    parts = folded(smoothed.prepared.pipeline, torch.rand(2, 3, 8, 8)).modules()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in parts)


def test_a_remote_classifier_is_asked_about_one_image_a_copy() -> None:
    denoiser = MeanDenoiser([DnCNN(), UNet()])
    with pytest.raises(
        SettingError, match="a remote classifier needs a denoiser with one sample, got 2"
    ):
        SmoothedClassifier(load_classifier("simulated"), 0.25, denoiser)


class Scripted(nn.Module):
    """Samples that show the labels to give, one row a sample."""

    def __init__(self, labels: list[list[int]]) -> None:
        super().__init__()
        self.labels = torch.tensor(labels)

    @property
    def samples(self) -> int:
        return len(self.labels)

    def denoise_samples(self, noisy: Tensor, sigma: float) -> Iterator[Tensor]:
        for row in self.labels:
            yield row[: len(noisy)].reshape(-1, 1, 1, 1).float().expand(noisy.shape)

    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        return next(self.denoise_samples(noisy, sigma))


def shown(images: Tensor) -> Tensor:
    """The label that an image shows."""
    return images[:, 0, 0, 0].long()


def logits(images: Tensor) -> Tensor:
    answers = nn.functional.one_hot(shown(images).clamp_min(0), 10).float()
    answers[shown(images) == 9] = float("nan")
    return answers


class Shown(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return logits(images)


def test_the_majority_wins_and_a_tie_goes_to_the_lowest() -> None:
    samples = Scripted([[3, 1, 2, -1, 5], [3, 2, 1, -1, 7], [4, 2, 0, 6, 7]])
    assert isinstance(samples, MultiSampleDenoiser)
    vote = EnsembleClassifier(shown, samples, 0.5)
    assert vote(torch.zeros(5, 1, 2, 2)).tolist() == [3, 2, 0, -1, 7]


def test_an_answer_that_is_none_is_not_outvoted() -> None:
    vote = EnsembleClassifier(logits, Scripted([[1, 1], [1, 9], [1, 1]]), 0.5)
    assert vote(torch.zeros(2, 1, 2, 2)).tolist() == [1, -2]


def test_labels_of_any_size_have_a_majority() -> None:
    last = 2**63 - 1
    scripted = Scripted([[1, 0], [1, 1], [0, 1]])
    vote = EnsembleClassifier(lambda x: torch.tensor([0, last])[shown(x)], scripted, 0.5)
    assert vote(torch.zeros(2, 1, 2, 2)).tolist() == [last, last]


def test_logits_that_are_infinite_and_equal_are_votes_for_no_class() -> None:
    """A row of logits for each label shown: an ordinary one, and ties at both ends."""
    inf = torch.inf
    rows = torch.tensor([[0.0, 1.0, 0.0], [inf, inf, 0.0], [-inf, -inf, -inf], [-inf, inf, 2.0]])
    scripted = Scripted([[0, 1, 3, 0], [0, 2, 3, 0], [1, 0, 1, 1]])
    vote = EnsembleClassifier(lambda x: rows[shown(x)], scripted, 0.5)
    assert vote(torch.zeros(4, 1, 2, 2)).tolist() == [1, -1, 1, 1]
    mean = mean_logits([rows[:3], rows[[0, 1, 0]]])
    assert labels_of(mean).tolist() == [1, -1, -1]
    opposed = mean_logits([rows[3:], -rows[3:]])
    assert labels_of(opposed).tolist() == [-2]


class Corner(nn.Module):
    """Of the upper left pixel: all logits -inf, or label 1, or +inf twice; or NaN from 9 on."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images[:, 0, 0, :1]
        logits = torch.where(pixel > 0.6, torch.tensor([torch.inf, 0.0, torch.inf]), self.ordinary)
        logits = torch.where(pixel < 0.3, -torch.inf, logits)
        return torch.where(pixel >= 9, torch.tensor([torch.nan, 0.0, 0.0]), logits)

    ordinary = torch.tensor([0.0, 1.0, 0.0])


class Turned(nn.Module):
    """Three samples: a noisy image, and it turned over; with a number added."""

    samples = 3

    def __init__(self, number: float = 0.0) -> None:
        super().__init__()
        self.number = number

    def denoise_samples(self, noisy: Tensor, sigma: float) -> Iterator[Tensor]:
        for sample in (noisy, noisy.flip(3), noisy.flip(2)):
            yield sample + self.number

    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        return noisy


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_converted_engines_follow_the_same_rule(engine: str) -> None:
    pytest.importorskip(engine)
    grey = torch.full((1, 4, 4), 102 / 255)
    for denoiser in (None, Turned()):
        ours, theirs = (
            SmoothedClassifier(Corner(), 0.25, denoiser, device="cpu", engine=name)
            .certify(grey, n0=50, n=300, seed=0)
            .stages
            for name in ("torch", engine)
        )
        assert ours == theirs
        assert set(ours[1].votes) == {1}
        assert 50 < ours[1].failed < 250
    broken = SmoothedClassifier(Corner(), 0.25, Turned(99.0), device="cpu", engine=engine)
    with pytest.raises(ClassifierError, match=r"NaN logits, .* for 20 of 20 noisy copies"):
        broken.certify(grey, n0=20, n=100)


@pytest.mark.parametrize("answer", [torch.zeros(2, 3) * 1j, torch.zeros(2, 1), (torch.zeros(2),)])
def test_an_answer_that_cannot_be_judged_is_refused(answer: Any) -> None:
    vote = EnsembleClassifier(lambda _: answer, Scripted([[1, 1], [1, 1]]), 0.5)
    with pytest.raises(ClassifierError, match=r"The classifier answered .* Return "):
        vote(torch.zeros(2, 1, 2, 2))


def test_what_is_not_made_of_modules_is_called_by_one_thread() -> None:
    samples = Scripted([[2] * 2000, [4] * 2000])
    one, image = torch.ones(1, 2, 2), torch.zeros(1, 2, 2).numpy()
    smoothed = SmoothedClassifier(logits, 0.25, samples, device="cpu", engine="auto")
    choice = smoothed.prepared.engine_for(image)
    assert choice.engine.workers == 1
    assert "is no torch module" in choice.notes[0]
    assert smoothed.certify(one, n0=10, n=100, seed=0).label == 2
    whole = SmoothedClassifier(Shown(), 0.25, samples, device="cpu")
    assert whole.prepared.pipeline.is_module
    assert whole.certify(one, n0=10, n=100, seed=0).label == 2


def test_a_classifier_elsewhere_is_asked_about_one_image_a_copy() -> None:
    samples = Scripted([[2], [4]])
    with pytest.raises(
        SettingError, match="a remote classifier needs a denoiser with one sample, got 2"
    ):
        SmoothedClassifier(load_classifier("simulated"), 0.25, samples)


def test_the_smoothed_classifier_votes() -> None:
    samples = Scripted([[2] * 2000, [4] * 2000, [4] * 2000])
    smoothed = SmoothedClassifier(logits, 0.25, samples)
    certificate = smoothed.certify(torch.zeros(1, 2, 2), n0=10, n=100, seed=0)
    assert certificate.label == 4
    noisy, denoised = shown_copies(smoothed.prepared, torch.zeros(1, 2, 2).numpy(), "0", 0, 2)
    assert (denoised == 2).all()
    assert noisy.shape == denoised.shape
