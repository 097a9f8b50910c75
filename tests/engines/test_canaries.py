"""Canaries: which passes are compared, and what counts as a difference."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from denoised_smoothing.certificates.parameters import Precision
from denoised_smoothing.engines.canaries import EVERY, FIRST, Canaries
from denoised_smoothing.engines.comparison import (
    Comparison,
    KnownAnswers,
    among_others,
    in_first_order,
)
from denoised_smoothing.engines.engine import Engine


class Fake(Engine):
    """An engine that answers nothing."""

    precision = Precision.FLOAT32

    def answer(self, copies: Tensor) -> Tensor:
        raise NotImplementedError

    @classmethod
    def version(cls) -> str:
        return "0"


def engine() -> Engine:
    return Fake()


def due(canaries: Canaries, of: Engine, passes: int) -> list[int]:
    return [number for number in range(passes) if canaries.is_due(of)]


def test_the_first_passes_of_each_engine_and_then_one_in_500() -> None:
    canaries, first, second = Canaries(), engine(), engine()
    assert due(canaries, first, 1501) == [0, 1, 8, 64, 500, 1000, 1500]
    assert (FIRST, EVERY) == ((0, 1, 8, 64), 500)
    assert due(canaries, second, 3) == [0, 1]
    canaries.restart()
    assert due(canaries, first, 3) == [0, 1]


def test_none_of_a_stochastic_classifier() -> None:
    assert due(Canaries(stochastic=True), engine(), 600) == []


def logits(batch: Tensor) -> Tensor:
    """A function of each copy."""
    return batch.flatten(1)[:, :3] * 10


def known_of(count: int) -> KnownAnswers:
    copies = torch.rand(count, 1, 2, 2)
    return KnownAnswers(copies, logits(copies), Comparison(Precision.FLOAT32))


@pytest.mark.parametrize("batch", [7, 8])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_counted_and_known_answers_are_compared(batch: int, count: int) -> None:
    canaries, known, copies = Canaries(), known_of(count), torch.rand(batch, 1, 2, 2)
    second = logits(among_others(copies, known.copies))
    assert canaries.differing(engine(), logits(copies), second, batch, known) == []
    compared = -(-batch // 2) + min(count, batch // 2)
    assert (canaries.passes, canaries.copies) == (1, compared)
    canaries.add(3, 10)
    assert (canaries.passes, canaries.copies) == (4, 10 + compared)


@pytest.mark.parametrize("batch", [7, 8])
def test_the_rows_that_differ_are_named_except_for_padding(batch: int) -> None:
    known, copies = known_of(50), torch.rand(batch, 1, 2, 2)
    for row in range(batch):
        batches = among_others(copies, known.copies)
        changed = in_first_order(batches)
        changed[row] += 9 * torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
        second = logits(changed.flip(0).roll(batch % 2, 0))
        first = logits(copies)
        assert Canaries().differing(engine(), first, second, batch, known) == [row]
        expected = [row] if row < 3 or row % 2 else []
        assert Canaries().differing(engine(), first, second, 3, known) == expected


def test_labels_may_change_in_rare_cases_by_engine() -> None:
    canaries, labels = Canaries(), torch.zeros(200, dtype=torch.long)
    known = KnownAnswers(torch.rand(8, 1, 2, 2), labels[:8], Comparison(Precision.FLOAT32))
    changed = labels.clone()
    changed[199] = 1  # the answer to the first copy
    one, other = engine(), engine()
    found = [canaries.differing(one, labels, changed, 200, known) for _ in range(30)]
    assert found[0] == found[1] == []
    assert [0] in found
    assert canaries.differing(other, labels, changed, 200, known) == []


def test_a_worker_counts_its_own() -> None:
    canaries = Canaries(stochastic=True)
    canaries.add(2, 3)
    copy: Any = pickle.loads(pickle.dumps(canaries))
    assert (copy.passes, copy.copies) == (0, 0)
    assert due(copy, engine(), 3) == []
