"""Every change of the table is found at its depth, and every field is in the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.errors import AlteredCertificateError, MalformedCertificateError
from denoised_smoothing.reporting import rows
from denoised_smoothing.reporting.results import ImageResult

from . import changes
from .changes import Change, Depth
from .samples import identity_of
from .test_certificate import CERTIFICATES, anytime

BASE = {
    name: replace(certificate, identity=identity_of())
    for name, certificate in {
        "fixed": CERTIFICATES["two-sided"],
        "anytime": anytime((1, 49), (50, 950), (0, 198), more=200, **changes.QUESTIONS),
        "radius": CERTIFICATES["radius target"],
    }.items()
}
IMAGE = ImageResult(0, "7", 0, BASE["fixed"], 0.5)
OF_CERTIFICATES = [
    *(("fixed", change) for change in (*changes.FIELDS, *changes.FIXED)),
    *(("anytime", change) for change in changes.ANYTIME),
    *(("radius", change) for change in changes.RADIUS),
]


def changed(values: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """A copy with the change; the field is there, with another value."""
    copy: dict[str, Any] = json.loads(json.dumps(values))
    *holders, name = change.field.split(".")
    holder = copy
    for each in holders:
        holder = holder[each]
    assert holder[name] != change.value
    holder[name] = change.value
    return copy


def found_at(read: Callable[[], Any]) -> Depth | None:
    """The depth at which reading a document finds a change, None if it does not."""
    try:
        read()
    except MalformedCertificateError:
        return Depth.READING
    except AlteredCertificateError:
        return Depth.ARITHMETIC
    return None


def expected(change: Change) -> Depth | None:
    return change.depth if change.depth in (Depth.READING, Depth.ARITHMETIC) else None


def row() -> dict[str, Any]:
    found = rows.row_of(IMAGE)
    return {n: json.dumps(v) if isinstance(v, dict | list) else v for n, v in found.items()}


@pytest.mark.parametrize(("name", "change"), OF_CERTIFICATES, ids=lambda v: getattr(v, "field", v))
def test_changes_of_a_certificate(name: str, change: Change) -> None:
    document = BASE[name].to_dict()
    assert Certificate.from_dict(document) == BASE[name]
    assert found_at(lambda: Certificate.from_dict(changed(document, change))) is expected(change)


@pytest.mark.parametrize("change", changes.COLUMNS, ids=lambda change: change.field)
def test_changes_of_a_row(change: Change) -> None:
    assert rows.image_of_row(row()).certificate == IMAGE.certificate
    assert found_at(lambda: rows.image_of_row(changed(row(), change))) is expected(change)


@pytest.mark.parametrize("change", changes.LINES, ids=lambda change: change.field)
def test_changes_of_a_line(change: Change) -> None:
    line = rows.line_of(IMAGE)
    assert found_at(lambda: rows.image_of_line(changed(line, change))) is expected(change)


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and name != "counts":
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name


def test_every_field_is_in_the_table() -> None:
    held = {leaf for certificate in BASE.values() for leaf in leaves(certificate.to_dict())}
    assert held == {change.field for _, change in OF_CERTIFICATES} - {"identity"}
    assert set(rows.COLUMNS) == {change.field for change in changes.COLUMNS}
    assert {*rows.line_of(IMAGE)} - {"certificate"} == {change.field for change in changes.LINES}
