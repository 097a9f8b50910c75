from __future__ import annotations

import json
import pickle
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import CountsError

votes = st.lists(st.integers(0, 10**6), max_size=6).map(tuple)
label_counts = st.builds(
    LabelCounts, st.just("run"), st.just("7"), st.just(Stage.ESTIMATION), votes, st.integers(0, 99)
)
reproducible = settings(derandomize=True, deadline=None)


@reproducible
@given(label_counts, label_counts, label_counts)
def test_addition_is_commutative_and_associative(
    a: LabelCounts, b: LabelCounts, c: LabelCounts
) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + LabelCounts("run", "7", Stage.ESTIMATION) == a


@reproducible
@given(label_counts, label_counts)
def test_addition_adds_every_label_and_every_failed_copy(a: LabelCounts, b: LabelCounts) -> None:
    total = a + b
    assert [total.of(label) for label in range(6)] == [a.of(k) + b.of(k) for k in range(6)]
    assert (total.failed, total.n) == (a.failed + b.failed, a.n + b.n)


def test_shorter_counts_are_padded_and_failed_copies_stay_in_n() -> None:
    total = LabelCounts("run", "7", Stage.SELECTION, (1,), 2)
    total += LabelCounts("run", "7", Stage.SELECTION, (0, 0, 5), failed=1)
    assert total == LabelCounts("run", "7", Stage.SELECTION, (1, 0, 5), 3)
    assert total.n == 9


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("else", "7", Stage.ESTIMATION), "different runs cannot be added, got 'run' and 'else'"),
        (("run", "8", Stage.ESTIMATION), "different image_ids cannot be added, got '7' and '8'"),
        (
            ("run", "7", Stage.SELECTION),
            "different stages cannot be added, got .*estimation.* and .*selection",
        ),
    ],
)
def test_counts_that_do_not_belong_together_are_refused(
    other: tuple[str, str, Stage], message: str
) -> None:
    with pytest.raises(CountsError, match=f"{message}.* Add counts of one run, image and stage"):
        LabelCounts("run", "7", Stage.ESTIMATION, (1,)) + LabelCounts(*other, (1,))


@pytest.mark.parametrize(
    ("votes", "failed"), [({0: 3, 1: -1}, 0), ({0: 3, 1: 1}, -2), ({-1: 3}, 0), ({}, -1)]
)
def test_negative_labels_and_counts_are_refused(votes: dict[int, int], failed: int) -> None:
    message = f"cannot be negative, got votes={votes}, failed={failed}. Count each copy once"
    with pytest.raises(CountsError, match=message):
        LabelCounts("run", "7", Stage.ESTIMATION, votes, failed)


class TestVotes:
    FORMS = ((0, 3, 0, 4, 0), {1: 3, 3: 4}, {3: 4, 1: 3, 2: 0}, {"3": 4, "1": 3})

    @pytest.mark.parametrize("form", FORMS)
    def test_are_equal_in_whatever_form_they_were_given(self, form: Any) -> None:
        counts = LabelCounts("run", "7", Stage.ESTIMATION, form, 2)
        assert counts == (same := LabelCounts("run", "7", Stage.ESTIMATION, {1: 3, 3: 4}, 2))
        assert hash(counts) == hash(same)
        assert list(counts.votes.items()) == [(1, 3), (3, 4)]
        assert (counts.n, counts.top(), counts.of(3), counts.of(2)) == (9, 3, 4, 0)
        assert counts != LabelCounts("run", "7", Stage.ESTIMATION, {1: 3, 3: 5}, 2)
        assert counts != LabelCounts("run", "7", Stage.ESTIMATION, {1: 3, 4: 4}, 2)

    def test_do_not_change(self) -> None:
        given = {1: 3}
        counts = LabelCounts("run", "7", Stage.ESTIMATION, given)
        given[1] = 4
        votes: Any = counts.votes
        for change in (
            lambda: votes.__setitem__(1, 5),
            lambda: votes.__delitem__(1),
            lambda: votes.__ior__({1: 5}),
            lambda: votes.update({1: 5}),
            lambda: votes.setdefault(2, 5),
            lambda: votes.pop(1),
            votes.popitem,
            votes.clear,
        ):
            with pytest.raises(TypeError, match="cannot be changed"):
                change()
        assert counts.votes == {1: 3}

    def test_of_numpy_survive_json_pickling_and_copying(self) -> None:
        labels, numbers = np.unique([2**63 - 1, 5, 5], return_counts=True)
        counts = LabelCounts(
            "run", "7", Stage.ESTIMATION, dict(zip(labels, numbers, strict=True)), 1
        )
        stored = json.loads(json.dumps(counts.to_dict()))
        assert stored == {"counts": {"5": 2, "9223372036854775807": 1}, "failed": 1}
        read = LabelCounts("run", "7", Stage.ESTIMATION, stored["counts"], stored["failed"])
        assert counts == read == pickle.loads(pickle.dumps(counts)) == deepcopy(counts)
        assert json.loads(json.dumps(asdict(counts)))["votes"] == stored["counts"]

    @pytest.mark.parametrize("votes", [{0.5: 1}, {0: 1.5}, {None: 1}])
    def test_are_integers(self, votes: Any) -> None:
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            LabelCounts("run", "7", Stage.ESTIMATION, votes)

    def test_of_any_label_take_the_memory_of_their_number(self) -> None:
        large = LabelCounts("run", "7", Stage.ESTIMATION, {2**62: 3, 10**8: 3})
        total = large + LabelCounts("run", "7", Stage.ESTIMATION, {10**8: 1, 0: 1}, 1)
        assert total.votes == {0: 1, 10**8: 4, 2**62: 3}
        assert (total.n, total.top(), large.top()) == (9, 10**8, 10**8)


@pytest.mark.parametrize(
    ("counts", "top"),
    [((), None), ((0, 0), None), ((0, 4, 9), 2), ((3, 5, 5), 1), ((5, 0, 5), 0)],
)
def test_top_is_the_smallest_of_the_most_frequent_labels(
    counts: tuple[int, ...], top: int | None
) -> None:
    assert LabelCounts("run", "7", Stage.SELECTION, counts, failed=50).top() == top


@pytest.mark.parametrize("label", [-1, 2, 1000])
def test_a_label_that_was_never_seen_has_no_votes(label: int) -> None:
    assert LabelCounts("run", "7", Stage.SELECTION, (3, 4), failed=9).of(label) == 0
