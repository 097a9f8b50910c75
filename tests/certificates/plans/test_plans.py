from __future__ import annotations

import json

import pytest

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans import (
    Anytime,
    FixedBudget,
    RadiusTarget,
    plan_from_options,
)
from denoised_smoothing.errors import SettingError

PLANS = [
    FixedBudget(17, 4_000),
    FixedBudget(17, 4_000, two_sided=True),
    Anytime((0.5, 0.25), max_n=500, n0=0, every=50, more=70),
    RadiusTarget(of_n=3_000, share=0.9),
    RadiusTarget(n0=70),
]


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
