from __future__ import annotations

from typing import Any

import pytest

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.groups import GroupCertificate, Groups
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.radii import format_down
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.further_claims import (
    Questions,
    claim_rows,
    claim_table,
    plain_further,
    sentences,
)
from denoised_smoothing.reporting.results import ImageResult, RunResults

from .samples import fake_run, results

NAMES = ["boxer", "beagle", "pug", "cat", "car"]
LEVELS = (Groups({"dog": (0, 1, 2)}, "kinds"), Groups({"animal": range(4)}, "realms"))
QUESTIONS = Questions((2, 3), LEVELS, (2,))


def image_of(
    index: int, true_label: int | None, selection: tuple[int, ...], votes: tuple[int, ...]
) -> ImageResult:
    plan = FixedBudget(sum(selection), sum(votes))
    name = f"image-{index}"
    certificate = plan.certificate(
        {
            Stage.SELECTION: LabelCounts("a", name, Stage.SELECTION, dict(enumerate(selection))),
            Stage.ESTIMATION: LabelCounts("a", name, Stage.ESTIMATION, dict(enumerate(votes))),
        },
        SmoothingParameters(sigma=0.5, alpha=0.001, dimension=64, seed=7, noise=Noise.FLOAT),
    )
    return ImageResult(index, name, true_label, certificate, 0.5)


def run_of(true_labels: tuple[int | None, ...] = (0, 1, 4)) -> RunResults:
    """A sure boxer; a boxer or beagle, hardly another dog; a cat or car, whichever."""
    first, second, third = true_labels
    return results(
        image_of(0, first, (50, 0), (995, 5)),
        image_of(1, second, (25, 25), (480, 470, 50)),
        image_of(2, third, (0, 0, 0, 25, 25), (0, 0, 0, 500, 500)),
    )


def test_rows_count_images_whose_answer_holds_the_true_label() -> None:
    rows = claim_rows(run_of(), QUESTIONS, (0.0, 0.5))
    assert {row.answer: (row.at, row.abstaining) for row in rows} == {
        "top label": ((1, 1), 0),
        "one of 2 labels": ((3, 2), 2),
        "one of 3 labels": ((3, 2), 2),
        "group (kinds)": ((2, 2), 1),
        "group (realms)": ((2, 2), 1),
        "among the 2 most probable": ((1, 1), 0),
    }


def test_without_true_labels_every_answer_counts() -> None:
    rows = claim_rows(run_of((None, None, None)), QUESTIONS, (0.0,))
    assert {row.answer: (row.at, row.abstaining) for row in rows} == {
        "top label": ((1,), 0),
        "one of 2 labels": ((3,), 2),
        "one of 3 labels": ((3,), 2),
        "group (kinds)": ((2,), 1),
        "group (realms)": ((2,), 1),
        "among the 2 most probable": ((3,), 2),
    }


def test_a_table_of_texts() -> None:
    run = run_of()
    table = claim_table(claim_rows(run, Questions((2,)), (0.5,)), (0.5,), run)
    assert table["headings"] == ["answer", "r = 0.5", "of 2 abstaining"]
    assert "whose answer holds the true label" in table["caption"]
    assert "no bounds on a population" in table["caption"]
    unlabelled = run_of((None, None, None))
    assert "true label" not in claim_table([], (0.5,), unlabelled)["caption"]
    assert table["rows"] == [["top label", "1", "0"], ["one of 2 labels", "2", "2"]]


def test_sentences() -> None:
    certificate = run_of().images[1].certificate
    claims = QUESTIONS.claims(certificate)
    by_size, by_group = claims[0], claims[2]
    assert by_group.radius == claims[3].radius  # all votes are for dogs: the animal is omitted
    top = claims[4]
    assert sentences(claims, NAMES) == [
        "The smoothed classifier answers boxer or beagle at every image closer than "
        f"{format_down(by_size.radius)} in L2 (wrong with probability at most 0.001).",
        "With votes by group, the answer is dog (boxer, beagle, pug) at every image closer than "
        f"{format_down(by_group.radius)} in L2 (wrong with probability at most 0.0005). The most "
        "probable single label may lie outside the group.",
        "The label boxer is among the 2 most probable labels at every image closer than "
        f"{format_down(top.radius)} in L2 (wrong with probability at most 0.001).",
    ]


def test_long_groups_and_single_labels_in_sentences() -> None:
    certificate = run_of().images[1].certificate
    levels = (Groups({"thing": range(9)}),)
    [text] = sentences(Questions((), levels).claims(certificate), NAMES)
    assert "thing (boxer, beagle, pug and 6 more labels) at" in text
    sure = run_of().images[0].certificate
    [text] = sentences(Questions((), (Groups({"cat": (3,)}),)).claims(sure), None)
    assert text.startswith("With votes by group, the answer is 0 at every image")


def test_a_probability_is_rounded_up() -> None:
    certificate = run_of().images[1].certificate
    levels = tuple(Groups({"dog": range(3)}, str(level)) for level in range(3))
    [text] = sentences(Questions((), levels).claims(certificate), NAMES)
    assert "at most 0.00034)" in text


def test_plain_values() -> None:
    plain: Any = plain_further(run_of(), QUESTIONS, (0.5,))
    assert plain["rows"][0] == {"answer": "top label", "certified": {"0.5": 1}, "abstaining": 0}
    second = plain["images"][1]
    assert (second["index"], second["image_id"]) == (1, "image-1")
    assert [held["size"] for held in second["sets"]] == [2, 3]
    assert [held["group"] for held in second["groups"]] == ["dog", "animal"]
    assert second["top_k"][0]["label"] == 0
    assert plain_further(run_of(), Questions((2,)), (0.5,))["images"][0].keys() == {
        "index", "image_id", "sets",
    }  # fmt: skip


def test_the_finest_group_at_a_radius_has_the_whole_alpha() -> None:
    """The boxer or beagle: 950 of 1,000 votes are for dogs or, as the animals, all of them."""
    run = results(image_of(0, 0, (25, 25), (480, 470, 0, 50)))
    [image], alpha = run.images, 0.001
    dog, animal = QUESTIONS.claims(image.certificate, split=False)[2:4]
    assert dog.alpha == alpha
    between = (dog.radius + animal.radius) / 2
    for radius, group in ((0.25, "dog"), (between, "animal"), (animal.radius + 0.01, None)):
        found = [
            claim
            for claim in QUESTIONS.claims(image.certificate, at=radius)
            if isinstance(claim, GroupCertificate)
        ]
        expected = [] if group is None else [(group, radius, alpha)]
        assert [(held.group, held.radius, held.alpha) for held in found] == expected
        plain = plain_further(run, QUESTIONS, (0.0, radius))["images"][0]["finest_group"]
        assert (plain and plain["group"]) == group
    assert "finest_group" not in plain_further(run, QUESTIONS, (0.0,))["images"][0]


def test_nothing_asked_is_nothing_answered() -> None:
    assert Questions(()).claims(run_of().images[0].certificate) == []


def test_a_plan_without_selection_is_refused() -> None:
    counts = LabelCounts("a", "0", Stage.ESTIMATION, {0: 90, 1: 10})
    parameters = SmoothingParameters(sigma=0.5, alpha=0.001, dimension=64, seed=7)
    plan = Anytime((0.5,), max_n=100, n0=0)
    certificate = plan.certificate({Stage.ESTIMATION: counts}, parameters)
    with pytest.raises(SettingError, match="--n0 50"):
        QUESTIONS.claims(certificate)
    asked = RunResults(fake_run("pilot", plan=plan.to_dict()), ())
    with pytest.raises(SettingError, match=r"Run 'pilot': .*--n0 50"):
        claim_rows(asked, QUESTIONS, (0.5,))
    Questions(()).check(asked)
