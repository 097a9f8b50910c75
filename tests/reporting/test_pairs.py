from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.pairs import compare_runs
from denoised_smoothing.reporting.results import RunResults

from .samples import image, results


def run(certified: range, *, name: str, images: int = 40, radius: float = 0.5) -> RunResults:
    """Right within the radius on some images, and abstains on the others."""
    return results(
        *(image(i, 1, 1 if i in certified else None, radius) for i in range(images)), name=name
    )


@pytest.fixture
def first() -> RunResults:
    return run(range(30), name="first")


@pytest.fixture
def second() -> RunResults:
    return run(range(20, 32), name="second")


def test_images_are_paired(first: RunResults, second: RunResults) -> None:
    found = compare_runs(first, second, (0.25, 0.75))
    at, beyond = found.differences
    assert (at.both, at.only_first, at.only_second, at.images) == (10, 20, 2, 40)
    assert at.p_value == pytest.approx(2 * stats.binomtest(2, 22).pvalue)
    assert (beyond.both, beyond.only_first, beyond.p_value) == (0, 0, 1.0)


def test_only_images_that_both_finished_are_compared(first: RunResults) -> None:
    shorter = replace(run(range(5), name="second", images=10), unfinished=3)
    found = compare_runs(first, shorter, (0.25,))
    assert (found.images, found.attempted) == (10, (40, 13))
    assert found.differences[0].only_first == 5


def test_sentence_says_which_run_certifies_more(first: RunResults, second: RunResults) -> None:
    said = compare_runs(first, second, (0.25, 0.75)).sentence()
    assert said == (
        "Of the 40 images that both runs finished, counted where certified and correct: beyond "
        "chance, first certifies more at radius 0.25 (exact McNemar test at 5 % / 2, the "
        "number of radii)."
    )
    said = compare_runs(first, run(range(31), name="second"), (0.25,)).sentence()
    assert "no difference between first and second is beyond chance" in said


def test_limits_are_rounded_outwards(first: RunResults, second: RunResults) -> None:
    found = compare_runs(first, second, (0.25,))
    [row], [at] = found.rows(), found.differences
    assert row["points"] == "+45.0"
    assert float(row["at least"]) <= 100 * at.lower < float(row["at least"]) + 0.1
    assert float(row["at most"]) - 0.1 < 100 * at.upper <= float(row["at most"])
    assert row["beyond chance"] == "yes"


def test_plain_values_have_the_whole_comparison(first: RunResults, second: RunResults) -> None:
    plain = compare_runs(first, second, (0.25,)).to_dict()
    assert plain["radii"][0]["only_first"] == 20
    assert plain["radii"][0]["beyond_chance"] is True
    assert plain["runs"] == ["first", "second"]


def test_runs_that_cannot_be_compared_are_refused(first: RunResults, second: RunResults) -> None:
    with pytest.raises(SettingError, match="needs two runs, got 'first' twice"):
        compare_runs(first, first, (0.25,))
    elsewhere = results(*second.images, name="second", data_fingerprint="e", data="cifar10")
    with pytest.raises(SettingError, match=r"different data, \['digits', 'cifar10'\]"):
        compare_runs(first, elsewhere, (0.25,))
    later = results(*(image(i, 1, 1, 0.5) for i in range(50, 60)), name="second")
    with pytest.raises(SettingError, match="no finished image in common"):
        compare_runs(first, later, (0.25,))
    larger = replace(second, images=tuple(replace(i, digest="d") for i in second.images))
    with pytest.raises(SettingError, match="Compare runs at the same resolution"):
        compare_runs(first, larger, (0.25,))
    unlabelled = replace(second, images=tuple(replace(i, true_label=None) for i in second.images))
    with pytest.raises(SettingError, match="Runs with true labels"):
        compare_runs(first, unlabelled, (0.25,))
    with pytest.raises(SettingError, match="radii must be lengths"):
        compare_runs(first, second, (-1.0,))
    with pytest.raises(SettingError, match="confidence must be at least"):
        compare_runs(first, second, (0.25,), 0.2)
