"""Canaries: which passes are compared, and what counts as a difference."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import Tensor

from denoised_smoothing.certificates.parameters import Precision
from denoised_smoothing.engines.canaries import EVERY, FIRST, Canaries
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
    assert due(canaries, first, 1501) == [0, 1, 500, 1000, 1500]
    assert (FIRST, EVERY) == (2, 500)
    assert due(canaries, second, 3) == [0, 1]
    canaries.restart()
    assert due(canaries, first, 3) == [0, 1]


def test_none_of_a_stochastic_classifier() -> None:
    assert due(Canaries(stochastic=True), engine(), 600) == []


def test_every_other_copy_is_in_other_company_and_in_another_place() -> None:
    copies = torch.rand(5, 1, 2, 2)
    kept = copies.clone()
    batch = Canaries.batch(copies)
    assert torch.equal(copies, kept)
    for row in range(5):
        expected = copies[row] if row % 2 == 0 else 1 - copies[row]
        assert torch.equal(batch[4 - row], expected)


def answers(copies: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of a function of each copy: to a batch, and to the one that it is compared with."""

    def logits(batch: Tensor) -> Tensor:
        return batch.flatten(1)[:, :3] * 10

    return logits(copies), logits(Canaries.batch(copies))


def test_equal_answers_are_counted() -> None:
    canaries = Canaries()
    first, second = answers(torch.rand(8, 1, 2, 2))
    assert canaries.differing(engine(), first, second, 8) == []
    assert canaries.differing(engine(), first, second, 5) == []
    assert (canaries.passes, canaries.copies) == (2, 4 + 3)
    canaries.add(3, 10)
    assert (canaries.passes, canaries.copies) == (5, 17)


def test_the_rows_that_differ_are_named_except_for_padding() -> None:
    first, second = answers(torch.rand(8, 1, 2, 2))
    second[7 - 2] += torch.tensor([9.0, 0, 0])
    second[7 - 6] += torch.tensor([0, 9.0, 0])
    assert Canaries().differing(engine(), first, second, 8) == [2, 6]
    assert Canaries().differing(engine(), first, second, 6) == [2]
    assert Canaries().differing(engine(), first, second, 2) == []


def test_labels_may_change_in_rare_cases() -> None:
    canaries, labels = Canaries(), torch.zeros(200, dtype=torch.long)
    changed = labels.clone()
    changed[199] = 1  # the answer to the first copy
    found = [canaries.differing(engine(), labels, changed, 200) for _ in range(30)]
    assert found[0] == found[1] == []
    assert [0] in found


def test_a_worker_counts_its_own() -> None:
    canaries = Canaries(stochastic=True)
    canaries.add(2, 3)
    copy: Any = pickle.loads(pickle.dumps(canaries))
    assert (copy.passes, copy.copies) == (0, 0)
    assert due(copy, engine(), 3) == []
