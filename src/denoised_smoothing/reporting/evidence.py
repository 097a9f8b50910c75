"""Certificates that someone else made: files and stores, read one by one, and their arithmetic.

The kind of a file is that of its content, whatever its name says. Nothing but the row at hand, and
the indices of those before, is kept in memory.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.fields import refused_as_malformed
from denoised_smoothing.certificates.identity import Identity
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
from denoised_smoothing.reporting.kinds import AnyKind, Kind, kind_of
from denoised_smoothing.reporting.results import derived_certificates
from denoised_smoothing.reporting.rows import ExportedImage
from denoised_smoothing.text import shown

if TYPE_CHECKING:
    from denoised_smoothing.store import StoredImage

_Source = TypeVar("_Source")
HOLDING = frozenset(
    (Verdict.HOLDS, Verdict.EQUAL, Verdict.CONSISTENT, Verdict.CONFIRMED, Verdict.NO_CLAIM)
)
"""Verdicts with which a certificate holds at the depth of the check, or claims nothing."""
PROVES = {
    "arithmetic": "Arithmetic: counts, plan and alpha give these radii. Nobody drew a copy: a "
    "consistent forgery passes this check, and rows that are missing are not noticed.",
    "redraw": "Redraw: the copies of the recorded seeds were drawn again with the models at hand. "
    "Someone who tried many seeds or plans and kept the best passes this check; an audit "
    "(--fresh) finds that.",
    "audit": "Audit: fresh copies, whose seed the certifier did not know, decided on the certified "
    "labels and radii. It says nothing about images that are not in the file.",
}
"""What each depth says about the certificates, and what it does not."""
REFUSED = Finding(Verdict.NO_CLAIM, "the image was refused")
UNFINISHED = Finding(Verdict.NO_CLAIM, "the image is unfinished")
REMARKS = {
    "refused": "are refused images",
    "unfinished": "are unfinished images",
    "without_identity": "do not say which model and image they are about",
}
"""What the verdicts do not show, by its name in JSON, as the end of a sentence."""


@dataclass(frozen=True)
class Row:
    """One certificate, its place in the source, and what the arithmetic says about it.

    Args:
        place: for a reader, such as "row 7".
        finding: that of the arithmetic.
        image_id: empty where it cannot be read.
        certificate: None where it cannot be read, or the image was refused or is unfinished.
        index: of the image in the data set, where it is stated.
        true_label: as a number of the classifier, where it is stated.
    """

    place: str
    finding: Finding
    image_id: str = ""
    certificate: Certificate | None = None
    index: int | None = None
    true_label: int | None = None

    @property
    def remark(self) -> str | None:
        """That of :data:`REMARKS` which applies, if any."""
        if self.certificate is not None:
            return "without_identity" if self.certificate.identity is None else None
        return {REFUSED: "refused", UNFINISHED: "unfinished"}.get(self.finding)


@dataclass(frozen=True)
class Evidence:
    """A source of certificates, which is read again each time.

    Args:
        source: a path, or the URL of a store.
        kind: that of its content.
        run: its name, of a store.
        limit: maximum number of rows.
    """

    source: str
    kind: AnyKind
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
            found = iter([_row("file", self.source, Certificate.load)])
        else:
            found = _of_export(self.source, ExportFormat(self.kind))
        yield from itertools.islice(found, self.limit)


def open_evidence(
    source: str | Path, *, run: str | None = None, limit: int | None = None
) -> Evidence:
    """Return the certificates of a file or store; its content decides what it is.

    Args:
        source: the path of a certificate, of an export or of a store, or the URL of a store.
        run: the name of the run, of a store.
        limit: maximum number of rows.

    Raises:
        SettingError: there is nothing to read, it is none of these, or the run is missing.
    """
    text = str(source)
    kind: AnyKind = Kind.STORE if "://" in text else kind_of(text)
    if (kind is Kind.STORE) != (run is not None):
        needed = "needs the name of a run, got none. Add" if run is None else "has no runs. Remove"
        raise SettingError(f"{text!r} is a {kind} and {needed} --run.")
    return Evidence(text, kind, run, limit)


class Outcome:
    """The verdicts on the certificates of a source, counted, and the first that do not hold.

    Args:
        listed: maximum number of those that are kept to be listed.
    """

    def __init__(self, listed: int = 20) -> None:
        self._listed = listed
        self.verdicts: Counter[Verdict] = Counter()
        self.failing: list[tuple[Row, Finding]] = []
        """Those that do not hold at the depth of the check."""
        self.remarks: Counter[str] = Counter()

    def add(self, row: Row, finding: Finding | None = None) -> None:
        """Count a certificate, with its finding at a depth beyond the arithmetic, if any."""
        finding = finding or row.finding
        self.verdicts[finding.verdict] += 1
        if row.remark:
            self.remarks[row.remark] += 1
        if finding.verdict not in HOLDING and len(self.failing) < self._listed:
            self.failing.append((row, finding))

    @property
    def not_listed(self) -> int:
        """Number of certificates that do not hold and are not listed."""
        failing = sum(n for verdict, n in self.verdicts.items() if verdict not in HOLDING)
        return failing - len(self.failing)

    @property
    def worst(self) -> Verdict:
        """The worst verdict of all."""
        return max(self.verdicts, key=list(Verdict).index)

    def described(self) -> str:
        """Return the numbers of verdicts, and sentences with what they do not show."""
        counted = (f"{self.verdicts[v]:,} {v}" for v in Verdict if self.verdicts[v])
        rest = (f" {self.remarks[n]:,} {text}." for n, text in REMARKS.items() if self.remarks[n])
        return f"Certificates: {', '.join(counted)}.{''.join(rest)}"

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
            **{name: self.remarks[name] for name in REMARKS},
        }


def _of_export(path: str, format: ExportFormat) -> Iterator[Row]:
    seen = set[int]()

    def read(held: list[ExportedImage], row: ExportedRow) -> Certificate | None:
        image = row.read()
        if image.index in seen:
            raise MalformedCertificateError(
                f"The image with index {image.index} was in an earlier row, so its certificate "
                "would be counted twice. Export the run again."
            )
        seen.add(image.index)
        held.append(image)
        return image.certificate

    try:
        for row in stream_export(path, format):
            held: list[ExportedImage] = []
            found = _row(f"row {row.number}", row, partial(read, held))
            yield (
                replace(found, index=held[0].index, true_label=held[0].true_label)
                if held
                else found
            )
    except CertificateError as error:
        yield Row("file", _malformed(error))


def _of_store(source: str, name: str) -> Iterator[Row]:
    """Yield the images of a run, then those that were refused."""
    from denoised_smoothing.store import Store

    with Store(source, read_only=True) as store:
        run = store.run(name)
        try:
            with refused_as_malformed("The settings of the run cannot be used"):
                SamplingPlan.from_document(run.settings["plan"])
                read, refused = partial(_of_stored, derived_certificates(run)), run.refused
            not_certified = {image.image_id for image in refused}
            for image in _intact(store.stream_images(name)):
                place = f"index {image.index}"
                if image.image_id in not_certified:
                    continue
                row = _row(place, image, read) if image.finished else Row(place, UNFINISHED)
                yield replace(row, index=image.index, true_label=image.label)
        except CertificateError as error:
            yield Row("run", _malformed(error))
            return
        yield from (Row(f"index {image.index}", REFUSED) for image in refused)


def _intact(images: Iterator[StoredImage]) -> Iterator[StoredImage]:
    """Yield images of a store; one whose record was edited ends them as malformed."""
    try:
        yield from images
    except (CountsError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise MalformedCertificateError(
            f"An image of the run cannot be read: {error}. Use the store as it was written."
        ) from error


def _of_stored(derive: Callable[[StoredImage], Certificate], image: StoredImage) -> Certificate:
    with refused_as_malformed("The image of the run cannot be used"):
        certificate = derive(image)
        if certificate.identity is not None:
            Identity.from_dict(certificate.identity.to_dict())
        return certificate


def _row(place: str, source: _Source, read: Callable[[_Source], Certificate | None]) -> Row:
    """Return a row; ``read`` returns None of an image that was refused."""
    try:
        certificate = read(source)
    except AlteredCertificateError as error:
        return Row(place, Finding(Verdict.ALTERED, shown(str(error))))
    except CertificateError as error:
        return Row(place, _malformed(error))
    if certificate is None:
        return Row(place, REFUSED)
    claims = certificate.label is not None
    finding = Finding(Verdict.HOLDS if claims else Verdict.NO_CLAIM)
    return Row(place, finding, shown(certificate.counts.image_id), certificate)


def _malformed(error: CertificateError) -> Finding:
    return Finding(Verdict.MALFORMED, shown(str(error)))
