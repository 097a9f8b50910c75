"""Sampling plans: how many noisy copies an image gets, and what they prove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from denoised_smoothing.certificates.bounds import check_copies, clopper_pearson_lower
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.certificates.setting import Setting
from denoised_smoothing.errors import CountsError, SettingError


@dataclass(frozen=True)
class FixedBudget(SamplingPlan):
    """n0 copies choose the candidate class, n others bound its probability.

    CERTIFY of Cohen et al. 2019, section 3.2.2. The budget is fixed in advance and may not be
    extended afterwards: the Clopper-Pearson bound would no longer hold.

    Raises:
        SettingError: n0 or n is below 1.
    """

    kind: ClassVar[str] = "fixed"
    n0: int = 100
    n: int = 10_000

    def __post_init__(self) -> None:
        check_copies("n0", self.n0)
        check_copies("n", self.n)

    def targets(self, counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
        return {Stage.SELECTION: self.n0, Stage.ESTIMATION: self.n}

    def certificate(self, counts: Mapping[Stage, LabelCounts], setting: Setting) -> Certificate:
        for stage, target in self.targets(counts).items():
            had = counts[stage].n if stage in counts else 0
            if had != target:
                raise CountsError(
                    f"a fixed budget of {target} copies for {stage} cannot be certified from "
                    f"{had}: the bound holds for exactly the number fixed in advance"
                )
        selection, estimation = counts[Stage.SELECTION], counts[Stage.ESTIMATION]
        _check_independent(selection, estimation)
        candidate = selection.top()
        successes = 0 if candidate is None else estimation.of(candidate)
        lower = clopper_pearson_lower(successes, estimation.n, setting.alpha)
        certified = candidate is not None and lower >= 0.5
        return Certificate(
            label=candidate if certified else None,
            radius=gaussian_radius(setting.sigma, lower) if certified else 0.0,
            lower_bound=lower,
            plan=self,
            setting=setting,
            selection=selection,
            counts=estimation,
        )


def _check_independent(selection: LabelCounts, estimation: LabelCounts) -> None:
    """Refuse to certify on the copies that chose the candidate, or across images or runs."""
    got = (selection.stage, estimation.stage)
    if got != (Stage.SELECTION, Stage.ESTIMATION):
        raise CountsError(f"expected counts of selection and of estimation, got {got}")
    if (selection.run, selection.image_id) != (estimation.run, estimation.image_id):
        raise CountsError(
            f"selection is of image {selection.image_id!r} in run {selection.run!r}, estimation "
            f"of {estimation.image_id!r} in {estimation.run!r}; they must be of one image and run"
        )


def plan_from_dict(values: Mapping[str, Any]) -> SamplingPlan:
    """The plan that :meth:`SamplingPlan.to_dict` wrote.

    Raises:
        SettingError: of a kind that this version does not know.
    """
    known: dict[str, type[SamplingPlan]] = {FixedBudget.kind: FixedBudget}
    kind = values.get("kind", "")
    if kind not in known:
        raise SettingError(f"unknown sampling plan {kind!r}; this version knows {sorted(known)}")
    return known[kind](**{name: value for name, value in values.items() if name != "kind"})
