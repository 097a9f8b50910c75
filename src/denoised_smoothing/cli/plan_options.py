"""The options that make a sampling plan."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.errors import SettingError


class PlanKind(StrEnum):
    """Sampling plans by name."""

    FIXED = "fixed"
    ANYTIME = "anytime"
    RADIUS = "radius"


Plan = Annotated[
    PlanKind | None,
    typer.Option(
        help="fixed: n copies an image. anytime: as many as it takes to know the radii. "
        "radius: a share of the radius that a fixed n would give.",
        show_default="fixed; anytime where answers are bought",
    ),
]
N0 = Annotated[
    int | None,
    typer.Option(
        help="Noisy copies that choose the candidate class; anytime takes 0 as well.",
        show_default="100; anytime 50; radius a tenth of --of-n",
    ),
]
N = Annotated[
    int | None,
    typer.Option(help="fixed: copies that bound its probability.", show_default="10000"),
]
MaxN = Annotated[
    int | None, typer.Option(help="anytime: the cap on copies an image.", show_default="10000")
]
More = Annotated[
    int | None,
    typer.Option(help="anytime: continue a run that exists with so many more copies an image."),
]
OfN = Annotated[
    int | None,
    typer.Option(help="radius: the fixed n to compare with.", show_default="10000"),
]
Share = Annotated[
    float | None, typer.Option(help="radius: share of its radius to reach.", show_default="0.95")
]
TwoSided = Annotated[
    bool,
    typer.Option(
        "--two-sided", help="fixed: bound the runner-up too, for classifiers without a majority."
    ),
]

_TAKES = {
    PlanKind.FIXED: {"n0", "n", "two_sided"},
    PlanKind.ANYTIME: {"n0", "max_n", "radii"},
    PlanKind.RADIUS: {"n0", "of_n", "share"},
}
_PLANS: dict[PlanKind, type[SamplingPlan]] = {
    PlanKind.FIXED: FixedBudget,
    PlanKind.ANYTIME: Anytime,
    PlanKind.RADIUS: RadiusTarget,
}


@dataclass(frozen=True)
class PlanOptions:
    """What was given on the command line; None or False for what was not.

    ``radii`` are those of the table as well, so that every plan takes them.
    """

    n0: int | None = None
    n: int | None = None
    max_n: int | None = None
    radii: tuple[float, ...] | None = None
    of_n: int | None = None
    share: float | None = None
    two_sided: bool = False

    def plan(self, kind: PlanKind, *, every: int | None = None) -> SamplingPlan:
        """The plan of a kind; ``every`` is the number of copies between decisions of anytime.

        Raises:
            SettingError: an option is out of range, or does not belong to this kind.
        """
        given = {
            name: value
            for name, value in vars(self).items()
            if value is not None and value is not False  # 0 was given
        }
        strange = sorted(set(given) - _TAKES[kind] - {"radii"})
        if strange:
            options = ", ".join("--" + name.replace("_", "-") for name in strange)
            kinds = [other.value for other in PlanKind if set(strange) <= _TAKES[other]]
            hint = f"with --plan {' or '.join(kinds)}" if kinds else "with plans of its own"
            raise SettingError(f"--plan {kind.value} takes no {options}; it goes {hint}")
        taken = {name: given[name] for name in given if name in _TAKES[kind]}
        if kind is PlanKind.ANYTIME and every is not None:
            taken["every"] = every
        return _PLANS[kind](**taken)


BOUGHT_EVERY = 10
"""Copies between decisions of an anytime plan whose answers are bought: few are in vain."""


def default_kind(*, bought: bool, more: int | None, n: int | None) -> PlanKind:
    """The plan where none is named: anytime where answers are bought, else fixed.

    A continuation (``more``) has the plan of its run, for which fixed stands; a given ``n`` is
    one of a fixed budget.
    """
    return PlanKind.ANYTIME if bought and more is None and n is None else PlanKind.FIXED
