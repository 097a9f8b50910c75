"""Sampling plans: how many noisy copies an image gets, and what they prove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans.anytime import Anytime
from denoised_smoothing.certificates.plans.fixed import FixedBudget
from denoised_smoothing.certificates.plans.radius import RadiusTarget
from denoised_smoothing.errors import SettingError

__all__ = ["Anytime", "FixedBudget", "RadiusTarget", "chosen_plan", "plan_from_dict"]


def plan_from_dict(values: Mapping[str, Any]) -> SamplingPlan:
    """The plan that :meth:`SamplingPlan.to_dict` wrote.

    Raises:
        SettingError: of a kind that this version does not know.
    """
    plans: tuple[type[SamplingPlan], ...] = (FixedBudget, Anytime, RadiusTarget)
    known = {plan.kind: plan for plan in plans}
    kind = values.get("kind", "")
    if kind not in known:
        raise SettingError(f"unknown sampling plan {kind!r}; this version knows {sorted(known)}")
    return known[kind](**{name: value for name, value in values.items() if name != "kind"})


def chosen_plan(plan: SamplingPlan | None, n0: int | None, n: int | None) -> SamplingPlan:
    """The plan, or the fixed budget of n0 and n; those not given are as by default.

    Raises:
        SettingError: both were given.
    """
    given: dict[str, Any] = {
        name: value for name, value in (("n0", n0), ("n", n)) if value is not None
    }
    if plan is not None and given:
        raise SettingError(f"give a plan or n0 and n, not both; got {plan} and {given}")
    return plan or FixedBudget(**given)
