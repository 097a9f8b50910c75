from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.plans import FixedBudget, RadiusTarget
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.results import RunResults
from denoised_smoothing.reporting.tables import (
    RADII,
    accuracy_steps,
    best_over_sigma,
    certified_accuracy,
    comparison,
    default_radii,
    summary,
    to_markdown,
    to_rich,
)

from .samples import image, results


def test_certified_accuracy_of_known_radii(four: RunResults) -> None:
    shares = certified_accuracy(four, [0.0, 0.25, 0.250001, 0.5, 0.6, 1.0])
    assert shares.tolist() == [0.5, 0.5, 0.25, 0.25, 0.0, 0.0]


def test_summary_of_known_radii(four: RunResults) -> None:
    whole = summary(RunResults(four.run, four.images, unfinished=3))
    assert (whole.accuracy, whole.average_radius, whole.abstained) == (0.5, 0.75 / 4, 0.25)
    assert (whole.images, whole.unfinished, whole.seconds) == (4, 3, 0.5)
    assert whole.calls == 4 * 1010


def test_a_certificate_of_radius_zero_counts_at_radius_zero() -> None:
    assert certified_accuracy(results(image(0, 1, 1, 0.0)), [0.0, 1e-9]).tolist() == [1.0, 0.0]


@given(st.lists(st.floats(0, 3), min_size=1), st.lists(st.floats(0, 3), min_size=2))
def test_certified_accuracy_never_rises_with_the_radius(
    certified: list[float], radii: list[float]
) -> None:
    run = results(*(image(i, i % 2, 1, radius) for i, radius in enumerate(certified)))
    shares = certified_accuracy(run, sorted(radii))
    assert np.all(np.diff(shares) <= 0)
    right = (len(certified) // 2) / len(certified)
    assert 0 <= shares.min() <= shares.max() <= summary(run).accuracy == right


def test_negative_or_nan_radii_are_refused(four: RunResults) -> None:
    for radius in (-0.1, float("nan")):
        with pytest.raises(SettingError, match="A radius must be at least 0, got"):
            certified_accuracy(four, [0.0, radius])


def test_a_run_without_finished_images_is_refused(four: RunResults) -> None:
    for work in (summary, accuracy_steps, lambda run: comparison([four, run], (0.0,))):
        with pytest.raises(SettingError, match="Run 'a' has no finished image"):
            work(results())


def test_default_radii_are_those_within_reach() -> None:
    # 1000 equal votes at alpha 0.001 reach 2.46 sigma
    assert default_radii([results(image(0, 1, 1, 0.1), sigma=0.25)]) == (0.0, 0.25, 0.5)
    assert default_radii([results(image(0, 1, 1, 0.1), sigma=1.0)])[-1] == 1.5
    # by the plan, whatever the images got: a bound at all of them needs radii fixed in advance
    assert default_radii([results()]) == (0.0, 0.25, 0.5, 0.75, 1.0)
    for plan in (FixedBudget(n0=10, n=1), RadiusTarget(of_n=1000, n0=100, share=0.9)):
        reach = gaussian_radius(0.5, clopper_pearson_upper(0, plan.most_calls() - plan.n0, 0.001))
        expected = tuple(radius for radius in RADII if radius <= reach)
        assert default_radii([results(image(0, 1, 1, 0.1), plan=plan.to_dict())]) == expected


def test_comparison_has_one_row_a_run_and_rounds_down() -> None:
    right, wrong = image(0, 1, 1, 0.30999), image(1, 0, 1, 0.5)
    rows = comparison([results(right, right, wrong, unfinished=1, method="mine")], (0.25, 0.31))
    assert [cell.share for cell in rows[0].cells] == [2 / 3, 0.0]
    assert rows[0].texts() == (
        ["mine", "0.5", "3/4", "–", "–", "66.6", "0.0", "0.206", "0.0", "0.5", "3,030"]
    )


def test_percentages_are_exact_before_they_are_rounded_down() -> None:
    run = results(*(image(i, 1, 1, 0.5 if i < 29 else 0.1) for i in range(100)))
    assert str(comparison([run], (0.5,))[0].cells[0]) == "29.0"  # 100 * 0.29 is below 29 in floats


def test_best_over_sigma_names_the_sigma_of_each_cell() -> None:
    low = results(image(0, 1, 1, 0.4), image(1, 1, 1, 0.4), method="m", sigma=0.25, name="low")
    high = results(image(0, 1, 1, 0.9), image(1, 0, 1, 0.9), method="m", sigma=1.0, name="high")
    other = results(image(0, 1, 1, 0.1), method="other", name="other")
    rows = best_over_sigma(comparison([low, high, other], (0.25, 0.75)))
    assert [row.texts() for row in rows] == [
        ["m", "100.0 (σ 0.25)", "50.0 (σ 1)"],
        ["other", "0.0 (σ 0.5)", "0.0 (σ 0.5)"],
    ]


def test_runs_of_one_method_and_sigma_are_told_apart(four: RunResults) -> None:
    rows = comparison([four, results(*four.images, name="b")], (0.0,))
    assert [row.method[-4:] for row in rows] == [" (a)", " (b)"]
    assert len(best_over_sigma(rows)) == 2


def test_markdown_table(four: RunResults) -> None:
    run = results(*four.images, method="a|b")
    lines = to_markdown(comparison([run], (0.25,))).splitlines()
    assert lines[-1] == "- met, for both statements: The noise is exact (grid noise). (grid noise)"
    assert lines[:-5] == [
        "Certified accuracy (% of the images) at L2 radius r, rounded down:",
        "",
        "| method | σ | images | clean % | denoised % | r = 0.25 | ACR | abstains % | s/image "
        "| calls |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| a\\|b | 0.5 | 4 | – | – | 50.0 | 0.187 | 25.0 | 0.5 | 4,040 |",
        "",
        "Robust accuracy (%) that is proven with 95 % confidence, each number by itself, rounded "
        "down: of these very images and, on the conditions of a sample, of the population:",
        "",
        "| method | σ | of | r = 0.25 |",
        "| --- | ---: | ---: | ---: |",
        "| a\\|b | 0.5 | these 4 images | 50.0 |",
        "| a\\|b | 0.5 | the population | 9.6 |",
    ]


def test_rich_table_shows_methods_as_they_are(four: RunResults) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    rows = comparison([results(*four.images, method="[red]mine")], (0.25,))
    console.print(to_rich(rows))
    console.print(to_rich(best_over_sigma(rows)))
    text = console.export_text()
    assert text.count("[red]mine") == 2
    assert "at the best σ for each" in " ".join(text.split())
    assert "best of" not in text


def test_rich_table_states_of_how_many_a_row_is_the_best(four: RunResults) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    pair = [results(*four.images, method="m", name=f"{s}", sigma=s) for s in (0.25, 0.5)]
    console.print(to_rich(best_over_sigma(comparison(pair, (0.25,)))))
    text = " ".join(console.export_text().split())
    assert "population, best of 2" in text
    assert "of the best of k, at 5 % / k" in text


def test_rich_table_of_the_six_published_radii_fits_80_columns(four: RunResults) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    method = "white box (stability)"
    rows = comparison([results(*four.images, method=method)], (0.25, 0.5, 0.75, 1, 1.25, 1.5))
    console.print(to_rich(rows))
    (line,) = [line for line in console.export_text().splitlines() if method in line]
    assert line.split()[-8:] == ["0.5", "50.0", "25.0", "0.0", "0.0", "0.0", "0.0", "0.187"]


def test_without_labels_the_share_is_called_certified() -> None:
    run = results(image(0, None, 1, 0.5), image(1, None, None, 0.0))
    rows = comparison([run], (0.25,))
    assert rows[0].cells[0].share == 0.5
    assert summary(run).average_radius == 0.25
    assert to_markdown(rows).startswith("Certified (% of the images)")


def test_runs_with_and_without_labels_are_not_mixed(four: RunResults) -> None:
    with pytest.raises(SettingError, match=r"labels \['a'\] and runs without cannot"):
        comparison([four, results(image(0, None, 1, 0.5), name="b")], (0.25,))


def test_a_table_needs_runs_and_radii(four: RunResults) -> None:
    with pytest.raises(SettingError, match="got 0 runs"):
        comparison([], (0.25,))
    with pytest.raises(SettingError, match=r"radii \(\)"):
        comparison([four], ())


def test_engine_and_precision_are_named_where_they_are_not_the_usual_ones(
    four: RunResults,
) -> None:
    settings = {**four.run.settings, "engine": "openvino", "precision": "int8"}
    reduced = replace(four, run=replace(four.run, settings=settings))
    assert four.executed is None
    usual, other = (row.method for row in comparison([four, reduced], (0.25,)))
    assert other == f"{usual}, openvino int8"
    assert f"{usual}, openvino int8" in to_markdown(comparison([reduced], (0.25,)))


def test_steps_are_the_whole_curve(four: RunResults) -> None:
    radii, shares = accuracy_steps(four)
    assert radii.tolist() == [0.0, 0.25, 0.5]
    assert shares.tolist() == [0.5, 0.25, 0.0]
    for radius, share in zip(radii, shares, strict=True):
        assert certified_accuracy(four, (radius + 1e-9,))[0] == share
