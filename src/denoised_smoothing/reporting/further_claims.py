"""Answers that the stored votes prove next to the top label: sets, groups and top-k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.groups import (
    DEFAULT_LEVEL,
    GroupCertificate,
    Groups,
    finest_group,
    group_certificates,
)
from denoised_smoothing.certificates.radii import format_down, round_down
from denoised_smoothing.certificates.sets import SIZES, SetCertificate, set_certificates
from denoised_smoothing.certificates.top_k import TopKCertificate, top_k_certificates
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.results import (
    LabelNames,
    RunResults,
    label_name,
)

SHOWN_LABELS = 3
"""Labels of a group that a sentence lists."""
CAPTION = (
    "What the same votes prove: number of images of this run at L2 radius r{}, and of those "
    "without a certified top label at any radius. The counts are no bounds on a population"
)
Claim = SetCertificate | GroupCertificate | TopKCertificate


@dataclass(frozen=True)
class Questions:
    """Questions to the stored votes of a run.

    Args:
        sizes: of sets of labels.
        levels: of groups, from fine to coarse.
        ks: of top-k certificates.
    """

    sizes: Sequence[int] = SIZES
    levels: Sequence[Groups] = ()
    ks: Sequence[int] = ()

    def check(self, results: RunResults) -> None:
        """Check that the plan of a run can answer.

        Raises:
            SettingError: it has no copies that choose what is bounded (n0 = 0).
        """
        if self.sizes or self.levels or self.ks:
            plan = SamplingPlan.from_dict(results.run.settings["plan"])
            try:
                plan.check_selects()
            except SettingError as error:
                raise SettingError(f"Run {results.name!r}: {error}") from error

    def claims(
        self, certificate: Certificate, *, split: bool = True, at: float | None = None
    ) -> list[Claim]:
        """Return the answers of one image: sets, groups and top-k, also those not certified.

        Args:
            split: see :func:`~denoised_smoothing.certificates.groups.group_certificates`.
            at: a radius that was fixed in advance. Instead of all levels of groups, the finest that
                is certified there is returned
                (:func:`~denoised_smoothing.certificates.groups.finest_group`).

        Raises:
            SettingError: a size or k is out of range, levels are not nested, or the plan has no
                copies that choose the candidate (n0 = 0).
        """
        groups: Sequence[GroupCertificate] = ()
        if self.levels and at is None:
            groups = group_certificates(certificate, self.levels, split=split)
        elif self.levels and at is not None:
            finest = finest_group(certificate, self.levels, at)
            groups = () if finest is None else (finest,)
        return [
            *(set_certificates(certificate, self.sizes) if self.sizes else ()),
            *groups,
            *(top_k_certificates(certificate, self.ks) if self.ks else ()),
        ]


@dataclass(frozen=True)
class ClaimRow:
    """One kind of answer over the images of a run.

    Attributes:
        answer: what is certified, such as "one of 3 labels".
        at: number of images at each radius.
        abstaining: number of the images without a certified top label that get this answer, at
            any radius.
    """

    answer: str
    at: tuple[int, ...]
    abstaining: int


def claim_rows(results: RunResults, questions: Questions, radii: Sequence[float]) -> list[ClaimRow]:
    """Count the images of a run with each answer, the top label first.

    Where images have true labels, an answer counts if it holds the true one; for top-k, if it is
    about the true one. At each radius of its own, answers about groups have the whole alpha. The
    counts are those of the images of the run, no bounds on a population.

    Raises:
        SettingError: as for :meth:`Questions.claims`; names the run.
    """
    questions.check(results)
    images, top = results.images, "top label"
    at: dict[str, list[int]] = {top: [0] * len(radii)}
    abstaining: dict[str, int] = {top: 0}
    for image in images:
        answers: list[tuple[str, float, tuple[int | None, ...], bool]] = [
            (top, image.radius, (image.predicted,), image.predicted is not None),
            *(
                (_answer(claim), claim.radius, _labels(claim), claim.certified)
                for claim in questions.claims(image.certificate, split=False)
            ),
        ]
        for name, radius, labels, certified in answers:
            row = at.setdefault(name, [0] * len(radii))
            abstaining.setdefault(name, 0)
            if certified and (not results.labelled or image.true_label in labels):
                for column, asked in enumerate(radii):
                    row[column] += radius >= asked
                abstaining[name] += image.predicted is None
    return [ClaimRow(name, tuple(row), abstaining[name]) for name, row in at.items()]


def claim_table(
    rows: Sequence[ClaimRow], radii: Sequence[float], results: RunResults
) -> dict[str, Any]:
    """Return caption, headings and cells as texts, with the number of images that abstain."""
    abstaining = sum(image.predicted is None for image in results.images)
    headings = ["answer", *(f"r = {radius:g}" for radius in radii), f"of {abstaining} abstaining"]
    cells = [[row.answer, *map(str, row.at), str(row.abstaining)] for row in rows]
    return {
        "caption": CAPTION.format(" whose answer holds the true label" * results.labelled),
        "headings": headings,
        "rows": cells,
    }


def _labels(claim: Claim) -> tuple[int | None, ...]:
    return (claim.label,) if isinstance(claim, TopKCertificate) else claim.labels


def _answer(claim: Claim) -> str:
    if isinstance(claim, SetCertificate):
        return f"one of {claim.size} labels"
    if isinstance(claim, GroupCertificate):
        return "group" if claim.level == DEFAULT_LEVEL else f"group ({claim.level})"
    return f"among the {claim.k} most probable"


def sentences(claims: Sequence[Claim], names: LabelNames) -> list[str]:
    """Return a sentence to quote for each claim that is certified.

    A claim is omitted if a narrower one of its kind has the same radius or a larger one.
    """
    told, reached = list[str](), dict[type[Claim], float]()
    for claim in claims:
        if claim.certified and claim.radius > reached.get(type(claim), 0.0):
            reached[type(claim)] = claim.radius
            told.append(_sentence(claim, names))
    return told


def _sentence(claim: Claim, names: LabelNames) -> str:
    where = (
        f"at every image closer than {format_down(claim.radius)} in L2 "
        f"(wrong with probability at most {_format_up(claim.alpha)})"
    )
    if isinstance(claim, SetCertificate):
        return f"The smoothed classifier answers {_either(claim.labels, names)} {where}."
    if isinstance(claim, TopKCertificate):
        return (
            f"The label {label_name(claim.label, names)} is among the {claim.k} most probable "
            f"labels {where}."
        )
    if claim.group is None:
        return f"With votes by group, the answer is {label_name(claim.labels[0], names)} {where}."
    return (
        f"With votes by group, the answer is {claim.group} ({_listed(claim.labels, names)}) "
        f"{where}. The most probable single label may lie outside the group."
    )


def _format_up(alpha: float) -> str:
    """Return a probability with two digits, rounded up."""
    return f"{-round_down(-alpha, 1 - math.floor(math.log10(alpha))):g}"


def _either(labels: Sequence[int], names: LabelNames) -> str:
    *first, last = (str(label_name(label, names)) for label in labels)
    return f"{', '.join(first)} or {last}" if first else last


def _listed(labels: Sequence[int], names: LabelNames) -> str:
    shown = ", ".join(str(label_name(label, names)) for label in labels[:SHOWN_LABELS])
    rest = len(labels) - SHOWN_LABELS
    return f"{shown} and {rest} more labels" if rest > 0 else shown


def plain_claims(claims: Sequence[Claim]) -> dict[str, list[dict[str, Any]]]:
    """Return claims as plain values for JSON, by their kind."""
    kinds: dict[type[Claim], str] = {
        SetCertificate: "sets", GroupCertificate: "groups", TopKCertificate: "top_k",
    }  # fmt: skip
    return {
        name: found
        for kind, name in kinds.items()
        if (found := [claim.to_dict() for claim in claims if isinstance(claim, kind)])
    }


def plain_further(
    results: RunResults, questions: Questions, radii: Sequence[float]
) -> dict[str, Any]:
    """Return the rows of a run, and the answers of each image, as plain values for JSON.

    The rows count images of the run; they are no bounds on a population. With groups, each image
    also has the finest one that is certified at the first radius above 0, at the whole alpha.

    Raises:
        SettingError: as for :func:`claim_rows`.
    """
    at = first_positive(radii)
    rows = claim_rows(results, questions, radii)
    return {
        "rows": [
            {
                "answer": row.answer,
                "certified": {f"{r:g}": n for r, n in zip(radii, row.at, strict=True)},
                "abstaining": row.abstaining,
            }
            for row in rows
        ],
        "images": [
            {
                "index": image.index,
                "image_id": image.image_id,
                **plain_claims(questions.claims(image.certificate)),
                **_plain_finest(questions, image.certificate, at),
            }
            for image in results.images
        ],
    }


def _plain_finest(
    questions: Questions, certificate: Certificate, at: float | None
) -> dict[str, Any]:
    if at is None or not questions.levels:
        return {}
    found = finest_group(certificate, questions.levels, at)
    return {"finest_group": found and found.to_dict()}


def first_positive(radii: Sequence[float]) -> float | None:
    """Return the first radius above 0, at which the finest group is reported; None without one."""
    return next((radius for radius in radii if radius > 0.0), None)
