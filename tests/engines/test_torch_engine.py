"""engines.py and what makes a denoiser of any callable."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.engines import (
    Pipeline,
    TorchEngine,
    choose_device,
    forward_size,
)
from denoised_smoothing.engines import (
    torch_engine as pytorch,
)
from denoised_smoothing.engines.locks import exact_float32, tracing
from denoised_smoothing.errors import ClassifierError, SettingError
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


def test_flags_of_cuda_are_set_while_any_thread_needs_them(
    request: pytest.FixtureRequest,
) -> None:
    """They belong to the process: one thread's end must not loosen what another computes."""
    before = torch.backends.cudnn.deterministic
    torch.set_float32_matmul_precision("high")  # as many a script does
    request.addfinalizer(lambda: torch.set_float32_matmul_precision("highest"))
    on_cpu = engine(lambda images: images.flatten(1) + torch.backends.cudnn.deterministic)
    assert torch.equal(on_cpu.answer(COPIES), COPIES.flatten(1))  # the flags are as they were
    assert before is False
    first, second = exact_float32(), exact_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.backends.cudnn.deterministic is True
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"
    second.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.deterministic is False


def test_nothing_is_traced_while_modules_run_and_nothing_runs_while_one_is_traced() -> None:
    """Tracing changes nn.Module for the whole process; an answer in another thread would fail."""
    said: list[str] = []

    def trace() -> None:
        with tracing(alone=True), tracing(alone=True), tracing():  # its own checks run modules
            said.append("traced")

    def run() -> None:
        with tracing():
            said.append("ran")

    with ThreadPoolExecutor(2) as pool:
        with tracing(), tracing():
            waiting = pool.submit(trace)
            pool.submit(run).result(10)  # not held up by one that waits to trace
            assert said == ["ran"]
        waiting.result(10)
        with tracing(alone=True):
            waiting = pool.submit(run)
            time.sleep(0.05)
            assert said == ["ran", "traced"]
        waiting.result(10)
    assert said == ["ran", "traced", "ran"]


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
            (lambda images: images, r"answered \[6, 3, 4, 4\] images with .* \[6, 3, 4, 4\], exp"),
            (lambda images: images[:2].flatten(1), r"shape \[2, 48\], .* \[6, K\] or labels \[6\]"),
            (lambda images: images.sum(), r"a tensor of shape \[\], expected logits"),
            (lambda images: images.tolist(), "classifier answered with list, expected a torch.Ten"),
            (lambda images: (images,), "classifier answered with tuple, expected a torch.Tensor"),
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
            match=r"classifier failed on images of shape \[6, 3, 4, 4\] with RuntimeError: .*\.",
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
            (lambda x, _: x.numpy(), "denoiser answered with ndarray, expected a torch.Tensor"),
        ],
    )
    def test_a_denoiser_must_keep_the_shape(
        self, denoiser: Callable[[Tensor, float], Any], message: str
    ) -> None:
        with pytest.raises(ClassifierError, match=message):
            engine(nn.Flatten(), denoiser).answer(COPIES)


class TestChooseDevice:
    def test_auto_takes_an_accelerator_if_there_is_one(self) -> None:
        assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")

    @pytest.mark.parametrize("name", ["cpu", CPU])
    def test_takes_a_name_or_a_device(self, name: str | torch.device) -> None:
        assert choose_device(name) == CPU

    @pytest.mark.parametrize("name", ["cuda:99", "hpu:99", "meta", "gpu", "", "cpu:x"])
    def test_a_device_that_is_not_there_is_refused(self, name: str) -> None:
        with pytest.raises(SettingError, match=f"device '{name}' is not available here .*Use auto"):
            choose_device(name)


class TestForwardSize:
    @pytest.mark.parametrize(
        ("side", "on_cpu", "on_cuda"),
        [(2, 200, 4000), (8, 200, 4000), (32, 50, 1000), (64, 12, 250), (224, 4, 20), (2000, 4, 4)],
    )
    def test_is_pinned(self, side: int, on_cpu: int, on_cuda: int) -> None:
        """Stored runs record it and refuse to go on with another."""
        assert forward_size(side * side, CPU) == on_cpu
        assert forward_size(side * side, torch.device("cuda")) == on_cuda


class Blind(nn.Module):
    def forward(self, noisy: Tensor) -> Tensor:
        return noisy + 1


class Told(nn.Module):
    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        return noisy + sigma


class Method:
    def denoise(self, noisy: Tensor) -> Tensor:
        return noisy + 1

    def __call__(self, noisy: Tensor, sigma: float) -> Tensor:
        return noisy + sigma


class TestAsDenoiser:
    @pytest.mark.parametrize(
        "blind",
        [
            Blind(),
            nn.Sequential(Blind()),
            Method().denoise,
            lambda noisy: noisy + 1,
            lambda noisy, *, strength=1: noisy + strength,
            functools.partial(lambda strength, noisy: noisy + strength, 1),
        ],
    )
    def test_leaves_sigma_out_where_it_is_not_taken(self, blind: Callable[..., Tensor]) -> None:
        assert torch.equal(as_denoiser(blind)(COPIES, 0.5), COPIES + 1)

    @pytest.mark.parametrize(
        "told",
        [
            Told(),
            Method(),
            Told().forward,
            lambda noisy, sigma: noisy + sigma,
            lambda noisy, sigma=0.1: noisy + sigma,
            lambda *inputs: inputs[0] + inputs[1],
            torch.add,  # has no signature to be read
        ],
    )
    def test_is_the_callable_itself_where_sigma_is_taken(self, told: Callable[..., Tensor]) -> None:
        assert as_denoiser(told) is told
        assert torch.equal(as_denoiser(told)(COPIES, 0.5), COPIES + 0.5)

    def test_a_wrapped_module_is_still_put_into_evaluation_mode(self) -> None:
        module = nn.Dropout(0.5)
        denoised = Pipeline(nn.Flatten(), as_denoiser(module), 0.25, CPU).denoise(COPIES)
        assert torch.equal(denoised, COPIES)
        assert not module.training
