"""Two answers to the same copies: rounding or another answer, and other company."""

from __future__ import annotations

import pytest
import torch

from denoised_smoothing.certificates.parameters import Precision
from denoised_smoothing.engines.comparison import (
    CHANGED_LABELS,
    FALSE_ALARM,
    ROUNDING,
    Comparison,
    among_others,
    in_first_order,
)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_every_other_copy_is_among_others_and_at_another_place(count: int) -> None:
    copies, others = torch.rand(count, 1, 2, 2), torch.rand(3, 1, 2, 2)
    kept = copies.clone()
    batch = among_others(copies, others)
    assert torch.equal(copies, kept)
    again = in_first_order(batch)
    assert torch.equal(again[::2], copies[::2])
    assert torch.equal(again[1::2], others[torch.arange(count // 2) % 3])
    places = in_first_order(torch.arange(count)).tolist()
    moved = [place % 2 != row % 2 for row, place in enumerate(places)]
    assert all(moved) if count % 2 == 0 else all(moved[1:])


class TestComparison:
    """What counts as another answer."""

    compare = Comparison(Precision.FLOAT32)

    def test_rounding_is_none(self) -> None:
        expected = torch.tensor([[10.0, 0.0, -10.0]] * 4 + [[1.0, 1.0, 1.0]])
        within = ROUNDING[Precision.FLOAT32] * 10 * 0.9
        assert not self.compare.differing(expected + torch.tensor([0, within, 0]), expected).any()
        beyond = ROUNDING[Precision.FLOAT32] * 10 * 1.1
        assert self.compare.differing(expected + torch.tensor([0, beyond, 0]), expected).all()

    def test_huge_logits_of_some_copies_hide_no_difference_of_others(self) -> None:
        expected = torch.tensor([[5.0, 0.0], [1e9, 0.0], [1e9, 0.0], [1e9, 0.0]])
        answer = expected.clone()
        answer[0] = torch.tensor([3.0, 0.0])
        assert self.compare.differing(answer, expected).tolist() == [True, False, False, False]

    def test_labels_of_logits_may_not_change_often_by_rounding(self) -> None:
        expected = torch.tensor([[1e-6, 0.0]] * 3 + [[9.0, 0.0]] * 13)
        answer = expected.clone()
        answer[:2] = -answer[:2]
        assert not self.compare.differing(answer, expected).any()
        answer[:3] = -expected[:3]
        assert self.compare.differing(answer, expected).tolist() == [True] * 3 + [False] * 13

    def test_pixels_are_compared_as_they_are(self) -> None:
        compare, pixels = Comparison(Precision.FLOAT32, pixels=True), torch.rand(4, 12)
        assert not compare.differing(pixels + 5e-4, pixels).any()
        assert compare.differing(pixels + 2e-3, pixels).all()

    def test_a_shift_of_all_logits_is_none(self) -> None:
        expected = torch.randn(4, 3)
        assert not self.compare.differing(expected + torch.randn(4, 1), expected).any()

    def test_infinite_and_missing_logits_are_equal_to_themselves(self) -> None:
        odd = torch.tensor([[-torch.inf, 1, 2], [torch.inf, 1, 2], [torch.nan] * 3])
        assert not self.compare.differing(odd.clone(), odd).any()
        assert self.compare.differing(odd.flip(1), odd).tolist() == [True, True, False]

    def test_some_labels_may_change(self) -> None:
        """At most as many as one share in a thousand gives with probability above 1e-6."""
        from scipy import stats

        labels = torch.zeros(50, dtype=torch.long)
        allowed = self.compare.allowed(labels, 50)
        law = stats.binom(50, CHANGED_LABELS)
        assert law.sf(allowed) <= FALSE_ALARM < law.sf(allowed - 1)
        assert self.compare.allowed(labels[:, None].float(), 50) == 0
