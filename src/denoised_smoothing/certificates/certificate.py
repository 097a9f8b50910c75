"""Certificates, and the interface of the sampling plans that give them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from typing import Any, ClassVar

from denoised_smoothing.certificates.bounds import check_alpha
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import Contract, Noise, SmoothingParameters
from denoised_smoothing.certificates.radii import (
    LEVEL,
    format_down,
    l1_radius,
    linf_radius,
    round_down,
)
from denoised_smoothing.errors import SettingError

_BELOW_A_LEVEL = (
    "The Linf radius is below 1/255, the step between 8-bit values: around an 8-bit image, no "
    "other 8-bit image lies within it."
)


@dataclass(frozen=True)
class SamplingPlan(ABC):
    """A rule for the number of noisy copies and the conclusion from them.

    The stopping rule belongs to the plan: the scheduling loop calls :meth:`targets` whenever a
    target is reached, and in between, and ends the image when all are.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[SamplingPlan]]] = {}
    """Every plan by its kind; a plan that names its kind registers itself."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in vars(cls):
            SamplingPlan.kinds[cls.kind] = cls

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingPlan:
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
        return cls.kinds[kind](**{name: value for name, value in values.items() if name != "kind"})

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
    def certificate(
        self, counts: Mapping[Stage, LabelCounts], parameters: SmoothingParameters
    ) -> Certificate:
        """Return the certificate that the finished counts prove.

        Raises:
            CountsError: the plan does not allow a conclusion from these counts.
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

    def extended(self, more: int) -> SamplingPlan:
        """Return the plan with ``more`` copies allowed for an image.

        Raises:
            SettingError: the plan's bound holds for the number fixed in advance alone.
        """
        raise SettingError(
            f"A run of the plan {self.kind!r} cannot be extended by {more} copies: its bound "
            "holds for a number of copies that was fixed before any was drawn. Start a new run; "
            "one with --plan anytime can be extended."
        )

    def joined(self, other: SamplingPlan) -> SamplingPlan | None:
        """Return the plan with which a run of this plan resumes as ``other``; None if it cannot."""
        return self if other == self else None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, the inverse of :meth:`from_dict`."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Certificate:
    """The proof that the smoothed classifier answers ``label`` within ``radius``.

    With probability at least 1 - alpha over the noise, the smoothed classifier gives ``label``
    to every image closer than ``radius`` in L2 (Cohen et al. 2019, Theorem 1 and
    Proposition 2), on the 8-bit grid or not. ``label is None`` means that it abstains: nothing
    is proven.

    ``radius`` is the computed number in units of pixel values in [0, 1]; wherever it leaves
    the program (text, JSON, tables) it is rounded down. ``lower_bound`` is the lower
    confidence bound on the probability of the candidate class, ``upper_bound`` that on every
    other class where the plan bounds it (two-sided), else None.
    """

    label: int | None
    radius: float
    lower_bound: float
    plan: SamplingPlan
    parameters: SmoothingParameters
    selection: LabelCounts
    counts: LabelCounts
    continuation: LabelCounts | None = None
    upper_bound: float | None = None

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return self.parameters.sigma

    @property
    def alpha(self) -> float:
        """Probability, over the noise, that the certificate is wrong."""
        return self.parameters.alpha

    @property
    def seed(self) -> int:
        """Seed of the noise, which draws the same counts again."""
        return self.parameters.seed

    @property
    def noise(self) -> Noise:
        """Sampler that the certificate rests on."""
        return self.parameters.noise

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a reader of the certificate should know."""
        derived = (_BELOW_A_LEVEL,) if self._is_below_a_level else ()
        return (*self.parameters.notes, *derived)

    @property
    def calls(self) -> int:
        """Number of classifier calls (noisy copies)."""
        return sum(stage.n for stage in self.stages)

    @property
    def stages(self) -> tuple[LabelCounts, ...]:
        """Counts of every stage."""
        more = () if self.continuation is None else (self.continuation,)
        return (self.selection, self.counts, *more)

    @property
    def radius_l1(self) -> float:
        """Radius in L1 that the L2 radius implies."""
        return l1_radius(self.radius)

    @cached_property
    def radius_linf(self) -> float:
        """Radius in Linf that the L2 radius implies: radius / sqrt(C * H * W)."""
        return linf_radius(self.radius, self.parameters.dimension)

    @property
    def _is_below_a_level(self) -> bool:
        return self.label is not None and self.radius_linf < LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, radii and the bound rounded down to 6 decimals."""
        upper = self.upper_bound
        return {
            "label": self.label,
            "radius": round_down(self.radius, 6),
            "radius_l1": round_down(self.radius_l1, 6),
            "radius_linf": round_down(self.radius_linf, 6),
            "lower_bound": round_down(self.lower_bound, 6),
            **({} if upper is None else {"upper_bound": -round_down(-upper, 6)}),
            "sigma": self.sigma,
            "alpha": self.alpha,
            "plan": self.plan.to_dict(),
            "calls": self.calls,
            "noise": self.noise.value,
            "engine": self.parameters.engine and self.parameters.engine.value,
            "precision": self.parameters.precision and self.parameters.precision.value,
            "contract": self.parameters.contract.value,
            "notes": list(self.notes),
            "dimension": self.parameters.dimension,
            "seed": str(self.seed),
            "run": self.counts.run,
            "image_id": self.counts.image_id,
            **{counts.stage.value: counts.to_dict() for counts in self.stages},
        }

    def to_json(self) -> str:
        """Return the certificate as one JSON object, the inverse of :meth:`from_json`."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read :meth:`to_json` back; label and radius are computed again from the counts.

        Raises:
            CountsError, SettingError: the counts do not fit the plan, or a value is out of range.
        """
        values = json.loads(text)
        values["notes"] = [note for note in values.get("notes", ()) if note != _BELOW_A_LEVEL]
        counts = {
            stage: LabelCounts(
                values["run"],
                values["image_id"],
                stage,
                values[stage.value]["counts"],
                values[stage.value]["failed"],
            )
            for stage in (Stage.SELECTION, Stage.ESTIMATION, Stage.CONTINUATION)
            if stage.value in values
        }
        parameters = SmoothingParameters.from_dict(values)
        return SamplingPlan.from_dict(values["plan"]).certificate(counts, parameters)

    def __str__(self) -> str:
        bound = f"lower bound {format_down(self.lower_bound)} at alpha {self.alpha:g}"
        rest = (
            f"sigma {self.sigma:g}, {self.calls:,} classifier calls, {self.noise.described}, "
            f"{self.parameters.executed}"
        )
        if self.parameters.contract is not Contract.CHECKED:
            rest += f", {self.parameters.contract.described}"
        if self.label is None:
            said = f"abstains: nothing certified ({bound}, {rest})"
        else:
            linf = format_down(self.radius_linf, 5) + " < 1/255" * self._is_below_a_level
            said = (
                f"label {self.label} within L2 radius {format_down(self.radius)} "
                f"(L1 {format_down(self.radius_l1)}, Linf {linf}; {bound}, {rest})"
            )
        return "\n".join([said, *(f"note: {note}" for note in self.parameters.notes)])

    def _repr_html_(self) -> str:
        rows = {
            "label": "abstains" if self.label is None else str(self.label),
            "L2 radius": format_down(self.radius),
            "L1 radius": format_down(self.radius_l1),
            "Linf radius": format_down(self.radius_linf, 5),
            "lower bound": format_down(self.lower_bound),
            "sigma": f"{self.sigma:g}",
            "alpha": f"{self.alpha:g}",
            "classifier calls": f"{self.calls:,}",
            "noise": self.noise.described,
            "engine": self.parameters.executed,
            "base classifier": self.parameters.contract.described,
            **({"note": " ".join(map(escape, self.notes))} if self.notes else {}),
        }
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table>{cells}</table>"
