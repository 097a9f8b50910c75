from __future__ import annotations

import pytest
from scipy import stats

from denoised_smoothing.certificates.comparison import paired_difference
from denoised_smoothing.errors import SettingError


def test_mcnemar_is_the_exact_test_of_the_discordant_images() -> None:
    found = paired_difference(300, 21, 6, 500)
    assert found.p_value == pytest.approx(stats.binomtest(21, 27).pvalue)
    assert found.difference == pytest.approx(0.03)
    assert found.beyond_chance
    assert paired_difference(0, 0, 0, 3).p_value == 1.0


def test_interval_is_that_of_both_discordant_proportions_at_half_the_rest() -> None:
    found = paired_difference(300, 21, 6, 500)
    first, second = (stats.binomtest(k, 500).proportion_ci(0.975, "exact") for k in (21, 6))
    assert found.lower == pytest.approx(first.low - second.high)
    assert found.upper == pytest.approx(first.high - second.low)


def test_comparisons_share_the_level() -> None:
    one, five = (paired_difference(0, 21, 6, 500, comparisons=k) for k in (1, 5))
    assert five.p_value == pytest.approx(5 * one.p_value)
    first = stats.binomtest(21, 500).proportion_ci(0.995, "exact")
    second = stats.binomtest(6, 500).proportion_ci(0.995, "exact")
    assert five.lower == pytest.approx(first.low - second.high)
    assert paired_difference(0, 1, 1, 2, comparisons=9).p_value == 1.0


def test_swapped_runs_give_the_negative() -> None:
    one, other = paired_difference(5, 9, 2, 20), paired_difference(5, 2, 9, 20)
    assert (one.lower, one.upper, one.difference) == (-other.upper, -other.lower, -other.difference)
    assert one.p_value == other.p_value


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(SettingError, match="successes must lie between 0 and n"):
        paired_difference(8, 2, 1, 10)
    with pytest.raises(SettingError, match="statements must be a whole number"):
        paired_difference(1, 2, 1, 10, comparisons=0)
