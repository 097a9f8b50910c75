from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.groups import (
    Groups,
    check_nested,
    finest_group,
    group_certificates,
)
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.radii import failure_for_radius
from denoised_smoothing.errors import SettingError

from .samples import counts_of, setting_of, stages

FINE = Groups({"terrier": (0, 1), "hound": (2,), "cat": (4, 5)}, "kinds")
COARSE = Groups({"dog": (0, 1, 2, 3), "cat": (4, 5)}, "animals")
LEVELS = (FINE, COARSE)


def certificate_of(selection: Sequence[int], votes: Sequence[int], failed: int = 0) -> object:
    plan = FixedBudget(n0=sum(selection), n=sum(votes) + failed)
    return plan.certificate(stages(tuple(selection), tuple(votes), failed), setting_of(1.0))


def test_votes_of_a_group_are_added() -> None:
    """No label has a majority, the terriers have one, and dogs a larger one."""
    certificate = certificate_of((20, 20, 10, 5, 40, 0, 5), (350, 300, 100, 50, 180, 10, 0), 10)
    fine, coarse = group_certificates(certificate, LEVELS)
    assert (fine.level, fine.group, fine.labels) == ("kinds", "terrier", (0, 1))
    assert (coarse.level, coarse.group, coarse.labels) == ("animals", "dog", (0, 1, 2, 3))
    for found, successes in ((fine, 650), (coarse, 800)):
        bound = stats.beta.ppf(0.0005, successes, 1001 - successes)
        assert found.alpha == 0.0005  # two levels share 0.001
        assert found.lower_bound == pytest.approx(bound)
        assert found.radius == pytest.approx(stats.norm.ppf(bound), abs=1e-6)
    assert coarse.certified
    assert coarse.to_dict()["radius"] <= coarse.radius


def test_levels_share_alpha_or_have_it_whole() -> None:
    certificate = certificate_of((50, 50), (330, 330, 0, 0, 340))
    whole = stats.norm.ppf(stats.beta.ppf(0.001, 660, 341))
    split = stats.norm.ppf(stats.beta.ppf(0.0005, 660, 341))
    for shares, expected in ((False, whole), (True, split)):
        for found in group_certificates(certificate, LEVELS, split=shares):
            assert found.radius == pytest.approx(expected, abs=1e-6)
            assert found.alpha == (0.0005 if shares else 0.001)


def test_the_finer_group_is_chosen_within_the_coarser_one() -> None:
    """The cats have more votes than the terriers, but fewer than all dogs together."""
    certificate = certificate_of((10, 10, 25, 15, 20, 20), (10, 10, 25, 15, 20, 20))
    fine, coarse = group_certificates(certificate, LEVELS)
    assert (fine.group, coarse.group) == ("hound", "dog")
    fine, _ = group_certificates(certificate, (FINE, Groups({"all": range(7)})))
    assert fine.group == "cat"


def test_a_label_without_a_group_stands_for_itself() -> None:
    certificate = certificate_of((0, 0, 0, 0, 0, 0, 9), (0, 0, 0, 0, 0, 0, 100))
    fine, coarse = group_certificates(certificate, LEVELS)
    assert (fine.group, fine.labels, coarse.labels) == (None, (6,), (6,))
    assert FINE.most_voted(counts_of(Stage.SELECTION, ())) == (None, ())


def test_without_votes_nothing_is_proven() -> None:
    plan = FixedBudget(n0=10, n=100)
    counts = {
        Stage.SELECTION: counts_of(Stage.SELECTION, (), 10),
        Stage.ESTIMATION: counts_of(Stage.ESTIMATION, ()),
    }
    found = group_certificates(plan.certificate(counts, setting_of()), LEVELS)
    assert [(held.labels, held.radius) for held in found] == [((), 0.0)] * 2


def test_a_plan_without_selection_is_refused() -> None:
    plan = Anytime((0.25,), max_n=100, n0=0)
    certificate = plan.certificate(stages(None, (60, 40)), setting_of())
    with pytest.raises(SettingError, match="--n0 50"):
        group_certificates(certificate, LEVELS)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a": (1, 2), "b": (2,)}, "The label 2 is in the group 'a' and in 'b'"),
        ({"a": (1, 1)}, "The label 1 is in the group 'a' and in 'a'"),
        ({"a": ()}, "'a' must have labels"),
        ({"a": (-1,)}, "'a' must have labels"),
    ],
)
def test_groups_must_be_disjoint(members: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Groups(members)


def test_levels_must_be_nested() -> None:
    assert check_nested(LEVELS) == LEVELS
    with pytest.raises(SettingError, match="'dog' of the level 'animals' is not within one group"):
        check_nested((COARSE, FINE))
    with pytest.raises(SettingError, match="at least one level"):
        check_nested(())


def test_levels_must_have_names_of_their_own() -> None:
    with pytest.raises(SettingError, match="Two levels of groups have the name 'kinds'"):
        check_nested((FINE, Groups({"all": range(7)}, "kinds")))
    with pytest.raises(SettingError, match="'groups'"):
        Anytime((0.25,), groups=(Groups({"a": (1,)}), Groups({"b": (1, 2)})))


def test_the_finest_group_at_a_radius_has_the_whole_alpha() -> None:
    """650 terriers and 800 dogs of 1,000: each passes up to its bound at alpha, not at half."""
    certificate = certificate_of((20, 20, 10, 5, 40, 0, 5), (350, 300, 100, 50, 180, 10, 0), 10)
    fine, coarse = (
        stats.norm.ppf(stats.beta.ppf(0.001, successes, 1001 - successes))
        for successes in (650, 800)
    )
    split = stats.norm.ppf(stats.beta.ppf(0.0005, 650, 351))
    for radius, level in ((0.1, "kinds"), ((split + fine) / 2, "kinds"), (fine + 1e-6, "animals")):
        found = finest_group(certificate, LEVELS, radius)
        assert found is not None
        assert (found.level, found.radius, found.alpha) == (level, radius, 0.001)
    assert finest_group(certificate, LEVELS, coarse + 1e-6) is None
    at_half = finest_group(certificate, LEVELS, 0.1, alpha=0.0005)
    assert at_half is not None
    assert at_half.lower_bound == pytest.approx(stats.beta.ppf(0.0005, 650, 351))


@pytest.mark.parametrize("radius", [0.0, -0.1, math.inf, math.nan])
def test_the_radius_of_the_finest_group_is_a_length(radius: float) -> None:
    certificate = certificate_of((10,), (100,))
    with pytest.raises(SettingError, match="radius must be a length above 0"):
        finest_group(certificate, LEVELS, radius)


def test_groups_as_plain_values() -> None:
    values = {"level": "animals", "members": {"dog": "0-3", "cat": "4, 6-7"}}
    groups = Groups({"dog": range(4), "cat": (4, 6, 7)}, "animals")
    assert groups.to_dict() == values
    assert Groups.from_dict(values) == groups
    assert hash(Groups.from_dict(values)) == hash(groups)
    for broken in ({}, {"level": "a", "members": {"b": "x"}}, {"level": "a", "members": [1]}):
        with pytest.raises(SettingError, match="ranges of labels"):
            Groups.from_dict(broken)


@pytest.mark.parametrize(
    "members",
    [
        {"dog": "0-9999999999"},
        {"dog": "0-60000", "cat": "60001-120000"},
        {"dog": "0," * 100_000 + "0"},
        {"dog": "0-9", "cat": "5"},
        {"dog": "0, 1, 0"},
    ],
    ids=["range", "ranges", "parts", "groups", "twice"],
)
def test_plain_values_that_name_too_many_labels_or_one_twice_are_refused(
    members: dict[str, str],
) -> None:
    with pytest.raises(SettingError, match=r"at most 100,000 labels|must be disjoint") as caught:
        Groups.from_dict({"level": "animals", "members": members})
    assert len(str(caught.value)) < 1_000


def test_many_labels_are_read_at_once() -> None:
    """Quadratic in the labels, each of these would take minutes."""
    began = time.perf_counter()
    coarse = Groups.from_dict({"level": "one", "members": {"all": "0-99999"}})
    fine = Groups.from_dict(
        {"level": "each", "members": {f"label {label}": str(label) for label in range(100_000)}}
    )
    assert check_nested((fine, coarse)) == (fine, coarse)
    assert time.perf_counter() - began < 10.0
    with pytest.raises(SettingError, match="at most 32, got more"):
        check_nested([coarse] * 33)


def test_the_exact_chance_that_any_level_is_wrong_at_one_radius() -> None:
    """Summed over all counts of terriers, other dogs and the rest, at probabilities on the edge.

    The radius needs a probability above p0. With the terriers at p0 and dogs at p0 (no other
    dogs), or the terriers far below and dogs at p0, the levels are wrong together or alone.
    """
    n, alpha, radius = 60, 0.05, 0.3
    p0 = 1 - failure_for_radius(1.0, radius)
    plan, setting = FixedBudget(n0=10, n=n), setting_of(1.0, alpha)
    chance = dict.fromkeys((0.0, 0.02, 0.3), 0.0)
    for terriers, hounds in product(range(n + 1), repeat=2):
        if terriers + hounds > n:
            continue
        counts = stages((10,), (terriers, 0, hounds, 0, n - terriers - hounds))
        found = group_certificates(plan.certificate(counts, setting), LEVELS, split=False)
        assert found[0].radius <= found[1].radius  # the tests are nested
        if any(held.radius >= radius for held in found):
            for other in chance:
                p = (p0 - other, other, 1 - p0)
                chance[other] += float(
                    stats.multinomial.pmf((terriers, hounds, n - terriers - hounds), n, p)
                )
    assert all(0.01 < total <= alpha for total in chance.values())


def test_the_share_of_wrong_groups_stays_within_alpha() -> None:
    """Dogs have half of the votes, which proves nothing; a tenth of the copies fails."""
    random, repeats, alpha = np.random.default_rng(1), 4000, 0.05
    plan, setting, wrong = FixedBudget(n0=20, n=300), setting_of(0.5, alpha), 0
    p = (0.2, 0.2, 0.05, 0.05, 0.4)
    draws = random.multinomial(300, [*p, 0.1], repeats)
    for *votes, failed in draws.tolist():
        counts = stages((5, 5, 5, 5), tuple(votes), failed)
        found = group_certificates(plan.certificate(counts, setting), LEVELS)
        wrong += any(held.certified for held in found)
    assert 0.1 * alpha * repeats < wrong
    assert stats.binomtest(wrong, repeats, alpha, alternative="greater").pvalue > 1e-6
