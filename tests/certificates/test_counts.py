from __future__ import annotations

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


@pytest.mark.parametrize(("counts", "failed"), [((3, -1), 0), ((3, 1), -2)])
def test_negative_counts_are_refused(counts: tuple[int, ...], failed: int) -> None:
    message = rf"cannot be negative, got votes=\({counts[0]}, {counts[1]}\), failed={failed}"
    with pytest.raises(CountsError, match=message):
        LabelCounts("run", "7", Stage.ESTIMATION, counts, failed)


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
