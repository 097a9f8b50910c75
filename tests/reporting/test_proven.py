from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.proven import (
    condition_rows,
    conditions,
    percent,
    plain_proof,
    proven_table,
    statements,
)
from denoised_smoothing.reporting.results import RunResults, hold_together
from denoised_smoothing.reporting.tables import best_over_sigma, comparison
from denoised_smoothing.store import RefusedImage

from .samples import image, results


def clopper_pearson(certified: int, images: int, confidence: float = 0.95) -> float:
    test = stats.binomtest(certified, images, alternative="greater")
    return float(test.proportion_ci(confidence, "exact").low)


@pytest.fixture
def hundred() -> RunResults:
    """66 of 100 right within 0.5."""
    return results(*(image(i, 1, 1 if i < 66 else 0, 0.5) for i in range(100)), method="mine")


def test_bound_on_the_population_in_the_table(hundred: RunResults) -> None:
    table = proven_table(comparison([hundred], (0.5, 0.6)))
    bound = (clopper_pearson(66, 100) - 0.001) / 0.999
    assert table["headings"] == ["method", "σ", "of", "r = 0.5", "r = 0.6"]
    assert table["rows"] == [
        ["mine", "0.5", "these 100 images", "65.0", "0.0"],  # P(Bin(100, 0.001) > 1) = 0.0046
        ["mine", "0.5", "the population", percent(bound), "0.0"],
    ]


def test_images_of_which_nothing_is_known_count_against_the_bound(hundred: RunResults) -> None:
    run = replace(
        hundred,
        run=replace(hundred.run, refused=(RefusedImage(100, "image-100", "damaged"),)),
        unfinished=2,
    )
    [row] = comparison([run], (0.5,))
    assert row.cells[0].attempted == run.attempted == 103
    assert row.cells[0].population == pytest.approx((clopper_pearson(66, 103) - 0.001) / 0.999)
    assert str(row.cells[0]) == "66.0"


def test_unfinished_images_with_a_result_are_counted_once(hundred: RunResults) -> None:
    so_far = replace(hundred.images[0], finished=False)
    run = replace(hundred, images=(so_far, *hundred.images[1:]), unfinished=1)
    assert run.attempted == 100


def test_the_best_of_two_has_half_the_level(hundred: RunResults) -> None:
    other = results(*hundred.images[1:], method="mine", name="b", sigma=1.0)
    rows = comparison([hundred, other], (0.5,))
    [best] = best_over_sigma(rows)
    cell = best.cells[0]
    assert cell.chosen_of == 2
    assert cell.population == pytest.approx((clopper_pearson(66, 100, 0.975) - 0.001) / 0.999)
    assert "best of up to 2 on the same images, at 5 % / 2" in proven_table([best])["caption"]
    assert "as the best of 2 on the same images" in statements(best, cell)[1]


def test_statements_name_who_where_and_how_many(hundred: RunResults) -> None:
    [row] = comparison([hundred], (0.5,))
    here, population = statements(row, row.cells[0])
    assert here == (
        "With 95 % confidence over the noise, the smoothed classifier (mine, σ = 0.5) is correct "
        "and keeps its label under every change below L2 norm 0.5 on at least 65 of these 100 "
        "images."
    )
    bound = percent((clopper_pearson(66, 100) - 0.001) / 0.999)
    assert f"on at least {bound} % of the population, if the 100 images" in population


def test_without_labels_nothing_is_called_correct() -> None:
    [row] = comparison([results(image(0, None, 1, 0.5))], (0.5,))
    assert "correct" not in "".join(statements(row, row.cells[0]))
    assert proven_table([row])["caption"].startswith("Share of robust images")


def test_bounds_at_all_radii_share_the_level(hundred: RunResults) -> None:
    [row] = comparison([hundred], (0.25, 0.5))
    plain = plain_proof(row)
    assert plain["population_at_all_radii"]["0.5"] == pytest.approx(
        (clopper_pearson(66, 100, 0.975) - 0.001) / 0.999, abs=1e-6
    )
    assert (plain["attempted"], plain["these_images"]) == (100, {"0.25": 65, "0.5": 65})


def test_conditions_that_the_run_knows(hundred: RunResults) -> None:
    sample, number, seed, noise = conditions(hundred)
    assert (sample.met, number.met, seed.met, noise.met) == (None, None, None, True)
    assert sample.known == "consecutive rows of digits, from 0 to 99"
    hundred.run.info["seed_given"] = False
    assert conditions(hundred)[2].met
    assert conditions(replace(hundred, unfinished=1))[1].verdict == "not met"
    hundred.run.settings["noise"] = "float"
    assert conditions(hundred)[3].verdict == "not met"


def test_photographs_that_were_chosen_are_no_sample() -> None:
    assert conditions(results(image(0, 1, 1, 0.5), data="photos"))[0].met is False


def test_numbers_of_each_class_are_stated() -> None:
    run = results(*(image(3 * i, i % 2, 1, 0.5) for i in range(5)), stride=3)
    known = conditions(run)[0].known
    assert known == "one row in 3 of digits, from 0 to 12, 2 to 3 images of each of 2 classes"


def test_conditions_of_several_runs_are_listed_once(hundred: RunResults) -> None:
    other = results(*hundred.images, name="b", noise="float")
    rows = condition_rows(comparison([hundred, other], (0.5,)))
    assert [row["verdict"] for row in rows][-1] == "met; not met"
    assert len(rows) == 4


def test_percentages_are_rounded_down() -> None:
    assert (percent(0.62313), percent(1.0), percent(0.0), percent(0.0999)) == (
        ("62.3", "100.0", "0.0", "9.9")
    )


def test_runs_that_hold_together(hundred: RunResults) -> None:
    first, second = hold_together([hundred, replace(hundred, unfinished=50)], 0.05)
    assert first.images[0].certificate.alpha == 0.05 / 250
    assert first.alpha == second.alpha == 0.05 / 250
    assert comparison([first], (0.0,))[0].cells[0].alpha == 0.05 / 250
    with pytest.raises(SettingError, match="beta must lie strictly between 0 and 1, got 2"):
        hold_together([hundred], 2)
