"""Sampling plans: how many noisy copies an image gets, and what they prove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans.anytime import Anytime
from denoised_smoothing.certificates.plans.fixed import FixedBudget
from denoised_smoothing.certificates.plans.radius import RadiusTarget
from denoised_smoothing.errors import SettingError

__all__ = ["Anytime", "FixedBudget", "RadiusTarget", "plan_from_dict"]


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
