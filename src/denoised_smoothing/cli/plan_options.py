"""Options of the sampling plan."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans import plan_from_options
from denoised_smoothing.cli.grouped import option_group
from denoised_smoothing.cli.options import REACH, parse_radii

PAID_EVERY = 10
"""Copies between the checks of an anytime plan with paid queries, so that few are unneeded."""
_option = option_group("Copies")


class PlanKind(StrEnum):
    """Sampling plans by name."""

    FIXED = "fixed"
    ANYTIME = "anytime"
    RADIUS = "radius"


@dataclass(frozen=True)
class PlanOptions:
    """The options as typed; None or False for those that were omitted."""

    plan: PlanKind | None = _option(
        "Sampling plan. fixed: n copies per image. anytime: stop when the radii are decided. "
        "radius: reach a share of the radius that a fixed n would give.",
        show_default="fixed; anytime for paid queries",
    )
    n0: int | None = _option(
        "Noisy copies that choose the candidate class. anytime also accepts 0.",
        show_default="100; anytime 50; radius a tenth of --of-n",
    )
    n: int | None = _option("fixed: copies that bound its probability.", show_default="10000")
    max_n: int | None = _option("anytime: maximum copies per image.", show_default="10000")
    more: int | None = _option("anytime: extend a stored run by N copies per image.")
    of_n: int | None = _option("radius: fixed n to compare with.", show_default="10000")
    share: float | None = _option("radius: share of it to reach, in (0, 1).", show_default="0.95")
    two_sided: bool = _option(
        "fixed: bound the runner-up too, for classifiers without a majority.",
        "--two-sided",
        default=False,
    )
    radii: str | None = _option(
        "L2 radii of the table, such as 0.25,0.5. anytime decides about these.", show_default=REACH
    )

    def build(self, *, paid: bool) -> SamplingPlan:
        """Build the sampling plan.

        Without ``--plan``, paid queries use anytime. ``--more`` uses the plan of its run, for
        which fixed stands, and ``--n`` belongs to fixed.

        Raises:
            SettingError: an option is out of range, or of another plan.
        """
        anytime = paid and self.more is None and self.n is None
        kind = self.plan or (PlanKind.ANYTIME if anytime else PlanKind.FIXED)
        typed = {
            name: value
            for name in ("n0", "n", "max_n", "of_n", "share", "two_sided")
            if (value := getattr(self, name)) is not None and value is not False  # 0 was typed
        }
        if kind is PlanKind.ANYTIME:
            typed |= {"every": PAID_EVERY} if paid else {}
            if self.radii is not None:
                typed["radii"] = parse_radii(self.radii)
        return plan_from_options(kind, typed, spelled=lambda name: f"--{name.replace('_', '-')}")
