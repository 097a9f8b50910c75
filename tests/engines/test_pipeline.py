"""Folding batch normalisation: only where nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.engines import pipeline as pipelines
from denoised_smoothing.engines.pipeline import FOLD_TOLERANCE, Pipeline, agrees, folded
from denoised_smoothing.models.denoisers.base import as_denoiser

from .samples import SIGMA, Labels, Winding, convolutional, noisy, unet

CPU = torch.device("cpu")
COPIES = noisy(8)


def made(classifier: Any, denoiser: Any = None) -> Pipeline:
    return Pipeline(classifier, denoiser, SIGMA, CPU)


def normalisations(pipeline: Pipeline) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in pipeline.modules())


@pytest.mark.parametrize("classifier", [convolutional, Labels, Winding])
def test_batch_normalisation_is_folded_in_a_copy(classifier: Any) -> None:
    """Of a part as well, where the whole cannot be traced."""
    pipeline = made(classifier(), unet())
    before = normalisations(pipeline)
    with torch.inference_mode():
        expected = pipeline(COPIES)
        light = folded(pipeline, COPIES)
        assert normalisations(light) < before == normalisations(pipeline)
        assert agrees(light(COPIES.flip(0)), expected.flip(0), FOLD_TOLERANCE)
        assert torch.equal(pipeline(COPIES), expected)


def test_normalisation_with_an_activation_of_timm_is_folded() -> None:
    layers = pytest.importorskip("timm.layers")
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), layers.BatchNormAct2d(8, act_layer=nn.ReLU6),
        nn.Conv2d(8, 4, 3), layers.BatchNormAct2d(4, apply_act=False), nn.Flatten(),
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, -1.0, 1.0)
    pipeline = made(network)
    with torch.inference_mode():
        light, expected = folded(pipeline, COPIES), pipeline(COPIES)
        assert (normalisations(light), normalisations(pipeline)) == (0, 2)
        assert agrees(light(COPIES), expected, FOLD_TOLERANCE)
        assert torch.equal(pipeline(COPIES), expected)


def test_folding_that_changes_logits_is_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(module: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))

    monkeypatch.setattr(pipelines, "fuse", bad)
    pipeline = made(convolutional())
    assert folded(pipeline, COPIES) is pipeline


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_prevent_it(kind: str) -> None:
    """A copy would not call them, or call those of somebody else."""
    classifier = convolutional()
    getattr(classifier[0], kind)(lambda *_: None)
    pipeline = made(classifier)
    assert folded(pipeline, COPIES) is pipeline


def test_what_has_nothing_to_fold_stays_as_it_is() -> None:
    for classifier, denoiser in (
        (nn.Flatten(), None),
        (lambda images: convolutional()(images), None),
        (convolutional(), lambda noisy, sigma: noisy),
    ):
        pipeline = made(classifier, denoiser)
        assert folded(pipeline, COPIES) is pipeline


@pytest.mark.parametrize(
    ("answer", "expected", "equal"),
    [
        ([[1.0, 2.0]], [[1.0, 2.001]], True),
        ([[1.0, 2.0]], [[1.0, 2.01]], False),
        ([[0.0, 0.0]], [[0.0, 0.0]], True),
        ([[1.0, float("nan")]], [[1.0, 2.0]], False),
        ([[-torch.inf, 2.0]], [[-torch.inf, 2.001]], True),
        ([[-torch.inf, 2.0]], [[-torch.inf, 2.01]], False),
        ([[3e38, 2.0]], [[torch.inf, 2.0]], False),
        ([[-torch.inf, 2.0]], [[torch.inf, 2.0]], False),
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 3], False),
        ([1, 2], [[1.0, 2.0]], False),
    ],
)
def test_agreement_is_relative_to_the_largest_logit(
    answer: Any, expected: Any, equal: bool
) -> None:
    assert agrees(torch.tensor(answer), torch.tensor(expected), 1e-3) is equal


def test_the_state_changes_when_a_weight_does() -> None:
    classifier = convolutional()
    pipeline = made(classifier)
    state = pipeline.state()
    assert pipeline.state() == state
    with torch.no_grad():
        classifier[0].weight[0] += 1
    changed = pipeline.state()
    assert changed != state
    classifier[0].weight.data[0] += 1  # which no version of the tensor tells
    again = pipeline.state()
    assert again not in (state, changed)
    classifier[0].weight.data.copy_(classifier[0].weight.data.flip(0))  # whose sum stays
    assert pipeline.state() not in (state, changed, again)


def test_the_state_of_weights_that_are_not_numbers_is_equal_to_itself() -> None:
    classifier = nn.Conv2d(3, 4, 1)
    classifier.register_buffer("empty", torch.full((2,), float("nan")))
    classifier.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
    pipeline = made(classifier)
    assert pipeline.state() == pipeline.state()


class Iterated(nn.Module):
    """What folding makes of its parts cannot be iterated over, and it cannot be traced whole."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        if images.mean() > 1e9:
            raise ValueError
        for layer in self.features:
            images = layer(images)
        return images.mean(dim=(2, 3))


def test_a_module_that_cannot_be_folded_is_left_as_it_is() -> None:
    pipeline = made(Iterated())
    copies = torch.rand(4, 3, 8, 8)
    assert folded(pipeline, copies)(copies).shape == (4, 4)


def test_a_wrapped_module_is_still_put_into_evaluation_mode() -> None:
    module = nn.Dropout(0.5)
    denoised = made(nn.Flatten(), as_denoiser(module)).denoise(COPIES)
    assert torch.equal(denoised, COPIES)
    assert not module.training


@pytest.mark.parametrize("wrap", [lambda y: {"logits": y}, lambda y: (y, y[..., None])])
def test_logits_in_an_answer_that_holds_more(wrap: Any) -> None:
    """In both forms of the pipeline: the checked one, and the one that converters trace."""
    inner = convolutional()

    class Wrapped(nn.Module):
        def forward(self, images: Tensor) -> object:
            return wrap(inner(images))

    pipeline = made(Wrapped())
    with torch.inference_mode():
        expected = made(inner)(COPIES)
        assert torch.equal(pipeline(COPIES), expected)
        assert torch.equal(pipelines.TraceablePipeline(pipeline)(COPIES), expected)
