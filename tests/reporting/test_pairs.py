from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.pairs import compare_runs
from denoised_smoothing.reporting.results import RunResults
from denoised_smoothing.store import RefusedImage

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


def test_unfinished_and_refused_images_count_as_not_certified(first: RunResults) -> None:
    """The first was to certify 0 to 39, the second 0 to 19: it finished 10, and refused one."""
    shorter = run(range(5), name="second", images=10)
    refused = replace(shorter.run, refused=(RefusedImage(10, "image-10", "damaged"),))
    shorter = replace(shorter, run=refused, unfinished=3, places=frozenset(range(20)))
    found = compare_runs(first, shorter, (0.25,))
    assert (found.images, found.missing, found.attempted) == (20, (0, 10), (40, 20))
    [at] = found.differences
    assert (at.both, at.only_first, at.only_second) == (5, 15, 0)
    assert found.sentence().startswith(
        "Of the 20 images of both runs (0 of first and 10 of second are unfinished or refused, and "
        "count as not certified), counted where certified and correct: beyond chance, first"
    )


def test_images_of_which_there_is_only_an_interim_result_are_not_certified(
    first: RunResults,
) -> None:
    begun = replace(first.images[0], finished=False)
    second = run(range(30), name="second")
    so_far = replace(second, images=(begun, *second.images[1:]), unfinished=1)
    found = compare_runs(first, so_far, (0.25,))
    assert (found.missing, found.differences[0].only_first) == ((0, 1), 1)


def test_radii_are_rounded_down(first: RunResults, second: RunResults) -> None:
    found = compare_runs(first, second, (0.1234567,))
    assert found.rows()[0]["radius"] == "0.123456"
    assert "at radius 0.123456 (" in found.sentence()


def test_sentence_says_which_run_certifies_more(first: RunResults, second: RunResults) -> None:
    said = compare_runs(first, second, (0.25, 0.75)).sentence()
    assert said == (
        "Of the 40 images of both runs, counted where certified and correct: beyond "
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
    with pytest.raises(SettingError, match="no image in common"):
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
