"""Options that ask what votes prove beside the top label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from denoised_smoothing.cli.grouped import option_group
from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.reporting.further_claims import Questions

_option = option_group("Output")


@dataclass(frozen=True)
class ClaimOptions:
    """The options as typed; None for those that were omitted."""

    sets: str | None = _option(
        "Certify sets of at most so many labels: 2,3,5.", show_default="none", metavar="SIZES"
    )
    groups: str | None = _option(
        "Certify groups of labels: a file with lines GROUP = LABEL, LABEL, or imagenet.",
        show_default="none",
        metavar="FILE",
    )
    top_k: str | None = _option(
        "Certify that a label stays among the k most probable: 3,5.",
        show_default="none",
        metavar="NUMBERS",
    )

    @property
    def typed(self) -> bool:
        """Whether any of them was typed."""
        return self != ClaimOptions()

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


def _sizes(option: str, text: str) -> tuple[int, ...]:
    from denoised_smoothing.certificates.sets import check_sizes

    try:
        return check_sizes([int(part) for part in text.split(",")])
    except ValueError as error:  # as are settings out of range
        raise SettingError(
            f"{option} must be whole numbers of at least 1, separated by commas, got {text!r}. "
            f"Write for example {option} 2,3,5."
        ) from error
