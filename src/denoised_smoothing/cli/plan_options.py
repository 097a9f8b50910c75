"""Options of the sampling plan."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans import plan_from_options
from denoised_smoothing.cli.options import Radii, in_copies, parse_radii

PAID_EVERY = 10
"""Copies between the checks of an anytime plan with paid queries, so that few are unneeded."""


class PlanKind(StrEnum):
    """Sampling plans by name."""

    FIXED = "fixed"
    ANYTIME = "anytime"
    RADIUS = "radius"


@dataclass(frozen=True)
class PlanOptions:
    """The options as typed; None or False for those that were omitted.

    ``radii`` are also those of the table, so every plan accepts them.
    """

    plan: Annotated[
        PlanKind | None,
        in_copies(
            "Sampling plan. fixed: n copies per image. anytime: stop when the radii are "
            "decided. radius: reach a share of the radius that a fixed n would give.",
            show_default="fixed; anytime for paid queries",
        ),
    ] = None
    n0: Annotated[
        int | None,
        in_copies(
            "Noisy copies that choose the candidate class. anytime also accepts 0.",
            show_default="100; anytime 50; radius a tenth of --of-n",
        ),
    ] = None
    n: Annotated[
        int | None,
        in_copies("fixed: noisy copies that bound its probability.", show_default="10000"),
    ] = None
    max_n: Annotated[
        int | None, in_copies("anytime: maximum number of copies per image.", show_default="10000")
    ] = None
    more: Annotated[
        int | None, in_copies("anytime: extend a stored run by N copies per image.", metavar="N")
    ] = None
    of_n: Annotated[
        int | None, in_copies("radius: the fixed n to compare with.", show_default="10000")
    ] = None
    share: Annotated[
        float | None,
        in_copies("radius: share of that radius to reach, in (0, 1).", show_default="0.95"),
    ] = None
    two_sided: Annotated[
        bool,
        in_copies(
            "fixed: bound the runner-up too, for classifiers without a majority.", "--two-sided"
        ),
    ] = False
    radii: Radii = None

    def build(self, *, paid: bool) -> SamplingPlan:
        """Build the sampling plan.

        Without ``--plan``, paid queries use anytime. ``--more`` uses the plan of its run, for
        which fixed stands, and ``--n`` belongs to fixed.

        Raises:
            SettingError: an option is out of range, or of another plan.
        """
        anytime = paid and self.more is None and self.n is None
        kind = self.plan or (PlanKind.ANYTIME if anytime else PlanKind.FIXED)
        given: dict[str, Any] = {
            name: value
            for name in ("n0", "n", "max_n", "of_n", "share", "two_sided")
            if (value := getattr(self, name)) is not None and value is not False  # 0 was typed
        }
        if kind is PlanKind.ANYTIME:
            radii = parse_radii(self.radii)
            given |= {"radii": radii} if radii else {}
            given |= {"every": PAID_EVERY} if paid else {}
        return plan_from_options(kind, given, spelled=lambda name: f"--{name.replace('_', '-')}")
