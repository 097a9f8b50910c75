"""Certificates, and the interface of the sampling plans that give them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from denoised_smoothing.certificates.bounds import check_alpha
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.fields import (
    AS_WRITTEN,
    Fields,
    parse_json,
    quoted,
    refused_as_malformed,
    same,
)
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.parameters import Contract, Noise, SmoothingParameters
from denoised_smoothing.certificates.radii import (
    LEVEL,
    format_down,
    l1_radius,
    linf_radius,
    round_down,
)
from denoised_smoothing.certificates.reading import (
    BELOW_A_LEVEL,
    BOUNDS,
    FORMAT,
    Document,
    check_derived,
    read_document,
)
from denoised_smoothing.errors import (
    AlteredCertificateError,
    MalformedCertificateError,
    SettingError,
)
from denoised_smoothing.files import write_atomically


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

    @classmethod
    def from_document(cls, values: Mapping[str, Any]) -> SamplingPlan:
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
    def certificate(
        self, counts: Mapping[Stage, LabelCounts], parameters: SmoothingParameters
    ) -> Certificate:
        """Return the certificate that the finished counts prove.

        Raises:
            CountsError: the plan does not allow a conclusion from these counts.
        """

    def recertify(
        self, counts: Mapping[Stage, LabelCounts], parameters: SmoothingParameters, alpha: float
    ) -> Certificate:
        """Return what finished counts prove at a smaller alpha than that of their parameters.

        Raises:
            CountsError: as for :meth:`certificate`.
        """
        return self.certificate(counts, replace(parameters, alpha=alpha))

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
    identity: Identity | None = None
    """Which model and image it is about; None if it was made by hand or by an earlier version."""

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
        derived = (BELOW_A_LEVEL,) if self._is_below_a_level else ()
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

    def about(
        self, identity: Identity | None, names: Sequence[str] | Mapping[int, str] | None = None
    ) -> Certificate:
        """Return the certificate with an identity and the name of its label among ``names``."""
        named = None if identity is None else identity.named(self.label, names)
        return replace(self, identity=named)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, radii and the bound rounded down to 6 decimals."""
        upper = self.upper_bound
        return {
            "format": FORMAT,
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
            "identity": self.identity and self.identity.to_dict(),
            **{counts.stage.value: counts.to_dict() for counts in self.stages},
        }

    @classmethod
    def from_dict(cls, values: Any) -> Certificate:
        """Read :meth:`to_dict` back strictly; label, radius and bounds are computed again.

        A certificate of the former format, without the field ``format``, has no identity.

        Raises:
            MalformedCertificateError: a field is missing or unknown, or has an impossible value; or
                the plan does not allow the counts.
            AlteredCertificateError: a field does not follow from the counts. A radius or bound
                may be weaker than the one computed again, by at most 1e-6.
        """
        document = read_document(values)
        certificate = cls.from_document(document)
        certificate.check(document.derived)
        return certificate

    @classmethod
    def from_document(cls, document: Document) -> Certificate:
        """Compute the certificate again from what it rests on.

        Raises:
            MalformedCertificateError: the plan does not allow these counts.
        """
        plan, identity = SamplingPlan.from_document(document.plan), document.identity
        with refused_as_malformed("The counts of the certificate do not fit its plan"):
            plan.check_alpha(document.parameters.alpha)
            found = plan.certificate(document.counts, document.parameters)
        if found.continuation is None and Stage.CONTINUATION in document.counts:
            raise MalformedCertificateError(
                f"The certificate has counts of a continuation, which the plan {plan.kind!r} has "
                f"not. {AS_WRITTEN}"
            )
        if found.label is None and identity is not None and identity.label_name is not None:
            raise AlteredCertificateError(
                f"The certificate abstains, but names a label, {quoted(identity.label_name)}. Do "
                "not rely on it."
            )
        return replace(found, identity=identity)

    def check(self, stored: Mapping[str, Any]) -> None:
        """Check stored fields that follow from the counts, by their names in :meth:`to_dict`.

        Raises:
            AlteredCertificateError: one differs from what the counts give.
        """
        written = self.to_dict()
        for name in ("label", *BOUNDS, "calls", "notes"):
            if name in stored or name in written:
                exact = getattr(self, name) if name in BOUNDS else None
                check_derived(
                    name, stored.get(name), written.get(name), exact, rounded=BOUNDS.get(name)
                )

    def to_json(self) -> str:
        """Return the certificate as one JSON object, the inverse of :meth:`from_json`."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Certificate:
        """Read :meth:`to_json` back; arguments and errors as :meth:`from_dict`.

        Raises:
            MalformedCertificateError: also where the text is not JSON.
        """
        return cls.from_dict(parse_json(text))

    def save(self, path: str | Path) -> None:
        """Write the certificate to a JSON file, replaced as a whole if it exists.

        Raises:
            SettingError: the file cannot be written.
        """
        write_atomically(path, f"{self.to_json()}\n".encode())

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a file that :meth:`save` wrote; errors as :meth:`from_json`.

        Raises:
            SettingError: the file cannot be read.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise SettingError(
                f"cannot read the certificate {str(path)!r}: {error.strerror}. Name a file that "
                "Certificate.save wrote."
            ) from error
        return cls.from_json(content)

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
