"""Certificates that someone else made: files and stores, read one by one, and their arithmetic.

The kind of a file is that of its content, whatever its name says. Nothing but the row at hand is
kept in memory.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.fields import parse_json
from denoised_smoothing.certificates.verdicts import Finding, Verdict
from denoised_smoothing.errors import (
    AlteredCertificateError,
    CertificateError,
    CountsError,
    MalformedCertificateError,
    SettingError,
)
from denoised_smoothing.reporting.export import ExportFormat
from denoised_smoothing.reporting.exported import ExportedRow, stream_export
from denoised_smoothing.reporting.results import derived_certificates
from denoised_smoothing.reporting.rows import ExportedImage
from denoised_smoothing.text import shown

LONGEST = 16 * 2**20
"""Bytes of the longest file of one certificate."""
HOLDING = frozenset(
    (Verdict.HOLDS, Verdict.EQUAL, Verdict.CONSISTENT, Verdict.CONFIRMED, Verdict.NO_CLAIM)
)
"""Verdicts with which a certificate holds at the depth of the check, or claims nothing."""
PROVES = {
    "arithmetic": "Arithmetic: counts, plan and alpha give these radii. Nobody drew a copy: a "
    "consistent forgery passes this check.",
    "redraw": "Redraw: the copies of the recorded seeds were drawn again with the models at hand. "
    "Someone who tried many seeds or plans and kept the best passes this check; an audit "
    "(--fresh) finds that.",
    "audit": "Audit: fresh copies, whose seed the certifier did not know, decided on the certified "
    "labels and radii. It says nothing about images that are not in the file.",
}
"""What each depth says about the certificates, and what it does not."""
REFUSED = Finding(Verdict.NO_CLAIM, "the image was refused")
_PROBE = 4096


class Kind(StrEnum):
    """What certificates are read from; those of exports are named as their formats."""

    CERTIFICATE = "certificate"
    """A JSON file of one certificate, or of an answer that contains one."""
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    """With the file that ``export`` writes next to it."""
    PARQUET = "parquet"
    STORE = "store"
    """A run of a store."""


@dataclass(frozen=True)
class Row:
    """One certificate, its place in the source, and what the arithmetic says about it.

    Args:
        place: for a reader, such as "row 7".
        finding: that of the arithmetic.
        image_id: empty where it cannot be read.
        certificate: None where it cannot be read, or the image was refused.
        index: of the image in the data set, where it is stated.
        true_label: as a number of the classifier, where it is stated.
    """

    place: str
    finding: Finding
    image_id: str = ""
    certificate: Certificate | None = None
    index: int | None = None
    true_label: int | None = None


@dataclass(frozen=True)
class Evidence:
    """A source of certificates, which is read anew each time.

    Args:
        source: a path, or the URL of a store.
        kind: that of its content.
        run: its name, of a store.
        limit: the most rows to read.
    """

    source: str
    kind: Kind
    run: str | None = None
    limit: int | None = None

    def rows(self) -> Iterator[Row]:
        """Yield the rows in order, with the finding of the arithmetic.

        Raises:
            SettingError, StoreError: the source as a whole cannot be read (any more).
            MissingExtraError: pyarrow is not installed (Parquet only).
        """
        if self.kind is Kind.STORE:
            found = _of_store(self.source, self.run or "")
        elif self.kind is Kind.CERTIFICATE:
            found = iter([_row("file", Path(self.source), _certificate_of_file)])
        else:
            found = _of_export(self.source, ExportFormat(self.kind.value))
        yield from itertools.islice(found, self.limit)


def open_evidence(
    source: str | Path, *, run: str | None = None, limit: int | None = None
) -> Evidence:
    """Return the certificates of a file or store; its content decides what it is.

    Args:
        source: the path of a certificate, of an export or of a store, or the URL of a store.
        run: the name of the run, of a store.
        limit: the most rows to read.

    Raises:
        SettingError: there is nothing to read, it is none of these, or the run is missing.
    """
    text = str(source)
    kind = Kind.STORE if "://" in text else kind_of(text)
    if (kind is Kind.STORE) != (run is not None):
        needed = "needs the name of a run, got none. Add" if run is None else "has no runs. Remove"
        raise SettingError(f"{text!r} is a {kind} and {needed} --run.")
    return Evidence(text, kind, run, limit)


class Outcome:
    """The verdicts on the certificates of a source, counted, and the first that do not hold.

    Args:
        listed: the most that are kept to be listed.
    """

    def __init__(self, listed: int = 20) -> None:
        self._listed = listed
        self.verdicts: Counter[Verdict] = Counter()
        self.failing: list[tuple[Row, Finding]] = []
        """Those that do not hold at the depth of the check."""

    def add(self, row: Row, finding: Finding | None = None) -> None:
        """Count a certificate, with its finding at a depth beyond the arithmetic, if any."""
        finding = finding or row.finding
        self.verdicts[finding.verdict] += 1
        if finding.verdict not in HOLDING and len(self.failing) < self._listed:
            self.failing.append((row, finding))

    @property
    def not_listed(self) -> int:
        """How many of those that do not hold are not listed."""
        failing = sum(n for verdict, n in self.verdicts.items() if verdict not in HOLDING)
        return failing - len(self.failing)

    @property
    def worst(self) -> Verdict:
        """The worst verdict of all."""
        return max(self.verdicts, key=list(Verdict).index)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "rows": self.verdicts.total(),
            "verdicts": {verdict.value: self.verdicts[verdict] for verdict in Verdict},
            "failing": [
                {
                    "place": row.place,
                    "image_id": row.image_id,
                    "verdict": finding.verdict.value,
                    "reason": finding.reason,
                }
                for row, finding in self.failing
            ],
            "failing_not_listed": self.not_listed,
        }


def kind_of(path: str | Path, name: str | None = None) -> Kind:
    """Return what the content of a file is.

    Args:
        name: of the file in messages; its path by default.

    Raises:
        SettingError: it cannot be read, is none of them, or is an export without counts.
    """
    name = name or repr(str(path))
    try:
        with Path(path).open("rb") as file:
            head = file.read(_PROBE)
            if head.startswith(b"SQLite format 3\0"):
                return Kind.STORE
            if head.startswith(b"PAR1"):
                return Kind.PARQUET
            if head.lstrip().startswith(b"{"):
                file.seek(0)
                return _kind_of_json(file)
    except OSError as error:
        raise _unreadable(name, error) from error
    header = head.decode("utf-8", "replace").partition("\n")[0].rstrip("\r")
    for kind, delimiter in ((Kind.CSV, ","), (Kind.TSV, "\t")):
        if {"idx", "predict"} <= {*header.split(delimiter)}:
            return kind
    raise SettingError(
        f"{name} is neither a certificate nor an export (jsonl, csv, tsv, parquet) nor a store. "
        "Name a file that this package wrote."
    )


def _kind_of_json(file: io.BufferedReader) -> Kind:
    """Return whether a file of JSON is one document or lines of objects."""
    filled = filter(None, (line.strip() for line in iter(lambda: file.readline(LONGEST), b"")))
    first, alone = next(filled), next(filled, None) is None
    is_document = not first.endswith(b"}") if not alone else b'"true_label"' not in first
    return Kind.CERTIFICATE if is_document else Kind.JSONL


def _certificate_of_file(path: Path) -> Certificate:
    """Return the certificate in a JSON document: the document, or a part of an answer."""
    try:
        if path.stat().st_size > LONGEST:
            raise MalformedCertificateError(
                f"The file is longer than {LONGEST:,} bytes, the most for one certificate."
            )
        values = parse_json(path.read_bytes())
    except OSError as error:
        raise _unreadable(repr(str(path)), error) from error
    if isinstance(values, Mapping) and "plan" not in values and "certificate" in values:
        values = values["certificate"]
    return Certificate.from_dict(values)


def _of_export(path: str, format: ExportFormat) -> Iterator[Row]:
    try:
        for row in stream_export(path, format):
            yield _row_of_export(row)
    except CertificateError as error:
        yield Row("file", Finding(Verdict.MALFORMED, shown(str(error))))


def _row_of_export(found: ExportedRow) -> Row:
    held: list[ExportedImage] = []

    def read(found: ExportedRow) -> Certificate | None:
        held.append(found.read())
        return held[0].certificate

    row = _row(f"row {found.number}", found, read)
    return replace(row, index=held[0].index, true_label=held[0].true_label) if held else row


def _of_store(source: str, name: str) -> Iterator[Row]:
    """Yield the finished images of a run, then those that were refused."""
    from denoised_smoothing.store import Store

    with Store(source, read_only=True) as store:
        run = store.run(name)
        derive, refused = derived_certificates(run), {image.image_id for image in run.refused}
        for image in store.stream_images(name):
            if image.finished and image.image_id not in refused:
                row = _row(f"index {image.index}", image, derive)
                yield replace(row, index=image.index, true_label=image.label)
        yield from (Row(f"index {image.index}", REFUSED) for image in run.refused)


def _row(place: str, source: Any, read: Callable[[Any], Certificate | None]) -> Row:
    """Return a row; ``read`` returns None of an image that was refused."""
    try:
        certificate = read(source)
    except AlteredCertificateError as error:
        return Row(place, Finding(Verdict.ALTERED, shown(str(error))))
    except (CertificateError, CountsError) as error:
        return Row(place, Finding(Verdict.MALFORMED, shown(str(error))))
    if certificate is None:
        return Row(place, REFUSED)
    claims = certificate.label is not None
    finding = Finding(Verdict.HOLDS if claims else Verdict.NO_CLAIM)
    return Row(place, finding, shown(certificate.counts.image_id), certificate)


def _unreadable(name: str, error: OSError) -> SettingError:
    return SettingError(f"{name} cannot be read: {error.strerror}. Check the path.")
