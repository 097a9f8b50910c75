"""The product compared with the reference: on the same copies both say the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.noise import noisy_copies
from denoised_smoothing.smoothing import SmoothedClassifier, reference

SEED = 0
TOLERANCE = 1e-13
"""Of radii: the error of noise on the grid, which the product subtracts."""
Denoiser = Callable[[Tensor, float], Tensor]


def network(channels: int, seed: int = 1) -> nn.Module:
    """Random weights, logits scaled such that the labels of noisy copies are well mixed."""
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.BatchNorm1d(5, affine=False, momentum=None),
    )
    with torch.no_grad():
        layers(torch.rand(200, channels, 4, 4) + 0.5 * torch.randn(200, channels, 4, 4))
    return layers.eval()


def brightness(images: Tensor) -> Tensor:
    """Labels 0 to 3 by the mean of each image, around 0.5."""
    return ((images.mean(dim=(1, 2, 3)) - 0.5) * 40 + 2).long().clamp(0, 3)


def unsure(images: Tensor) -> Tensor:
    """No label for the darkest copies."""
    labels = brightness(images)
    return torch.where(labels == 0, -1, labels)


def coin(images: Tensor) -> Tensor:
    """Two labels, about as frequent as each other on a grey image."""
    return (images[:, 0, 0, 0] > 0.5).long()


def half(noisy: Tensor, sigma: float) -> Tensor:
    """Halfway to grey, and more where sigma is high."""
    return 0.5 + (noisy - 0.5) / (2 + sigma)


def constant(label: int) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.full((len(images),), label)


def flat(value: float) -> np.ndarray:
    return image_forms.to_grid(np.full((1, 4, 4), value, np.float32))


def picture(seed: int, channels: int = 3) -> np.ndarray:
    levels = np.random.default_rng(seed).integers(0, 256, (channels, 4, 4))
    return image_forms.to_grid((levels / 255).astype(np.float32))


@dataclass(frozen=True)
class Case:
    classifier: Any
    image: np.ndarray
    denoiser: Denoiser | None = None
    sigma: float = 0.25
    n0: int = 50
    n: int = 1000
    alpha: float = 0.001


CASES = {
    "network": Case(network(3), picture(0), sigma=0.1),
    "network, another image": Case(network(3, seed=5), picture(1), sigma=0.1),
    "network behind a denoiser": Case(network(3, seed=2), picture(2), half),
    "network that abstains": Case(network(3), picture(0), sigma=0.5),
    "grey network": Case(network(1, seed=3), picture(2, channels=1), sigma=0.1),
    "labels": Case(brightness, flat(0.6)),
    "labels behind a denoiser": Case(brightness, flat(0.6), half),
    "all copies agree": Case(constant(2), flat(0.5), n=2000),
    "all copies agree, few copies": Case(constant(0), flat(0.5), n0=1, n=10, alpha=0.01),
    "too few copies": Case(constant(3), flat(0.5), n0=1, n=9),
    "a coin abstains": Case(coin, flat(0.5)),
    "equal votes": Case(coin, flat(0.5), n0=2, n=4),
    "failures": Case(unsure, flat(0.56)),
    "failures behind a denoiser": Case(unsure, flat(0.56), half),
    "nothing but failures": Case(constant(-1), flat(0.5), n=100),
    "large sigma and alpha": Case(brightness, flat(0.9), sigma=1.0, alpha=0.1),
    "one copy for selection": Case(brightness, flat(0.51), n0=1, n=300),
}


def same_copies(case: Case, stage: Stage, n: int) -> Tensor:
    """The first copies of a stage, as the product draws them."""
    return noisy_copies(
        torch.tensor(case.image), case.sigma, noise=Noise.GRID, seed=SEED,
        image_id=image_forms.digest(case.image), stage=stage, start=0, stop=n,
    )  # fmt: skip


def votes(case: Case, stage: Stage, n: int) -> Counter[int]:
    base = case.classifier
    if case.denoiser is not None:
        base = reference.base_classifier(case.classifier, case.denoiser, case.sigma)
    return reference.count_votes(base, same_copies(case, stage, n))


def product(case: Case) -> SmoothedClassifier:
    return SmoothedClassifier(case.classifier, case.sigma, case.denoiser, device="cpu")


def counter(counts: LabelCounts) -> Counter[int]:
    """Votes by label without zeros; failures under -1."""
    return +Counter({-1: counts.failed, **counts.votes})


@pytest.mark.parametrize("name", CASES)
def test_certify_says_what_the_reference_says(name: str) -> None:
    case = CASES[name]
    selection = votes(case, Stage.SELECTION, case.n0)
    estimation = votes(case, Stage.ESTIMATION, case.n)
    label, radius = reference.certify(selection, estimation, case.sigma, case.alpha)
    certificate = product(case).certify(
        case.image, n0=case.n0, n=case.n, alpha=case.alpha, seed=SEED
    )
    assert certificate.label == label
    assert certificate.radius == pytest.approx(radius, rel=0, abs=TOLERANCE)
    assert certificate.radius <= radius
    assert counter(certificate.selection) == selection
    if certificate.counts.n == case.n:  # else it ended early, as it abstains anyway
        assert counter(certificate.counts) == estimation
    else:
        assert label is None


@pytest.mark.parametrize("name", CASES)
def test_predict_says_what_the_reference_says(name: str) -> None:
    case = CASES[name]
    label = reference.predict(votes(case, Stage.PREDICTION, case.n), case.alpha)
    prediction = product(case).predict(case.image, n=case.n, alpha=case.alpha, seed=SEED)
    assert prediction.label == label


def test_the_cases_hold_labels_and_abstentions_ties_and_failures() -> None:
    certified = {
        name: reference.certify(
            votes(case, Stage.SELECTION, case.n0), votes(case, Stage.ESTIMATION, case.n),
            case.sigma, case.alpha,
        )
        for name, case in CASES.items()
    }  # fmt: skip
    labels = [label for label, _ in certified.values()]
    assert labels.count(None) >= 5
    assert len(set(labels)) >= 4
    tied = votes(CASES["equal votes"], Stage.SELECTION, 2)
    assert tied == {0: 1, 1: 1}
    assert votes(CASES["failures"], Stage.ESTIMATION, 1000)[-1] > 10
    assert votes(CASES["nothing but failures"], Stage.ESTIMATION, 100) == {-1: 100}


def test_of_equal_votes_the_lowest_label_counts() -> None:
    assert reference.top_labels(Counter({3: 5, 1: 5, 2: 7, -1: 9})) == [2, 1, 3]
    tied = LabelCounts("run", "image", Stage.SELECTION, (0, 5, 4, 5), 9)
    assert tied.top() == reference.top_labels(counter(tied))[0] == 1
    assert reference.predict(Counter({0: 500, 1: 500}), 0.001) is None


def test_its_own_noise_gives_the_same_law() -> None:
    """A linear classifier votes for label 1 with a probability that is known.

    The counts of 20,000 copies, the reference's own and the product's, each pass a two-sided
    binomial test at 1e-6: a correct program fails for one seed in 500,000 at most. The two
    radii are at most the exact one but for 2 * alpha = 2e-6.
    """
    sigma, n, alpha = 0.5, 20_000, 1e-6
    weights = torch.tensor([0.1, -0.7, 0.5, 0.5])  # of norm 1
    image = image_forms.to_grid(np.array([[[0.2, 0.4], [0.6, 0.7]]], np.float32))
    exact = 0.4
    bias = exact - float(torch.tensor(image).flatten() @ weights)

    def linear(images: Tensor) -> Tensor:
        return (images.flatten(1) @ weights + bias > 0).long()

    torch.manual_seed(0)
    copies = reference.noisy_copies(torch.tensor(image), sigma, n)
    own = reference.count_votes(linear, copies)
    certificate = SmoothedClassifier(linear, sigma, device="cpu").certify(
        image, n=n, alpha=alpha, seed=0
    )
    # Rounding adds 1/12 of a squared step to the variance, which changes p by less than 1e-5.
    p = stats.norm.cdf(exact / math.hypot(sigma, 1 / 255 / math.sqrt(12)))
    for ones in (own[1], certificate.counts.of(1)):
        assert stats.binomtest(ones, n, p).pvalue > 1e-6
    label, radius = reference.certify(Counter({1: 1}), own, sigma, alpha)
    assert label == certificate.label == 1
    assert 0.9 * exact < radius < exact
    assert 0.9 * exact < certificate.radius < exact


def test_copies_are_on_the_grid_and_not_clipped() -> None:
    torch.manual_seed(0)
    image = torch.tensor(flat(0.9))
    drawn = torch.stack(list(reference.noisy_copies(image, 0.25, 100)))
    levels = drawn * 255
    assert drawn.dtype == torch.float32
    assert (levels - levels.round()).abs().max() < 1e-3
    assert drawn.max() > 1.2
    assert (drawn - image).std() == pytest.approx(0.25, rel=0.05)
