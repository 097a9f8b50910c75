"""A stored certificate as values of their types, and the check of what follows from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.fields import (
    LARGEST,
    Fields,
    is_number,
    is_whole,
    quoted,
    refused_as_malformed,
    same,
)
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.parameters import (
    FORMER,
    Contract,
    EngineName,
    Noise,
    Precision,
    SmoothingParameters,
)
from denoised_smoothing.errors import AlteredCertificateError, MalformedCertificateError

FORMAT = 2
"""The format of a certificate that this version writes; the former one had no number."""
TOLERANCE = Decimal("1e-6")
"""Most by which a stored radius or bound may be weaker than the one computed again."""
BOUNDS = dict.fromkeys(("radius", "radius_l1", "radius_linf", "lower_bound"), "down") | {
    "upper_bound": "up"
}
"""Fields that are rounded when they are written, and in which direction."""
BELOW_A_LEVEL = (
    "The Linf radius is below 1/255, the step between 8-bit values: around an 8-bit image, no "
    "other 8-bit image lies within it."
)
LONGEST = 16 * 2**20
"""Maximum number of bytes of the file of a certificate, and of a line of an export."""
_LABEL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class Document:
    """A certificate as it was stored: what it rests on, and ``derived``, what follows from that."""

    plan: Mapping[str, Any]
    parameters: SmoothingParameters
    counts: Mapping[Stage, LabelCounts]
    identity: Identity | None
    derived: Mapping[str, Any]


def read_document(values: Any, *, derived: bool = True) -> Document:
    """Read the plain values of a certificate. Each has its type, none is missing or unknown.

    Args:
        derived: whether the fields that follow from others are there; else the notes alone.

    Raises:
        MalformedCertificateError: otherwise; the message names the field and the value.
    """
    fields = Fields(values)
    found = fields.take(
        "format",
        f"{FORMAT} in this version; a newer one may know it: pip install --upgrade "
        "denoised-smoothing",
        lambda value: type(value) is int and value == FORMAT,
        1,
    )
    stored = _derived(fields) if derived else {}
    if found == FORMAT or "notes" in fields:
        stored["notes"] = list(fields.texts("notes"))
    notes = tuple(note for note in stored.get("notes", ()) if note != BELOW_A_LEVEL)
    parameters = _parameters(fields, notes, former=found == 1)
    run, image_id = fields.text("run"), fields.text("image_id")
    counts = {
        stage: _counts(fields.fields(stage.value), run, image_id, stage, former=found == 1)
        for stage in (Stage.SELECTION, Stage.ESTIMATION, Stage.CONTINUATION)
        if stage is not Stage.CONTINUATION or stage.value in fields
    }
    identity = None
    if found == FORMAT:
        held = fields.take("identity", "an object or null", lambda value: True)
        identity = None if held is None else Identity.from_dict(held)
    if identity is not None and not identity.fits(parameters.dimension):
        raise MalformedCertificateError(
            f"The field 'identity.image_shape' of the certificate is {identity.image_shape}, which "
            f"does not fit its dimension {parameters.dimension} and its resolution "
            f"{identity.resolution}. Use the file as it was written."
        )
    plan = fields.fields("plan").items()
    fields.end()
    return Document(plan, parameters, counts, identity, stored)


def _derived(fields: Fields) -> dict[str, Any]:
    """Return the stored fields that follow from others, apart from the notes."""
    found: dict[str, Any] = {"label": fields.optional("label", fields.whole)}
    for name in ("radius", "radius_l1", "radius_linf", "lower_bound"):
        found[name] = fields.number(name)
    if "upper_bound" in fields:
        found["upper_bound"] = fields.number("upper_bound")
    found["calls"] = fields.whole("calls")
    return found


def _parameters(fields: Fields, notes: tuple[str, ...], *, former: bool) -> SmoothingParameters:
    """Return the smoothing parameters; the former format may lack some that have a default."""
    defaults = FORMER if former else {}
    engine = fields.optional("engine", partial(_one_of, fields, EngineName, defaults))
    precision = fields.optional("precision", partial(_one_of, fields, Precision, defaults))
    if (engine is None) != (precision is None):
        raise MalformedCertificateError(
            "The fields 'engine' and 'precision' of the certificate must name those that executed "
            f"the classifier, or both be null, got {quoted(engine)} and {quoted(precision)}. Use "
            "the file as it was written."
        )
    values = {
        "sigma": fields.number("sigma"),
        "alpha": fields.number("alpha"),
        "dimension": fields.whole("dimension", 1),
        "seed": fields.whole_text("seed"),
        "noise": fields.one_of(Noise, "noise"),
        "contract": _one_of(fields, Contract, defaults, "contract"),
    }
    with refused_as_malformed("The certificate's parameters cannot be used"):
        return SmoothingParameters(engine=engine, precision=precision, notes=notes, **values)


def _one_of(fields: Fields, kind: Any, defaults: Mapping[str, Any], name: str) -> Any:
    return fields.one_of(kind, name, *((defaults[name],) if name in defaults else ()))


def _counts(fields: Fields, run: str, image_id: str, stage: Stage, *, former: bool) -> LabelCounts:
    """Return the counts of a stage; the former format may list them in the order of labels."""
    least = 0 if former else 1

    def holds(value: Any) -> bool:
        if former and isinstance(value, list):
            return all(is_whole(count, 0) for count in value)
        return (
            isinstance(value, Mapping)
            and all(
                isinstance(label, str) and _LABEL.fullmatch(label) and int(label) <= LARGEST
                for label in value
            )
            and all(is_whole(count, least) for count in value.values())
        )

    votes = fields.take("counts", f"counts from {least} on, by labels from 0 on", holds)
    failed = fields.whole("failed")
    fields.end()
    return LabelCounts(run, image_id, stage, votes, failed)


def check_derived(
    stored: Mapping[str, Any], written: Mapping[str, Any], exact: object = None
) -> None:
    """Refuse stored values that do not follow from the counts.

    Args:
        stored: values by the names of their fields; a missing one is None.
        written: the values that this version writes, of all fields to check.
        exact: has the fields of :data:`BOUNDS` as attributes, not rounded. A stored one may then be
            weaker than the written one by at most 1e-6, and no stronger than the exact one.

    Raises:
        AlteredCertificateError: one differs.
    """
    for name, value in written.items():
        found = stored.get(name)
        if exact is None or name not in BOUNDS or value is None or not is_number(found):
            equal = same(found, value)
        else:
            equal = _follows(found, value, getattr(exact, name), BOUNDS[name])
        if not equal:
            raise AlteredCertificateError(
                f"The field {name!r} of the certificate is {quoted(found)}, but its counts give "
                f"{quoted(value)}. It was altered, or written by another version: do not rely on "
                "it. Ask for the original file, or certify the image again."
            )


def _follows(stored: Any, written: float, exact: float, rounded: str) -> bool:
    """Return whether a bound is the written one, or weaker within the tolerance and its range."""
    found, weakest, strongest = (Decimal(repr(float(value))) for value in (stored, written, exact))
    if rounded == "up":
        return strongest <= found <= min(Decimal(1), weakest + TOLERANCE)
    return max(Decimal(0), weakest - TOLERANCE) <= found <= strongest
