"""Sampling plans: how many noisy copies an image gets, and what they prove."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans.anytime import Anytime
from denoised_smoothing.certificates.plans.fixed import FixedBudget
from denoised_smoothing.certificates.plans.radius import RadiusTarget
from denoised_smoothing.errors import SettingError

__all__ = ["Anytime", "FixedBudget", "RadiusTarget", "plan_from_options", "plan_or_budget"]


def plan_or_budget(plan: SamplingPlan | None, n0: int | None, n: int | None) -> SamplingPlan:
    """Return the plan, or the fixed budget of n0 and n; omitted ones have their defaults.

    Raises:
        SettingError: both a plan and a number are given.
    """
    numbers: dict[str, Any] = {"n0": n0, "n": n}
    given = {name: value for name, value in numbers.items() if value is not None}
    if plan is not None and given:
        raise SettingError(f"Got both {plan} and {given}. Use a plan, or n0 and n.")
    return plan or FixedBudget(**given)


def plan_from_options(
    kind: str, options: Mapping[str, Any], *, spelled: Callable[[str], str] = str
) -> SamplingPlan:
    """Return the plan of a kind, with the options that a user gave.

    Args:
        kind: fixed, anytime or radius.
        options: values of the plan's arguments, by name; omitted ones have their defaults.
        spelled: how messages write the name of an option.

    Raises:
        SettingError: a value is out of range, or belongs to another kind.
    """
    plans = {plan.kind: plan for plan in (FixedBudget, Anytime, RadiusTarget)}
    accepted = {name: {field.name for field in fields(plan)} for name, plan in plans.items()}
    if extra := [name for name in options if name not in accepted[kind]]:
        names = ", ".join(map(spelled, extra))
        other = [name for name in plans if accepted[name].issuperset(extra)]
        use = f"Use {spelled('plan')} {' or '.join(other)}, or remove" if other else "Remove"
        raise SettingError(f"{spelled('plan')} {kind} does not accept {names}. {use} {names}.")
    return plans[kind](**options)
