"""Certificates that someone else made: files and stores, read one by one, and their arithmetic.

The kind of a file is that of its content, whatever its name says. Nothing but the row at hand is
kept in memory.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.fields import parse_json
from denoised_smoothing.certificates.verdicts import Finding, Verdict
from denoised_smoothing.errors import (
    AlteredCertificateError,
    DenoisedSmoothingError,
    MissingExtraError,
    SettingError,
)
from denoised_smoothing.reporting.results import derived_certificates
from denoised_smoothing.text import shown

LONGEST = 16 * 2**20
"""Bytes of the longest certificate or line that is read."""
HOLDING = frozenset(
    (Verdict.HOLDS, Verdict.EQUAL, Verdict.CONSISTENT, Verdict.CONFIRMED, Verdict.NO_CLAIM)
)
"""Verdicts with which a certificate holds at the depth of the check, or claims nothing."""
PROVES = {
    "arithmetic": "Arithmetic: counts, plan and alpha give these radii. Nobody drew a copy: a "
    "consistent forgery passes this check.",
    "redraw": "Redraw: the copies of the recorded seeds were drawn again with the models at hand. "
    "Someone who tried many seeds and kept the best passes this check; an audit (--fresh) "
    "finds that.",
    "audit": "Audit: fresh copies, whose seed the certifier did not know, decided on the certified "
    "labels and radii. It says nothing about images that are not in the file.",
}
"""What each depth says about the certificates, and what it does not."""
REFUSED = Finding(Verdict.NO_CLAIM, "the image was refused")
_PROBE = 4096
_ROWS_AT_ONCE = 1_000


class Kind(StrEnum):
    """What certificates are read from."""

    CERTIFICATE = "certificate"
    """A JSON file of one certificate, or of an answer that contains one."""
    JSON_LINES = "JSON lines"
    CSV = "CSV"
    PARQUET = "Parquet"
    STORE = "store"
    """A run of a store."""


@dataclass(frozen=True)
class Row:
    """One certificate, its place in the source, and what the arithmetic says about it.

    Args:
        place: for a reader, such as "line 7".
        finding: that of the arithmetic.
        image_id: empty where it cannot be read.
        certificate: None where it cannot be read, or the image was refused.
    """

    place: str
    finding: Finding
    image_id: str = ""
    certificate: Certificate | None = None


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
        """
        read = {
            Kind.CERTIFICATE: _of_document,
            Kind.JSON_LINES: _of_lines,
            Kind.CSV: _of_csv,
            Kind.PARQUET: _of_parquet,
        }
        path = Path(self.source)
        try:
            found = (
                _of_store(self.source, self.run or "")
                if self.kind is Kind.STORE
                else read[self.kind](path)
            )
            yield from itertools.islice(found, self.limit)
        except OSError as error:
            raise SettingError(
                f"{self.source!r} cannot be read: {error.strerror}. Check the path."
            ) from error


def open_evidence(
    source: str | Path, *, run: str | None = None, limit: int | None = None
) -> Evidence:
    """Return the certificates of a file or store; its content decides what it is.

    Args:
        source: the path of a certificate, of an export (JSON lines, CSV, Parquet) or of a store, or
            the URL of a store.
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
        raise SettingError(f"{name} cannot be read: {error.strerror}. Check the path.") from error
    header = head.decode("utf-8", "replace").lstrip("\ufeff").partition("\n")[0].strip()
    if {"idx", "counts", "plan"} <= {*header.split(",")}:
        return Kind.CSV
    if {"idx", "predict"} <= {*re.split("[\t,]", header)}:
        raise SettingError(
            f"{name} is an export without the columns that a check needs. Export the run again "
            "with --format jsonl, csv or parquet."
        )
    raise SettingError(
        f"{name} is neither a certificate nor an export (JSON lines, CSV, Parquet) nor a store. "
        "Name a file that this package wrote."
    )


def _kind_of_json(file: io.BufferedReader) -> Kind:
    """Return whether a file of JSON is one document or lines of objects."""
    lines = (line.strip() for line in iter(lambda: file.readline(LONGEST), b""))
    filled = filter(None, lines)
    first = next(filled)
    alone = next(filled, None) is None
    if not first.endswith(b"}") and not alone:  # an object over several lines
        return Kind.CERTIFICATE
    return Kind.CERTIFICATE if alone and b'"true_label"' not in first else Kind.JSON_LINES


def _of_document(path: Path) -> Iterator[Row]:
    if path.stat().st_size > LONGEST:
        yield Row("file", Finding(Verdict.MALFORMED, _too_long("file")))
        return
    yield _row("file", path.read_bytes(), lambda text: Certificate.from_dict(_inner(text)))


def _of_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number in itertools.count(1):
            place, line = f"line {number}", file.readline(LONGEST + 1)
            if len(line) > LONGEST:
                yield Row(place, Finding(Verdict.MALFORMED, _too_long(place)))
                return
            if not line:
                return
            if line.strip():
                yield _row(place, line, certificate_of_line)


def _of_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(LONGEST)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                yield _row(f"line {reader.line_num}", values, row_to_certificate)
        except (csv.Error, UnicodeDecodeError) as error:
            place = f"line {reader.line_num}"
            yield Row(place, Finding(Verdict.MALFORMED, f"{place} cannot be read: {error}"))


def _of_parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "Reading a Parquet file") from error
    number = itertools.count(1)
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for values in batch.to_pylist():
                    yield _row(f"row {next(number)}", values, row_to_certificate)
    except pyarrow.ArrowException as error:
        place = f"row {next(number)}"
        yield Row(place, Finding(Verdict.MALFORMED, f"{place} cannot be read: {error}"))


def _of_store(source: str, name: str) -> Iterator[Row]:
    """Yield the finished images of a run, then those that were refused."""
    from denoised_smoothing.store import Store

    with Store(source, read_only=True) as store:
        run = store.run(name)
        derive, refused = derived_certificates(run), {image.image_id for image in run.refused}
        for image in store.stream_images(name):
            if image.finished and image.image_id not in refused:
                yield _row(f"index {image.index}", image, derive)
        for image in run.refused:
            yield Row(f"index {image.index}", REFUSED)


def _row(place: str, source: Any, read: Callable[[Any], Certificate | None]) -> Row:
    """Return a row; ``read`` returns None of an image that was refused."""
    try:
        certificate = read(source)
    except AlteredCertificateError as error:
        return Row(place, Finding(Verdict.ALTERED, shown(str(error))))
    except DenoisedSmoothingError as error:
        return Row(place, Finding(Verdict.MALFORMED, shown(str(error))))
    if certificate is None:
        return Row(place, REFUSED)
    claims = certificate.label is not None
    finding = Finding(Verdict.HOLDS if claims else Verdict.NO_CLAIM)
    return Row(place, finding, shown(certificate.counts.image_id), certificate)


def certificate_of_line(text: bytes) -> Certificate | None:
    values = parse_json(text)
    return None if values["certificate"] is None else Certificate.from_dict(values["certificate"])


def _inner(text: bytes) -> Any:
    """Return the certificate in a JSON document: the document, or a part of an answer."""
    values = parse_json(text)
    if isinstance(values, Mapping) and "plan" not in values and "certificate" in values:
        return values["certificate"]
    return values


def _too_long(place: str) -> str:
    return f"the {place} is longer than {LONGEST:,} bytes, the most for one certificate"
