from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.cells import percent
from denoised_smoothing.reporting.cohen import read_published
from denoised_smoothing.reporting.proven import (
    condition_rows,
    conditions,
    plain_proof,
    proven_table,
    statements,
)
from denoised_smoothing.reporting.results import RunResults, hold_together
from denoised_smoothing.reporting.tables import (
    best_over_sigma,
    comparison,
    plain_tables,
    to_markdown,
)
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
    assert table is not None
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
    table = proven_table([best])
    assert table is not None
    assert table["caption"].endswith("A row that is the best of k on the same images has 5 % / k")
    assert [row[1] for row in table["rows"]] == (
        ["these 100 images, best of 2", "the population, best of 2"]
    )
    assert "as the best of 2 on the same images" in statements(best, cell)[1]


def test_each_row_says_of_how_many_it_is_the_best(hundred: RunResults) -> None:
    others = [results(*hundred.images, method="mine", name=f"{s}", sigma=s) for s in (1.0, 2.0)]
    single = results(*hundred.images, method="other", name="o")
    best = best_over_sigma(comparison([hundred, *others, single], (0.5,)))
    table = proven_table(best)
    assert table is not None
    assert [row[:2] for row in table["rows"]] == [
        ["mine", "these 100 images, best of 3"],
        ["mine", "the population, best of 3"],
        ["other", "these 100 images"],
        ["other", "the population"],
    ]


def test_files_without_alpha_prove_nothing(hundred: RunResults, tmp_path: Path) -> None:
    """Also where a file has the name of a method of the runs."""
    path = tmp_path / "mine"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.9\t1\t0:00:01\n")
    file = read_published(path)
    assert proven_table(comparison([file], (0.5,))) is None
    assert "proven" not in to_markdown(comparison([file], (0.5,)))
    assert len(plain_tables(comparison([file], (0.5,)))) == 1
    other = results(*hundred.images, method="mine", name="b", sigma=1.0)
    best = best_over_sigma(comparison([hundred, other, file], (0.5,)))
    assert [(row.method, row.cells[0].chosen_of, row.proven) for row in best] == [
        ("mine", 2, True),
        ("mine", 1, False),
    ]
    table = proven_table(best)
    assert table is not None
    assert len(table["rows"]) == 2


def test_statements_name_who_where_and_how_many(hundred: RunResults) -> None:
    [row] = comparison([hundred], (0.5,))
    here, population = statements(row, row.cells[0])
    assert here == (
        "With 95 % confidence over the noise, the smoothed classifier (mine, σ = 0.5) is correct "
        "and keeps its label under every change below L2 norm 0.5 on at least 65 of these 100 "
        "images, if the noise is exact and its seed was not known."
    )
    bound = percent((clopper_pearson(66, 100) - 0.001) / 0.999)
    assert f"on at least {bound} % of the population, if the 100 images" in population


def test_radii_of_statements_are_rounded_down(hundred: RunResults) -> None:
    [row] = comparison([hundred], (0.1234567,))
    assert "below L2 norm 0.123456 on" in statements(row, row.cells[0])[0]
    assert list(plain_proof(row)["population"]) == ["0.123456"]
    assert comparison([hundred], (64 / 255,))[0].cells[0].reach == "0.25098"


def test_without_labels_nothing_is_called_correct() -> None:
    [row] = comparison([results(image(0, None, 1, 0.5))], (0.5,))
    assert "correct" not in "".join(statements(row, row.cells[0]))
    table = proven_table([row])
    assert table is not None
    assert table["caption"].startswith("Share of robust images")


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
    number = conditions(replace(hundred, places=frozenset(range(500))))[1]
    assert (number.met, number.known) == (False, "400 of 500 images are not finished")
    hundred.run.settings["noise"] = "float"
    assert conditions(hundred)[3].verdict == "not met"


def test_a_number_that_was_raised_is_stated(hundred: RunResults) -> None:
    hundred.run.info["planned"] = [50, 100]
    number = conditions(hundred)[1]
    assert number.met is None
    assert number.known.endswith("finished or refused; the number was raised from 50 to 100")


def test_stored_answers_show_what_the_seed_gave(hundred: RunResults) -> None:
    hundred.run.info.update(seed_given=False, answers_of="earlier")
    seed = conditions(hundred)[2]
    assert (seed.met, seed.known) == (False, "the settings were chosen after the answers")


def test_only_the_sample_concerns_the_population_alone(hundred: RunResults) -> None:
    assert [one.these_images for one in conditions(hundred)] == [False, True, True, True]
    [row] = comparison([hundred], (0.5,))
    abouts = [one["about"] for one in condition_rows([row])]
    assert abouts == ["the population", *["both statements"] * 3]
    assert [one["these_images"] for one in plain_proof(row)["conditions"]] == (
        [False, True, True, True]
    )


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
