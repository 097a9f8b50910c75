"""Statements about more than one image, simulated with few data sets; see the docs for many."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from .test_benchmarks import load

SETS = 2_000
FALSE_ALARM = 1e-5


def too_many(share: float, sets: int) -> bool:
    test = stats.binomtest(round(share * sets), sets, 0.05, alternative="greater")
    return bool(test.pvalue < FALSE_ALARM)


@pytest.mark.parametrize("name", ["population", "these_images"])
def test_bounds_are_false_for_at_most_five_percent(name: str) -> None:
    """Nor are they looser than 1.2 times the normal limit at 95 %, and one image."""
    module = load("image_statements")
    limits = {
        "population": [
            1.2 * 1.645 * math.sqrt(p * (1 - p) / n) + 1 / n
            for n, _, classes in module.SAMPLES.values()
            for p in [sum(classes) / len(classes)]
        ],
        "these_images": [1.2 * 1.645 * math.sqrt(n * 0.01 * 0.99) + 1 for n in module.DATA_SETS],
    }
    rows = getattr(module, name)(SETS)
    for (case, share, slack), limit in zip(rows, limits[name], strict=True):
        assert not too_many(share, SETS), case
        assert 0.0 <= slack < limit, case
    assert max(share for _, share, _ in rows) > 0.02, "the simulation has power"


def test_equal_runs_seldom_differ_beyond_chance() -> None:
    found = load("image_statements").comparison(SETS)
    for rows in found.values():
        assert not any(too_many(share, SETS) for _, share, _ in rows)
    assert max(share for _, share, _ in found["McNemar"]) > 0.02, "the simulation has power"


def test_families_seldom_hold_a_false_certificate() -> None:
    sets = 400
    rows = load("image_statements").family(sets)
    assert len(rows) == 5
    for case, share, lost in rows:
        assert not too_many(share, sets), case
        assert 0.0 < lost < 0.2, case
    assert max(share for _, share, _ in rows) > 0.02, "the simulation has power"
