"""Changes of a certificate that reading lets pass: which of them a redraw finds, and the docs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from denoised_smoothing import SmoothedClassifier, load_classifier, load_dataset, load_denoiser
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.certificates.verdicts import Finding, Verdict
from denoised_smoothing.reporting.evidence import HOLDING
from denoised_smoothing.reporting.results import ImageResult
from denoised_smoothing.reporting.rows import image_of_line, image_of_row, line_of, row_of
from denoised_smoothing.runs.certified_images import ImagesByPixels, Stated
from denoised_smoothing.runs.verify import CopyCheck
from denoised_smoothing.smoothing.scheduler import ImageTask

from ..certificates import changes
from ..certificates.changes import Change, Depth

PAGE = Path(__file__).parents[2] / "docs" / "verify.md"
DATA = load_dataset("digits")
PLANS = {
    "fixed": FixedBudget(100, 1_000, two_sided=True),
    "anytime": Anytime((0.25,), **changes.QUESTIONS),
    "radius": RadiusTarget(of_n=1_000),
}
LEFT = (Depth.REDRAW, Depth.FINGERPRINT, Depth.SIGNATURE)
"""The depths that reading leaves."""
OTHER = {"noise": "float", "contract": "unknown", "notes": ["A note."]}
"""Values for fields that have that of the table already."""
TABLES = {
    "fixed": (*changes.FIELDS, *changes.FIXED),
    "anytime": changes.ANYTIME,
    "radius": (*changes.FIELDS, *changes.RADIUS),
    "row": changes.COLUMNS,
    "line": changes.LINES,
}
CHANGES = [(name, each) for name, found in TABLES.items() for each in found if each.depth in LEFT]


@pytest.fixture(scope="module")
def smoothed() -> SmoothedClassifier:
    classifier = load_classifier("digits")
    classifier.label_names = [str(number) for number in range(10)]
    return SmoothedClassifier(classifier, 0.5, load_denoiser("digits-mse"), device="cpu")


@pytest.fixture(scope="module")
def images(smoothed: SmoothedClassifier) -> dict[str, ImageResult]:
    """The first image of the data with the certificate of each plan, as a run makes them."""
    found = {}
    for name, plan in PLANS.items():
        parameters = smoothed.parameters(DATA[0].image, 0.001, seed=7)
        task = ImageTask("a run", DATA.image_ids[0], DATA[0].image)
        wanted = partial(plan.targets, parameters=parameters)
        assert list(smoothed.count_labels([task], wanted, 7)) == [task]
        identity = smoothed.identity(task.image)
        made = plan.certificate(task.counts, parameters)
        made = made.about(identity, smoothed.classifier.label_names)
        found[name] = ImageResult(0, task.image_id, 0, made, 0.5)
    return found


def document_of(name: str, images: dict[str, ImageResult]) -> dict[str, Any]:
    """A certificate, a row or a line as JSON has it."""
    if name in PLANS:
        return images[name].certificate.to_dict()
    if name == "line":
        return line_of(images["fixed"])
    row = row_of(images["fixed"])
    return {n: json.dumps(v) if isinstance(v, dict | list) else v for n, v in row.items()}


def found_by(check: CopyCheck, name: str, document: dict[str, Any]) -> Finding:
    """What a redraw says about a document, after reading it."""
    if name in PLANS:
        key, certificate = Stated(), Certificate.from_dict(document)
    else:
        image = image_of_line(document) if name == "line" else image_of_row(document)
        assert image.certificate is not None
        key, certificate = Stated(image.index, image.true_label), image.certificate
    ((_, found),) = check.run([(key, certificate)], 1)
    return found


@pytest.fixture
def check(smoothed: SmoothedClassifier) -> CopyCheck:
    return CopyCheck(lambda _: smoothed, ImagesByPixels(DATA), lambda key: key, exact=True)


@pytest.mark.parametrize("name", TABLES)
def test_without_a_change_all_counts_are_equal(
    check: CopyCheck, images: dict[str, ImageResult], name: str
) -> None:
    document = json.loads(json.dumps(document_of(name, images)))
    assert found_by(check, name, document) == Finding(Verdict.EQUAL)


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=lambda v: getattr(v, "field", v))
def test_changes_that_a_redraw_finds(
    check: CopyCheck, images: dict[str, ImageResult], name: str, change: Change
) -> None:
    document = json.loads(json.dumps(document_of(name, images)))
    *holders, last = change.field.split(".")
    holder = document
    for each in holders:
        holder = holder[each]
    value = OTHER.get(last, change.value)
    value = json.dumps(value) if name == "row" and isinstance(value, list) else value
    assert holder[last] != value
    holder[last] = value
    found = found_by(check, name, document)
    assert (found.verdict in HOLDING) == (change.depth is Depth.SIGNATURE), found
    if change.depth is Depth.FINGERPRINT:
        assert found.verdict is Verdict.DIFFERENT
        assert "fingerprint" in found.reason


def fields_by_depth() -> str:
    """The table of the documentation: the fields that each depth finds a change of."""
    kinds = {
        "certificate": (*changes.FIELDS, *changes.FIXED, *changes.ANYTIME, *changes.RADIUS),
        "row of CSV or Parquet": changes.COLUMNS,
        "line of jsonl, apart from the certificate": changes.LINES,
    }
    lines = ["| what is changed | depth | fields |", "| -- | -- | -- |"]
    for kind, found in kinds.items():
        for depth in Depth:
            named = dict.fromkeys(f"`{change.field}`" for change in found if change.depth is depth)
            if named:
                lines.append(f"| {kind} | {depth.value} | {', '.join(named)} |")
    return "\n".join(lines)


def test_the_table_of_the_documentation_is_that_of_the_tests() -> None:
    if not PAGE.exists():
        pytest.skip("there is no docs folder beside the tests")
    assert fields_by_depth() in PAGE.read_text("utf-8")
