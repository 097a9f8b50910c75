"""The contract of a base classifier: what is refused, what gets one thread, and what is shared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from denoised_smoothing.certificates.parameters import Contract, EngineName, Noise, Precision
from denoised_smoothing.engines.contract import PROBED, ContractCheck
from denoised_smoothing.engines.engine import cores
from denoised_smoothing.engines.pipeline import PassThrough, Pipeline
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.engines.torch_engine import TorchEngine
from denoised_smoothing.errors import ContractError

from .breaches import ONE_THREAD, REFUSED, SHARED, LessTheMean, judged
from .samples import OPENVINO, Blind

CPU = torch.device("cpu")
GREY = np.full((1, 4, 4), 128 / 255, np.float32)


def prepared(
    classifier: Any, denoiser: Any = None, engine: EngineName = EngineName.TORCH, **options: Any
) -> PreparedPipeline:
    return PreparedPipeline(
        classifier, denoiser, 0.25, Noise.GRID, engine, Precision.FLOAT32, CPU, **options
    )


@pytest.mark.parametrize(("made", "message"), REFUSED.values(), ids=list(REFUSED))
def test_an_answer_that_depends_on_more_than_its_copy_is_refused(
    made: Callable[[], object], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        prepared(made()).engine_for(GREY)


@pytest.mark.parametrize("made", ONE_THREAD.values(), ids=list(ONE_THREAD))
def test_a_pipeline_that_keeps_state_is_called_by_one_thread(made: Callable[[], object]) -> None:
    assert prepared(made()).engine_for(GREY).engine.workers == 1


@pytest.mark.parametrize("made", SHARED.values(), ids=list(SHARED))
def test_any_other_module_is_called_by_all_threads(made: Callable[[], object]) -> None:
    choice = prepared(made()).engine_for(GREY)
    assert choice.engine.workers == cores()
    assert choice.notes == ()


@pytest.mark.parametrize("made", [*SHARED.values(), *ONE_THREAD.values()])
def test_the_check_takes_at_most_8_passes_of_few_copies(made: Callable[[], object]) -> None:
    sizes: list[int] = []
    answer = TorchEngine.answer

    def counted(engine: TorchEngine, copies: Tensor) -> Tensor:
        sizes.append(len(copies))
        return answer(engine, copies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "answer", counted)
        prepared(made()).engine_for(GREY)
    assert 3 <= len(sizes) <= 6
    assert set(sizes) == {PROBED}


def test_the_note_names_what_changes() -> None:
    for name, expected in {
        "counter of calls": "changes 'classifier.calls' in each call, so one thread calls it",
        "state in a closure": "shares values between calls",
    }.items():
        pipeline = prepared(ONE_THREAD[name]())
        assert pipeline.pipeline.may_be_shared, "several threads call it until it is checked"
        choice = pipeline.engine_for(GREY)
        assert choice.engine.workers == 1
        [note] = choice.notes
        assert expected in note


def test_a_shift_of_all_pixels_by_the_batch_is_refused_in_front_of_a_remote_classifier() -> None:
    class Shifted(Blind):
        def forward(self, noisy: Tensor, *more: object) -> Tensor:
            return noisy - noisy.mean() + 0.5

    with pytest.raises(ContractError, match="copies of other images"):
        prepared(PassThrough(), Shifted()).engine_for(GREY)


def test_labels_of_the_batch_are_refused_also_on_an_image_far_from_the_plane() -> None:
    bright = np.full((1, 4, 4), 250 / 255, np.float32)
    made, message = REFUSED["mean of the batch, with labels"]
    with pytest.raises(ContractError, match=message):
        prepared(made()).engine_for(bright)


def test_one_label_for_all_copies_shows_nothing_and_gets_one_thread() -> None:
    class One(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), dtype=torch.long)

    choice = prepared(One()).engine_for(GREY)
    assert choice.engine.workers == 1
    assert "one label to all copies of the check" in choice.notes[0]


def test_the_mode_of_a_module_is_checked_again() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Flatten())
    pipeline = prepared(module)
    pipeline.engine_for(GREY)
    module.train()
    with pytest.raises(ContractError, match="classified again"):
        pipeline.engine_for(GREY)


def test_the_denoiser_is_checked_too() -> None:
    class Centred(Blind):
        def forward(self, noisy: Tensor, *more: object) -> Tensor:
            return noisy - noisy.mean(0) + 0.5

    with pytest.raises(ContractError, match=r"begins in the denoiser|module '.*' .* of the denois"):
        prepared(SHARED["module"](), Centred()).engine_for(GREY)
    with pytest.raises(ContractError, match="copies of other images"):
        prepared(PassThrough(), Centred()).engine_for(GREY)


def test_it_is_checked_again_when_weights_change() -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.share = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            return judged(images - self.share * (images.mean(0) - 0.5))

    switch = Switch()
    pipeline = prepared(switch)
    pipeline.engine_for(GREY)
    with torch.no_grad():
        switch.share.fill_(1)
    with pytest.raises(ContractError):
        pipeline.engine_for(GREY)


@OPENVINO
@pytest.mark.parametrize("engine", [EngineName.OPENVINO, EngineName.ONNXRUNTIME, EngineName.AUTO])
def test_converted_engines_are_checked_as_they_run(engine: EngineName) -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images - images.mean(0)).flatten(1)[:, :5]

    with pytest.raises(ContractError, match="copies of other images"):
        prepared(Mean(), engine=engine).engine_for(GREY)


def test_two_pipelines_with_one_stateful_part_never_run_at_once() -> None:
    module = ONE_THREAD["state in an attribute"]()
    first, second = (prepared(module).engine_for(GREY).engine for _ in range(2))
    assert isinstance(first, TorchEngine)
    assert isinstance(second, TorchEngine)
    assert first._turn is second._turn


def test_each_contract_is_named() -> None:
    assert prepared(judged).contract is Contract.CHECKED
    assert prepared(judged, stochastic=True).contract is Contract.STOCHASTIC
    assert prepared(PassThrough()).contract is Contract.ASSUMED


class TestStochastic:
    """Allowed on request, unless copies share their randomness."""

    @pytest.mark.parametrize(
        "answer",
        [
            lambda x: judged(functional.dropout(x, 0.5, training=True)),
            lambda x: (torch.rand(len(x)) > 0.9).long(),
            lambda x: torch.randint(0, 3, (len(x),)),
            lambda x: judged(x) + torch.randn(len(x), 3),
            judged,
        ],
        ids=["dropout", "rare label", "labels", "noise on logits", "not random at all"],
    )
    def test_independent_answers_are_allowed(self, answer: Callable[[Tensor], Tensor]) -> None:
        choice = prepared(answer, stochastic=True).engine_for(GREY)
        assert choice.engine.workers == 1

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (
                lambda x: judged(x * (torch.rand(1, 1, 4, 4) > 0.5)),
                "randomness that they share",
            ),
            (
                lambda x: torch.randint(0, 3, (1,)).expand(len(x)),
                "randomness that they share",
            ),
            (lambda x: judged(x) + in_groups(x, 2), "randomness that they share"),
            (lambda x: judged(x) + in_groups(x, 3), "randomness that they share"),
            (lambda x: judged(x) + in_groups(x, 5), "randomness that they share"),
            (lambda x: reseeded(x), "repeats in every batch"),
            (lambda x: judged(x + torch.randn(1)), "randomness that they share"),
            (lambda x: judged(x.mean(0).expand_as(x)), "depends on other copies of the batch"),
            (
                lambda x: (
                    judged(functional.batch_norm(x, None, None, training=True) + 0.5)
                    + torch.randn(len(x), 3)
                ),
                "depends on other copies of the batch",
            ),
        ],
        ids=[
            "one mask",
            "one label",
            "groups of 2",
            "groups of 3",
            "groups of 5",
            "seeded in forward",
            "one shift",
            "mean",
            "batch_norm",
        ],
    )
    def test_shared_randomness_is_refused(
        self, answer: Callable[[Tensor], Tensor], message: str
    ) -> None:
        with pytest.raises(ContractError, match=message):
            prepared(answer, stochastic=True).engine_for(GREY)

    def test_passes_too_small_to_compare_are_refused(self) -> None:
        pipeline = prepared(judged, stochastic=True)
        pipeline.use_engine(EngineName.TORCH, 2)
        with pytest.raises(ContractError, match="at least 3 copies, got 2"):
            pipeline.engine_for(GREY)

    def test_batch_statistics_are_refused_still(self) -> None:
        made, message = REFUSED["BatchNorm without running statistics"]
        with pytest.raises(ContractError, match=message):
            prepared(made(), stochastic=True).engine_for(GREY)

    def test_no_two_processes_draw_the_same(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        prepared(judged, stochastic=True).engine_for(GREY)
        assert torch.rand(1) != expected


def in_groups(images: Tensor, size: int) -> Tensor:
    """Noise on logits that neighbours share."""
    drawn = torch.randn(-(-len(images) // size), 3)
    return drawn.repeat_interleave(size, 0)[: len(images)]


def reseeded(images: Tensor) -> Tensor:
    torch.manual_seed(0)
    return judged(functional.dropout(images, 0.5, training=True))


def test_so_rare_changes_of_labels_are_accepted_and_frequent_ones_refused() -> None:
    changed = [0]

    def labels(images: Tensor) -> Tensor:
        answer = (judged(images)[:, 1] > 0).long()
        changed[0] += 1
        answer[: 1 if frequent is False else 8] = changed[0] % 2
        return answer

    frequent = False
    prepared(labels).engine_for(GREY)
    frequent = True
    with pytest.raises(ContractError, match="not a function of that copy"):
        prepared(labels).engine_for(GREY)


def test_a_difference_in_one_of_many_rows_is_found() -> None:
    pipeline = prepared(SHARED["module"]())
    choice = pipeline.engine_for(GREY)
    check = ContractCheck(
        choice.engine, pipeline.pipeline, partial(pipeline._sample, GREY), choice.forward
    )
    first = check._answer(check.copies)
    answer = first.clone()
    answer[7] = answer[7].roll(1)
    check._expect(first, first.clone(), "classified again", slice(None), check.copies)
    with pytest.raises(ContractError, match="1 of 16 copies"):
        check._expect(first, answer, "classified again", slice(None), check.copies)


@pytest.mark.parametrize("made", [made for made, _ in REFUSED.values()], ids=list(REFUSED))
def test_a_refusal_takes_at_most_8_passes(
    made: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls, forward = prepared(made()), [], Pipeline.forward

    def counted(pipeline: Pipeline, copies: Tensor) -> Tensor:
        calls.append(len(copies))
        return forward(pipeline, copies)

    monkeypatch.setattr(Pipeline, "forward", counted)
    with pytest.raises(ContractError):
        whole.engine_for(GREY)
    assert len(calls) <= 8


def test_compiled_code_takes_turns_as_its_modules_do() -> None:
    module = ONE_THREAD["state in an attribute"]()
    pipeline = Pipeline(module, None, 0.25, CPU)  # type: ignore[arg-type]
    engine = TorchEngine(pipeline, CPU, compiled=True)
    engine._run = pipeline  # what torch.compile would return, without its minute of work
    sample = partial(prepared(module)._sample, GREY)
    ContractCheck(engine, pipeline, sample, 16).run()
    assert engine.is_alone
    engine = TorchEngine(
        pipeline := Pipeline(SHARED["module"](), None, 0.25, CPU), CPU, compiled=True
    )
    engine._run = pipeline
    ContractCheck(engine, pipeline, sample, 16).run()
    assert not engine.is_alone


def test_answers_are_known_before_the_count() -> None:
    choice = prepared(judged).engine_for(GREY)
    assert choice.known is not None
    assert len(choice.known.copies) == PROBED // 2
    assert torch.allclose(judged(choice.known.copies), choice.known.answers)
    assert prepared(judged, stochastic=True).engine_for(GREY).known is None


def test_batches_of_one_copy_have_no_mates() -> None:
    pipeline = prepared(LessTheMean())
    pipeline.use_engine(EngineName.TORCH, 1)
    choice = pipeline.engine_for(GREY)
    assert choice.forward == 1
