from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import (
    Anytime,
    FixedBudget,
    RadiusTarget,
    plan_from_options,
)
from denoised_smoothing.certificates.prediction import PredictionBudget
from denoised_smoothing.errors import SettingError

from ..samples import drive, labels_of, setting_of

PLANS = [
    FixedBudget(17, 4_000),
    FixedBudget(17, 4_000, two_sided=True),
    Anytime((0.5, 0.25), max_n=500, n0=0, every=50, more=70),
    RadiusTarget(of_n=3_000, share=0.9),
    RadiusTarget(n0=70),
]


@pytest.mark.parametrize(
    "plan",
    [
        FixedBudget(5, 120),
        FixedBudget(5, 120, two_sided=True),
        FixedBudget(5, 2),
        Anytime((0.05, 0.15), max_n=100, n0=5, every=4, more=20),
        Anytime((0.05, 0.15), max_n=100, n0=0, every=4),
        RadiusTarget(of_n=120, n0=10),
        PredictionBudget(120),
    ],
    ids=str,
)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(), (0.05,), (0.5,), (0.55, 0.45), (0.3, 0.4, 0.3), (0.9, 0.05), (1.0,)]),
    st.integers(1, 60),
)
def test_counts_do_not_depend_on_when_a_plan_is_asked(
    plan: SamplingPlan | PredictionBudget, seed: int, shares: tuple[float, ...], at_once: int
) -> None:
    """Also where no copy has a label: what is not part of ``shares`` is without one."""
    random, parameters = np.random.default_rng(seed), setting_of(alpha=0.2)
    streams = {stage: labels_of(random, shares, 150) for stage in Stage}
    counts = drive(plan, parameters, streams, at_once=at_once)
    assert counts == drive(plan, parameters, streams)
    if not shares and Stage.SELECTION in counts:  # no candidate, so no estimation
        assert counts[Stage.ESTIMATION].n == 0
    if isinstance(plan, SamplingPlan):
        assert (plan.certificate(counts, parameters).label is None) or shares


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_plans_survive_as_plain_values(plan: SamplingPlan) -> None:
    assert SamplingPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_plain_values_of_a_fixed_budget() -> None:
    assert FixedBudget(17, 4_000).to_dict() == {"kind": "fixed", "n0": 17, "n": 4_000}


@pytest.mark.parametrize(("values", "kind"), [({"kind": "psychic", "n": 1}, "psychic"), ({}, "")])
def test_an_unknown_plan_is_refused(values: dict[str, object], kind: str) -> None:
    message = f"Unknown sampling plan '{kind}', expected one of anytime, fixed, radius"
    with pytest.raises(SettingError, match=message):
        SamplingPlan.from_dict(values)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_an_alpha_is_refused_before_anything_is_drawn(plan: SamplingPlan) -> None:
    plan.check_alpha(0.001)
    with pytest.raises(SettingError, match=r"alpha .* got 1\.5"):
        plan.check_alpha(1.5)
    if isinstance(plan, Anytime):
        with pytest.raises(
            SettingError, match=r"alpha must be at most 0\.36 with an anytime plan, got 0\.5"
        ):
            plan.check_alpha(0.5)
    else:
        plan.check_alpha(0.5)


@pytest.mark.parametrize(
    ("kind", "options", "plan"),
    [
        ("fixed", {}, FixedBudget()),
        ("fixed", {"n0": 17, "n": 400, "two_sided": True}, FixedBudget(17, 400, two_sided=True)),
        ("anytime", {"radii": (0.5, 0.25), "every": 10}, Anytime((0.25, 0.5), every=10)),
        ("anytime", {"n0": 0, "max_n": 500}, Anytime(n0=0, max_n=500)),
        ("radius", {"of_n": 3_000, "share": 0.9}, RadiusTarget(of_n=3_000, share=0.9)),
    ],
)
def test_a_plan_from_options(kind: str, options: dict[str, object], plan: SamplingPlan) -> None:
    assert plan_from_options(kind, options) == plan


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "fixed",
            {"max_n": 9},
            "plan fixed does not accept max_n. Use plan anytime, or remove max",
        ),
        ("radius", {"n": 9}, "plan radius does not accept n. Use plan fixed, or remove n."),
        ("fixed", {"max_n": 9, "of_n": 9}, "does not accept max_n, of_n. Remove max_n, of_n."),
        ("fixed", {"n": 0}, "n must be a whole number of at least 1, got 0"),
    ],
)
def test_options_of_another_plan_are_refused(
    kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        plan_from_options(kind, options)


def test_options_are_spelled_as_the_user_typed_them() -> None:
    message = "--plan fixed does not accept --max_n. Use --plan anytime, or remove --max_n."
    with pytest.raises(SettingError, match=message):
        plan_from_options("fixed", {"max_n": 9}, spelled=lambda name: f"--{name}")
