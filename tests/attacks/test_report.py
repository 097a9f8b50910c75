from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from denoised_smoothing.attacks.report import (
    AttackOutcome,
    AttackRow,
    ShareRow,
    Verdict,
    accuracy_under_attack,
    attack_figure,
    by_share,
    radius_table,
    share_table,
    to_attack,
)
from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.reporting.results import RunResults

from ..reporting.samples import image, results


def outcome(
    index: int, radius: float, epsilon: float, label: int | None, norm: float | None = None
) -> AttackOutcome:
    """An attack on an image that is certified as 1."""
    return AttackOutcome(
        index=index, image_id=f"image-{index}", certified_label=1, certified_radius=radius,
        epsilon=epsilon, norm=0.999 * epsilon if norm is None else norm,
        label=label, p_value=1e-9, counts={0: 10, 1: 90},
    )  # fmt: skip


HELD = (outcome(0, 0.5, 0.25, 1), outcome(0, 0.5, 0.75, None))
CHANGED = (outcome(1, 0.25, 0.25, 1), outcome(1, 0.25, 0.75, 0, norm=0.7))
"""Of the two images of ``four`` that are certified as what they are."""


@pytest.mark.parametrize(
    ("label", "norm", "verdict", "alarm"),
    [
        (1, 0.4, Verdict.HELD, False),
        (None, 0.4, Verdict.ABSTAINED, False),
        (0, 0.4, Verdict.CHANGED, True),
        (0, 0.5, Verdict.CHANGED, False),
        (0, 0.6, Verdict.CHANGED, False),
        (None, 0.6, Verdict.ABSTAINED, False),
    ],
)
def test_alarm_is_another_label_within_the_certified_radius_alone(
    label: int | None, norm: float, verdict: Verdict, alarm: bool
) -> None:
    tried = outcome(0, radius=0.5, epsilon=0.7, label=label, norm=norm)
    assert (tried.verdict, tried.alarm) == (verdict, alarm)
    assert json.loads(json.dumps(tried.to_dict()))["verdict"] == verdict.value


def test_json_rounds_the_certified_radius_down() -> None:
    values = outcome(0, 0.29999999, 0.1, 1).to_dict()
    assert (values["certified_radius"], values["counts"]) == (0.299999, {0: 10, 1: 90})


class TestToAttack:
    def test_takes_what_is_certified_as_what_it_is(self, four: RunResults) -> None:
        population, images = to_attack(four)
        assert population == four
        assert [image.index for image in images] == [0, 1]

    def test_takes_all_certified_images_of_data_without_labels(self) -> None:
        run = results(image(0, None, 1, 0.5), image(1, None, None, 0.0), image(2, None, 0, 0.1))
        assert [image.index for image in to_attack(run)[1]] == [0, 2]

    def test_a_limit_ends_the_population_at_the_last_image_attacked(self) -> None:
        run = results(
            image(0, 1, None, 0.0), image(1, 1, 1, 0.5), image(2, 1, None, 0.0), image(3, 1, 1, 0.1)
        )
        population, images = to_attack(run, limit=1)
        assert [image.index for image in population.images] == [0, 1]
        assert [image.index for image in images] == [1]
        assert to_attack(run, limit=9)[0] == run

    def test_refuses_when_there_is_nothing(self, four: RunResults) -> None:
        with pytest.raises(SettingError, match="limit must be at least 1 image, got 0"):
            to_attack(four, limit=0)
        with pytest.raises(SettingError, match="Run 'a' certifies no image with the correct label"):
            to_attack(results(image(0, 1, None, 0.0), image(1, 0, 1, 0.5)))


class TestUnderAttack:
    def test_counts_proven_and_unrefuted_images_of_all_finished(self, four: RunResults) -> None:
        rows = accuracy_under_attack(four, [*HELD, *CHANGED], (0.0, 0.25, 0.5, 0.7, 1.0))
        assert rows == [
            AttackRow(0.0, certified=2, unbroken=3, abstained=1, images=4),
            AttackRow(0.25, certified=2, unbroken=3, abstained=1, images=4),
            AttackRow(0.5, certified=1, unbroken=3, abstained=1, images=4),
            AttackRow(0.7, certified=0, unbroken=2, abstained=1, images=4),
            AttackRow(1.0, certified=0, unbroken=2, abstained=1, images=4),
        ]

    def test_an_image_that_is_certified_as_something_else_never_counts(self) -> None:
        run = results(image(0, 0, 1, 0.5), image(1, 1, 1, 0.5))
        assert accuracy_under_attack(run, [], [0.1]) == [AttackRow(0.1, 1, 1, 0, 2)]

    @pytest.mark.parametrize("label", [1, None])
    def test_an_abstention_shows_nothing_to_be_wrong(self, label: int | None) -> None:
        """A longer run may certify what this one gave up for a larger radius."""
        labels = [image(0, label, 1, 0.5), image(1, label, None, 0.0)]
        longer = results(labels[0], image(1, label, 1, 0.1))
        [row] = accuracy_under_attack(results(*labels), [], [0.05])
        assert row == AttackRow(0.05, certified=1, unbroken=2, abstained=1, images=2)
        assert row.unbroken >= accuracy_under_attack(longer, [], [0.05])[0].certified == 2

    def test_the_least_length_that_changes_it_breaks_an_image(self, four: RunResults) -> None:
        both = [outcome(0, 0.5, 0.9, 0), outcome(0, 0.5, 0.6, 0)]
        assert [row.unbroken for row in accuracy_under_attack(four, both, (0.55, 0.65))] == [3, 2]

    def test_lower_bounds_are_rounded_down_and_upper_bounds_up(self) -> None:
        assert AttackRow(0.5, 1, 2, 0, images=3).texts() == ("0.5", "33.3", "66.7")
        assert AttackRow(1, 0, 3, 0, images=3).texts() == ("1", "0.0", "100.0")


class TestByShare:
    def test_counts_verdicts(self) -> None:
        tried = [
            outcome(0, 0.5, 0.99 * 0.5, 1), outcome(0, 0.5, 3 * 0.5, 0),
            outcome(1, 0.25, 0.99 * 0.25, None), outcome(1, 0.25, 3 * 0.25, 1),
        ]  # fmt: skip
        assert by_share(tried, (0.99, 3)) == [ShareRow(0.99, 1, 1, 0), ShareRow(3.0, 1, 0, 1)]

    def test_an_image_changed_earlier_is_changed_at_what_was_skipped(self) -> None:
        assert by_share([outcome(0, 0.5, 0.6, 0)], (0.99, 3)) == [
            ShareRow(0.99, 0, 0, 0),
            ShareRow(3.0, 0, 0, 1),
        ]

    def test_says_on_which_side_of_the_radius(self) -> None:
        sides = [ShareRow(share, 1, 2, 3).texts() for share in (0.99, 1.0, 1.01)]
        assert sides[0] == ("0.99", "within", "1", "2", "3")
        assert [side for _, side, *_ in sides] == ["within", "within", "beyond"]


def shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    file: Any = console.file
    text: str = file.getvalue()
    return " ".join(text.split())


def test_tables_show_the_rows(four: RunResults) -> None:
    rows = accuracy_under_attack(four, CHANGED, (0.25, 1.0))
    text = shown(radius_table(rows, "certified accuracy"))
    assert "Certified accuracy, and the upper bound by attacks (% of 4 images)" in text
    assert "0.25 50.0 75.0 1 0.0 50.0" in text
    assert text.endswith(
        "Images on which the run abstains are not attacked and count as unbroken: 1."
    )
    none = accuracy_under_attack(results(image(0, 1, 1, 0.5)), [], (0.25,))
    assert "abstains" not in shown(radius_table(none, "certified accuracy"))
    assert shown(share_table([ShareRow(3.0, 5, 6, 7)])).endswith("3 beyond 5 6 7")


def line(axes: Any, number: int) -> tuple[list[float], list[float]]:
    found = axes.lines[number]
    return np.asarray(found.get_xdata()).tolist(), np.asarray(found.get_ydata()).tolist()


class TestFigure:
    def test_curves_are_the_exact_step_functions(self, four: RunResults) -> None:
        axes = attack_figure(four, [*HELD, *CHANGED], (0.25, 0.75, 1.0)).axes[0]
        assert line(axes, 0) == ([0.0, 0.25, 0.5], [50.0, 25.0, 0.0])
        assert line(axes, 1) == ([0.0, 0.7, 0.75], [75.0, 50.0, 50.0])
        assert line(axes, 2) == ([0.25, 0.75], [75.0, 50.0])  # nobody attacked at 1.0
        assert axes.get_xlim()[1] > 0.75
        assert axes.get_ylabel() == "accuracy (%)"
        legend = axes.get_legend()
        assert legend is not None
        texts: Sequence[Any] = legend.get_texts()
        assert [text.get_text() for text in texts] == [
            "certified accuracy: at least",
            "under attack: at most",
        ]

    def test_before_any_attack_there_is_one(self, four: RunResults) -> None:
        assert line(attack_figure(four, []).axes[0], 1) == ([0.0], [75.0])

    def test_missing_matplotlib_names_the_extra(
        self, four: RunResults, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(MissingExtraError, match=r"denoised-smoothing\[report\]"):
            attack_figure(four, [])
