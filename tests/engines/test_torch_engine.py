"""TorchEngine: answers, precision, threads, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.engines import (
    torch_engine as pytorch,
)
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.engines.torch_engine import TorchEngine
from denoised_smoothing.errors import ClassifierError
from denoised_smoothing.models.denoisers.base import as_denoiser

CPU = torch.device("cpu")
COPIES = torch.linspace(-1, 2, 6 * 3 * 4 * 4).reshape(6, 3, 4, 4)


def engine(classifier: Any, denoiser: Any = None, sigma: float = 0.25) -> TorchEngine:
    return TorchEngine(Pipeline(classifier, denoiser, sigma, CPU), CPU)


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class TestTorchEngine:
    def test_classifies_what_the_denoiser_makes_of_the_copies(self) -> None:
        seen = []

        def denoiser(noisy: Tensor, sigma: float) -> Tensor:
            seen.append((noisy, sigma))
            return noisy / 2

        pipeline = Pipeline(lambda images: images.flatten(1), denoiser, 0.5, CPU)
        assert torch.equal(TorchEngine(pipeline, CPU).answer(COPIES), COPIES.flatten(1) / 2)
        assert torch.equal(pipeline.denoise(COPIES), COPIES / 2)
        assert [sigma for _, sigma in seen] == [0.5, 0.5]
        assert all(torch.equal(noisy, COPIES) for noisy, _ in seen)

    def test_without_a_denoiser_the_classifier_sees_the_copies(self) -> None:
        pipeline = Pipeline(lambda images: images.flatten(1), None, 0.5, CPU)
        assert torch.equal(pipeline.denoise(COPIES), COPIES)
        assert torch.equal(TorchEngine(pipeline, CPU).answer(COPIES), COPIES.flatten(1))

    def test_puts_modules_into_evaluation_mode_and_takes_no_gradients(self) -> None:
        classifier, denoiser = convolutional().train(), nn.BatchNorm2d(3).train()
        pipeline = engine(classifier, as_denoiser(denoiser))
        answers = [pipeline.answer(COPIES) for _ in range(2)]
        assert torch.equal(*answers)  # dropout would differ, batch statistics would drift
        assert not answers[0].requires_grad
        assert not any(part.training for part in (*classifier.modules(), *denoiser.modules()))

    def test_the_layout_is_channels_last(self) -> None:
        layouts = []

        def classifier(images: Tensor) -> Tensor:
            layouts.append(images.is_contiguous(memory_format=torch.channels_last))
            return images.flatten(1)

        engine(classifier).answer(COPIES)
        assert layouts == [True]

    def test_the_place_of_a_copy_in_the_batch_does_not_change_its_logits(self) -> None:
        """Bit by bit: counts of a resumed run rest on it, whose batches are cut differently."""
        pipeline = engine(convolutional())
        batch = torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        logits = pipeline.answer(batch)
        for order in (torch.arange(49, -1, -1), torch.arange(50).roll(17)):
            assert torch.equal(pipeline.answer(batch[order]), logits[order])
        neighbours = torch.cat([batch[:7], torch.zeros(43, 3, 32, 32)])
        assert torch.equal(pipeline.answer(neighbours)[:7], logits[:7])

    def test_a_module_with_a_hook_is_called_by_one_thread(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hook may keep what it sees, and may not expect several batches at once."""
        monkeypatch.setattr(pytorch, "cores", lambda: 2)
        classifier = convolutional()
        assert engine(classifier).workers == 2
        classifier[0].register_forward_hook(lambda *_: None)
        assert engine(classifier).workers == 1

    def test_states_what_counts_depend_on(self) -> None:
        identity = engine(nn.Flatten()).identity()
        assert identity["engine"] == "torch"
        assert identity["engine_version"] == torch.__version__
        assert identity["precision"] == "float32"
        assert torch.backends.cpu.get_cpu_capability() in identity["processor"]

    @pytest.mark.parametrize(
        ("classifier", "message"),
        [
            (
                lambda images: images,
                r"with a tensor of shape \[6, 3, 4, 4\] and torch.float32, exp",
            ),
            (
                lambda images: images[:2].flatten(1),
                r"shape \[2, 48\] .* \[6, K\] .* labels \[6\]\.",
            ),
            (lambda images: images.sum(), r"a tensor of shape \[\] and torch.float32, expected"),
            (
                lambda images: images.tolist(),
                "classifier answered with list, expected a dense torch",
            ),
            (lambda images: (images,), "classifier answered with tuple, expected a dense tor"),
        ],
    )
    def test_an_unusable_answer_is_named(
        self, classifier: Callable[[Tensor], Any], message: str
    ) -> None:
        with pytest.raises(ClassifierError, match=message):
            engine(classifier).answer(COPIES)

    def test_the_cause_of_a_failure_is_kept(self) -> None:
        with pytest.raises(
            ClassifierError,
            match=r"failed on images of shape \[6, 3, 4, 4\] and torch.float32 with RuntimeError: ",
        ) as caught:
            engine(nn.Conv2d(1, 8, 3)).answer(COPIES)
        assert isinstance(caught.value.__cause__, RuntimeError)

        def confused(images: Tensor) -> Tensor:
            return {}["no such key"]

        with pytest.raises(ClassifierError, match="with KeyError: 'no such key'"):
            engine(confused).answer(COPIES)
        with pytest.raises(ClassifierError, match=r"denoiser failed on images of shape"):
            engine(nn.Flatten(), as_denoiser(nn.Conv2d(1, 1, 3))).answer(COPIES)

    @pytest.mark.parametrize(
        ("denoiser", "message"),
        [
            (
                lambda x, _: x[..., :2],
                r"denoiser turned .* \[6, 3, 4, 4\] into \[6, 3, 4, 2\]\. Use",
            ),
            (lambda x, _: x.numpy(), "denoiser answered with ndarray, expected a dense"),
        ],
    )
    def test_a_denoiser_must_keep_the_shape(
        self, denoiser: Callable[[Tensor, float], Any], message: str
    ) -> None:
        with pytest.raises(ClassifierError, match=message):
            engine(nn.Flatten(), denoiser).answer(COPIES)
