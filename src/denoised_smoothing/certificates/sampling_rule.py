"""The rule of a sampling plan: how many noisy copies, and the bounds that hold however it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from denoised_smoothing.certificates.bounds import check_alpha
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.fields import (
    AS_WRITTEN,
    Fields,
    quoted,
    refused_as_malformed,
    same,
)
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.errors import MalformedCertificateError, SettingError


@dataclass(frozen=True)
class SamplingRule(ABC):
    """A rule for the number of noisy copies, and the bounds that hold however it ends.

    The stopping rule belongs to the plan: the scheduling loop calls :meth:`targets` whenever a
    target is reached, and in between, and ends the image when all are.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Any]]] = {}
    """Every plan by its kind; a plan that names its kind registers itself."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in vars(cls):
            SamplingRule.kinds[cls.kind] = cls

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan that :meth:`to_dict` wrote.

        Raises:
            SettingError: this version does not know its kind.
        """
        kind = values.get("kind", "")
        if kind not in cls.kinds:
            raise SettingError(
                f"Unknown sampling plan {kind!r}, expected one of {', '.join(sorted(cls.kinds))}. "
                "A newer version may know it: pip install --upgrade denoised-smoothing"
            )
        plan: Self = cls.kinds[kind](
            **{name: value for name, value in values.items() if name != "kind"}
        )
        return plan

    @classmethod
    def from_document(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan of a stored certificate: all options are there, as it was written.

        Raises:
            MalformedCertificateError: an option is missing or unknown, or has another type.
        """
        with refused_as_malformed("The plan of the certificate cannot be used"):
            given = Fields(values, "plan")
            if kind := cls.kinds.get(given.text("kind")):
                for option in fields(kind):
                    given.take(option.name, "a value", lambda value: True, None)
                    if type(option.default) is bool:
                        given.take(option.name, "true or false", lambda v: type(v) is bool, None)
                given.end()
            plan = cls.from_dict(values)
        if not same(plan.to_dict(), values):
            raise MalformedCertificateError(
                f"The field 'plan' of the certificate is {quoted(values)}, which would be written "
                f"as {quoted(plan.to_dict())}. {AS_WRITTEN}"
            )
        return plan

    @abstractmethod
    def targets(
        self, counts: Mapping[Stage, LabelCounts], parameters: SmoothingParameters
    ) -> dict[Stage, int]:
        """Return the copies wanted in each stage, given the counts so far.

        Stages are counted one after the other, in the order of the result. The target of a stage
        only grows once it has copies; before that, it says what may be drawn in advance, and
        falls if the stage turns out to be needless. A decision depends on the counts at fixed
        numbers of copies alone, never on how many happen to have come back, so that it is the
        same in any order and after any interruption.
        """

    @abstractmethod
    def event_bound(
        self,
        counts: Mapping[Stage, LabelCounts],
        occurred: Callable[[LabelCounts], int],
        alpha: float,
        parameters: SmoothingParameters,
    ) -> float:
        """Return an upper bound on the probability that a copy has a property.

        It holds with probability at least 1 - alpha however the plan ended, also for a property
        that the stopping rule did not ask about.

        Args:
            counts: the finished counts of an image.
            occurred: returns the copies with the property among those counted. The property must
                be chosen without the copies of estimation and continuation; from those of
                selection, for example. The number may be too large, such as by failed copies.
            alpha: level of the bound, in (0, 1).
            parameters: those of the run.

        Raises:
            SettingError: the plan has no separate copies that could choose the property.
        """

    @abstractmethod
    def most_calls(self) -> int:
        """Return the maximum number of classifier calls for an image."""

    @property
    def selects(self) -> bool:
        """Whether separate copies choose what is bounded, as :meth:`event_bound` needs."""
        return True

    def check_selects(self) -> None:
        """Check that separate copies choose what is bounded.

        Raises:
            SettingError: the plan has none.
        """
        if not self.selects:
            raise SettingError(
                "Groups, sets and top-k certificates need copies that choose them, and this plan "
                "has none (n0 = 0). Start a run with n0 of at least 1, such as --n0 50."
            )

    def check_alpha(self, alpha: float) -> None:
        """Check that the plan's bounds accept an alpha, before anything is drawn.

        Raises:
            SettingError: it is out of range.
        """
        check_alpha(alpha)

    def extended(self, more: int) -> Self:
        """Return the plan with ``more`` copies allowed for an image.

        Raises:
            SettingError: the plan's bound holds for the number fixed in advance alone.
        """
        raise SettingError(
            f"A run of the plan {self.kind!r} cannot be extended by {more} copies: its bound "
            "holds for a number of copies that was fixed before any was drawn. Start a new run; "
            "one with --plan anytime can be extended."
        )

    def joined(self, other: SamplingRule) -> Self | None:
        """Return the plan with which a run of this plan resumes as ``other``; None if it cannot."""
        return self if other == self else None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, the inverse of :meth:`from_dict`."""
        return {"kind": self.kind, **asdict(self)}
