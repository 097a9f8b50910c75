"""Sampling plans: how many noisy copies an image gets, and what they prove."""

from __future__ import annotations

from typing import Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans.anytime import Anytime
from denoised_smoothing.certificates.plans.fixed import FixedBudget
from denoised_smoothing.certificates.plans.radius import RadiusTarget
from denoised_smoothing.errors import SettingError

__all__ = ["Anytime", "FixedBudget", "RadiusTarget", "chosen_plan"]


def plan_or_budget(plan: SamplingPlan | None, n0: int | None, n: int | None) -> SamplingPlan:
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
