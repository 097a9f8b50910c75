"""Rows of the store."""

from __future__ import annotations

import pytest

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.store.records import LONGEST_LIST, StoredImage, from_row, to_row


@pytest.mark.parametrize(
    ("votes", "stored"),
    [
        ({2: 5, 0: 1}, [1, 0, 5]),
        ({}, []),
        ({LONGEST_LIST - 1: 3}, [0] * (LONGEST_LIST - 1) + [3]),
        ({LONGEST_LIST: 3}, {LONGEST_LIST: 3}),
        ({2**62: 1, 1: 4}, {1: 4, 2**62: 1}),
    ],
)
def test_votes_are_a_list_unless_it_is_long(votes: dict[int, int], stored: object) -> None:
    counts = {Stage.ESTIMATION: LabelCounts("run", "a", Stage.ESTIMATION, votes, 2)}
    image = StoredImage(0, "a", 1, "digest", counts, 0.5, True)
    row = to_row("run", image)
    assert row["counts"] == {Stage.ESTIMATION: [stored, 2]}
    assert from_row("run", ("run", 0, "a", 1, "digest", row["counts"], 0.5, True)) == image
