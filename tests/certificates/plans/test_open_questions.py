"""An anytime plan that also decides about groups and sets of labels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.groups import Groups, group_certificates
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.sets import set_certificates
from denoised_smoothing.errors import SettingError

from ..samples import conclude, drive, setting_of, streams_of

TOP = Anytime((0.25, 0.5), max_n=2000, n0=50, every=50)
SETS = replace(TOP, sets=(2,))
LEVELS = (Groups({"pair": (0, 1)}, "kinds"), Groups({"all": (0, 1, 2, 3)}, "realms"))
GROUPS = replace(TOP, groups=LEVELS)
SETTING = setting_of(0.5)
TORN = (0.48, 0.48, 0.02, 0.02)
SPREAD = (0.25, 0.25, 0.25, 0.25)
STAGES = (Stage.SELECTION, Stage.ESTIMATION, Stage.CONTINUATION)


def test_a_set_is_certified_where_the_top_label_is_given_up() -> None:
    streams = streams_of(np.random.default_rng(0), TORN, TOP, *STAGES)
    early, later = (conclude(plan, SETTING, streams) for plan in (TOP, SETS))
    assert later.counts.n > early.counts.n
    assert set_certificates(early, (2,))[0].radius < 0.5
    assert set_certificates(later, (2,))[0].radius >= 0.5
    assert later.counts.n < SETS.max_n


def test_a_group_is_certified_where_the_top_label_is_given_up() -> None:
    streams = streams_of(np.random.default_rng(0), (0.45, 0.45, 0.05, 0.05), TOP, *STAGES)
    early, later = (conclude(plan, SETTING, streams) for plan in (TOP, GROUPS))
    assert later.counts.n > early.counts.n
    fine, _ = group_certificates(later, LEVELS, split=False)
    assert fine.group == "pair"
    assert fine.radius >= 0.5
    assert later.counts.n < GROUPS.max_n


def test_sets_that_are_improbable_are_given_up() -> None:
    streams = streams_of(np.random.default_rng(1), SPREAD, TOP, *STAGES)
    assert conclude(SETS, SETTING, streams).counts.n < 500


def test_radii_out_of_reach_of_the_cap_are_given_up() -> None:
    """Two labels have all votes, but 200 copies cannot certify twice the noise."""
    plan = Anytime((0.5, 1.1), max_n=200, n0=50, every=50, sets=(2,))
    streams = streams_of(np.random.default_rng(1), (0.5, 0.5), plan, *STAGES)
    ended = conclude(plan, SETTING, streams)
    assert 0.5 <= set_certificates(ended, (2,))[0].radius < 1.1
    assert ended.counts.n < 200


def test_at_the_cap_it_ends() -> None:
    plan = replace(SETS, max_n=100, more=100)
    streams = streams_of(np.random.default_rng(2), (0.45, 0.43, 0.12), plan, *STAGES)
    assert conclude(plan, SETTING, streams).calls <= plan.most_calls()


@pytest.mark.parametrize("plan", [SETS, GROUPS, replace(SETS, groups=LEVELS, max_n=300, more=300)])
@pytest.mark.parametrize("p", [TORN, SPREAD, (0.9, 0.1), (0.6, 0.3, 0.1)])
def test_counts_do_not_depend_on_how_many_copies_come_at_once(
    plan: Anytime, p: tuple[float, ...]
) -> None:
    streams = streams_of(np.random.default_rng(3), p, plan, *STAGES)
    whole = drive(plan, SETTING, streams)
    for at_once in (1, 7, 130) if p == TORN else (17, 130):
        assert drive(plan, SETTING, streams, at_once=at_once) == whole
    assert drive(plan, SETTING, streams, whole) == whole


def test_without_questions_the_plan_is_what_it_was() -> None:
    assert TOP.to_dict().keys() == {"kind", "radii", "max_n", "n0", "every", "more"}


def test_questions_survive_as_plain_values() -> None:
    plan = replace(SETS, sets=(5, 2, 2), groups=LEVELS)
    assert plan.sets == (2, 5)
    again = SamplingPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert hash(again) == hash(plan)
    assert plan.joined(TOP) is None
    assert plan.joined(replace(plan, max_n=3000)) == replace(plan, more=1000)


def test_a_plan_without_selection_is_refused() -> None:
    for questions in ({"sets": (2,)}, {"groups": LEVELS}):
        with pytest.raises(SettingError, match="--n0 50"):
            Anytime(n0=0, **questions)  # type: ignore[arg-type]


def test_questions_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="whole numbers of at least 1"):
        Anytime(sets=(0,))
    with pytest.raises(SettingError, match="not within one group"):
        Anytime(groups=LEVELS[::-1])
