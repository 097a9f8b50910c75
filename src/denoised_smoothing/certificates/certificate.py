"""Certificates, and the interface of the sampling plans that give them."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.fields import (
    AS_WRITTEN,
    parse_json,
    quoted,
    refused_as_malformed,
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
    LONGEST,
    Document,
    check_derived,
    read_document,
)
from denoised_smoothing.certificates.sampling_rule import SamplingRule
from denoised_smoothing.errors import (
    AlteredCertificateError,
    MalformedCertificateError,
    SettingError,
)
from denoised_smoothing.files import write_atomically


@dataclass(frozen=True)
class SamplingPlan(SamplingRule):
    """A rule for the number of noisy copies and the conclusion from them."""

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
    def counts_by_stage(self) -> dict[Stage, LabelCounts]:
        """Counts of every stage, as plans take them."""
        return {counts.stage: counts for counts in self.stages}

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
                "not rely on it. Ask for the original file, or certify the image again."
            )
        return replace(found, identity=identity)

    def check(self, stored: Mapping[str, Any]) -> None:
        """Check stored fields that follow from the counts, by their names in :meth:`to_dict`.

        Raises:
            AlteredCertificateError: one differs from what the counts give.
        """
        written = self.to_dict()
        names = ("label", *BOUNDS, "calls", "notes")
        held = {name: written.get(name) for name in names if name in stored or name in written}
        check_derived(stored, held, self)

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
        """Read a file that :meth:`save` wrote, or an answer of the service with a certificate.

        Raises:
            SettingError: the file cannot be read.
            MalformedCertificateError: also where it is longer than 16 MiB; else as
                :meth:`from_json`.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(LONGEST + 1)
        except OSError as error:
            raise SettingError(
                f"cannot read the certificate {str(path)!r}: {error.strerror}. Name a file that "
                "Certificate.save wrote."
            ) from error
        if len(content) > LONGEST:
            raise MalformedCertificateError(
                f"The file is longer than {LONGEST:,} bytes, the maximum for one certificate. "
                f"{AS_WRITTEN}"
            )
        values = parse_json(content)
        if isinstance(values, Mapping) and "plan" not in values and "certificate" in values:
            values = values["certificate"]
        return cls.from_dict(values)

    def __str__(self) -> str:
        bound = f"lower bound {format_down(self.lower_bound)} at alpha {self.alpha:g}"
        rest = (
            f"sigma {self.sigma:g}, {self.calls:,} classifier calls, {self.noise.described}, "
            f"{self.parameters.executed}"
        )
        if self.parameters.contract is not Contract.CHECKED:
            rest += f", {self.parameters.contract.described}"
        if self.label is None:
            text = f"abstains: nothing certified ({bound}, {rest})"
        else:
            linf = format_down(self.radius_linf, 5) + " < 1/255" * self._is_below_a_level
            text = (
                f"label {self.label} within L2 radius {format_down(self.radius)} "
                f"(L1 {format_down(self.radius_l1)}, Linf {linf}; {bound}, {rest})"
            )
        return "\n".join([text, *(f"note: {note}" for note in self.parameters.notes)])

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
