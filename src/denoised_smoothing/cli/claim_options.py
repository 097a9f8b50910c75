"""Options that ask for answers next to the top label: sets, groups and top-k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from denoised_smoothing.cli.grouped import option_group
from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.certificates.certificate import SamplingPlan
    from denoised_smoothing.reporting.further_claims import Questions

_option = option_group("Output")


@dataclass(frozen=True)
class ClaimOptions:
    """The options as typed; None for those that were omitted."""

    sets: str | None = _option(
        "Certify sets of at most N labels, for each N: 2,3,5.", show_default="none", metavar="SIZES"
    )
    groups: str | None = _option(
        "Certify groups of labels: a file with lines GROUP = LABEL, LABEL, or imagenet.",
        show_default="none",
        metavar="FILE",
    )
    top_k: str | None = _option(
        "Certify that a label stays among the N most probable: 3,5.",
        show_default="none",
        metavar="NUMBERS",
    )

    decide: str | None = option_group("Copies")(
        "anytime: what sampling decides about: top,groups,sets.",
        show_default="top",
        metavar="NAMES",
    )

    @property
    def typed(self) -> bool:
        """Whether any of them was typed."""
        return replace(self, decide=None) != ClaimOptions()

    def build(self, names: Mapping[int, str] | Sequence[str] | None) -> Questions | None:
        """Return the questions, or None if there is none.

        Args:
            names: of the classifier's labels, for the groups.

        Raises:
            SettingError: a number is out of range, or the groups are not as they must be.
        """
        from denoised_smoothing.models.label_groups import read_groups
        from denoised_smoothing.reporting.further_claims import Questions

        if not self.typed:
            return None
        return Questions(
            () if self.sets is None else _sizes("--sets", self.sets),
            () if self.groups is None else read_groups(self.groups, names),
            () if self.top_k is None else _sizes("--top-k", self.top_k),
        )

    def deciding(self, plan: SamplingPlan, questions: Questions | None) -> SamplingPlan:
        """Return the plan that also draws copies until groups and sets are decided.

        Raises:
            SettingError: ``--decide`` names something else, or what is not asked for; or the
                plan is not an anytime plan.
        """
        from denoised_smoothing.certificates.plans import Anytime

        names = set((self.decide or "top").split(","))
        if not {"top"} <= names <= {"top", "groups", "sets"}:
            raise SettingError(
                "--decide must be top, alone or with groups and sets, separated by commas, got "
                f"{self.decide!r}. Write for example --decide top,groups,sets."
            )
        if names == {"top"}:
            return plan
        if not isinstance(plan, Anytime):
            raise SettingError(
                f"--decide {self.decide} needs an anytime plan, got {plan.kind}. Use --plan "
                "anytime, or remove --decide."
            )
        found = {
            "sets": () if questions is None else tuple(questions.sizes),
            "groups": () if questions is None else tuple(questions.levels),
        }
        if missing := sorted(name for name in names - {"top"} if not found[name]):
            raise SettingError(
                f"--decide {self.decide} needs --{missing[0]}, got none. Add --{missing[0]}, or "
                "remove it from --decide."
            )
        asked: dict[str, Any] = {name: found[name] for name in names - {"top"}}
        return replace(plan, **asked)


def _sizes(option: str, text: str) -> tuple[int, ...]:
    from denoised_smoothing.certificates.sets import check_sizes

    try:
        return check_sizes([int(part) for part in text.split(",")])
    except ValueError as error:  # as are settings out of range
        raise SettingError(
            f"{option} must be whole numbers of at least 1, separated by commas, got {text!r}. "
            f"Write for example {option} 2,3,5."
        ) from error
