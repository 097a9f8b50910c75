from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.reporting.opening import Opening
from denoised_smoothing.reporting.plots import (
    certified_accuracy_figure,
    inline_svg,
    opening_figure,
    radius_figure,
    save_figure,
)
from denoised_smoothing.reporting.results import RunResults
from denoised_smoothing.reporting.tables import certified_accuracy, comparison

from .samples import FakeExample, image, png, results


def test_curve_is_the_exact_step_function(four: RunResults) -> None:
    line = certified_accuracy_figure([("m", four)]).axes[0].lines[0]
    assert line.get_drawstyle() == "steps-post"
    assert np.asarray(line.get_xdata()).tolist() == [0.0, 0.25, 0.5]
    assert np.asarray(line.get_ydata()).tolist() == [50.0, 25.0, 0.0]
    between = np.array([0.1, 0.3, 0.6])
    steps = np.searchsorted(line.get_xdata(), between, side="right") - 1
    shares = 100 * certified_accuracy(four, between.tolist())
    assert np.asarray(line.get_ydata())[steps].tolist() == shares.tolist()


def test_the_opening_is_drawn_above_the_curves(four: RunResults) -> None:
    pixels = np.full((1, 8, 8), 0.5, np.float32)
    shown = [FakeExample("0", kind, 0, png()) for kind in ("clean", "noisy", "denoised")]
    opening = Opening(pixels, pixels, "cat", "dog", 0.25, four.run.name, four.images[0].image_id)
    shown = [replace(example, image_id=opening.image_id) for example in shown]
    figure = opening_figure(opening, shown, [("black box", four)])
    *pictures, curves = figure.axes
    titles = [axes.get_title().replace("\n", " ") for axes in pictures]
    image = four.images[0]
    counts, label = image.certificate.counts, image.predicted
    assert label is not None
    assert titles == [
        "the classifier answers “cat”",
        "changed by 0.25 (L2) “dog”",
        f"one of {counts.n:,} noisy copies",
        f"black box {counts.votes[label]:,} of {counts.n:,} copies certify “{label}” "
        "within 0.50 (L2)",
    ]
    alone = certified_accuracy_figure([("m", four)]).axes[0].lines[0]
    assert curves.lines[0].get_xydata().tolist() == alone.get_xydata().tolist()


def test_method_has_a_colour_and_sigma_a_line_style(four: RunResults) -> None:
    wide = results(*four.images, sigma=1.0)
    axes = certified_accuracy_figure([("m", four), ("m", wide), ("_$x", wide)]).axes[0]
    first, second, third = axes.lines
    assert first.get_color() == second.get_color() != third.get_color()
    assert first.get_linestyle() != second.get_linestyle() == third.get_linestyle()
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["m", "_$x", "σ = 0.5", "σ = 1"]


def test_every_row_of_a_large_table_has_a_line_of_its_own(four: RunResults) -> None:
    [row] = comparison([four], [0.25, 0.5])
    rows = [replace(row, method=str(number)) for number in range(14)]
    lines = radius_figure(rows).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 14
    assert len({line.get_color() for line in lines[:7]}) == 7


def test_axis_names_what_is_counted() -> None:
    figure = certified_accuracy_figure([("m", results(image(0, None, 1, 0.3)))])
    assert figure.axes[0].get_ylabel() == "certified (%)"


def test_a_run_that_certifies_nothing_still_has_a_figure(tmp_path: Path) -> None:
    save_figure(
        certified_accuracy_figure([("m", results(image(0, 1, None, 0.0)))]), tmp_path / "f.png"
    )
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_saving_is_deterministic_and_dateless(kind: str, four: RunResults, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_figure(certified_accuracy_figure([("m", four)]), tmp_path / f"{name}.{kind}")
    content = (tmp_path / f"one.{kind}").read_bytes()
    assert content == (tmp_path / f"two.{kind}").read_bytes()
    assert b"CreationDate" not in content
    assert b"dc:date" not in content


def test_inline_svg_takes_the_colour_of_the_page_and_escapes(four: RunResults) -> None:
    svg = inline_svg(certified_accuracy_figure([("<script>", four)]))
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg


def test_unknown_suffix_is_refused(four: RunResults, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"saved as png, svg, pdf, got .*curves\.bmp"):
        save_figure(certified_accuracy_figure([("m", four)]), tmp_path / "curves.bmp")


def test_missing_matplotlib_names_the_extra(
    four: RunResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"denoised-smoothing\[report\]"):
        certified_accuracy_figure([("m", four)])


def test_bounds_on_the_population_are_steps_at_all_radii_at_once(four: RunResults) -> None:
    [axes] = certified_accuracy_figure([("mine", four)], 0.5).axes
    _, bound = axes.get_lines()
    test = stats.binomtest(2, 4, alternative="greater")
    two = 100 * (float(test.proportion_ci(1 - 0.05 / 20).low) - 0.001) / 0.999
    assert bound.get_drawstyle() == "steps-pre"
    assert bound.get_xdata().tolist() == pytest.approx([k / 40 for k in range(21)])
    assert bound.get_ydata().tolist() == pytest.approx([two] * 11 + [0.0] * 10)
    [axes] = certified_accuracy_figure([("mine", four)]).axes
    assert len(axes.get_lines()) == 1
