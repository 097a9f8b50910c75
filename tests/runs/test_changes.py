"""Changes of a certificate that reading lets pass: which of them a redraw finds, and the docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from denoised_smoothing import SmoothedClassifier, load_classifier, load_dataset, load_denoiser
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.verdicts import Verdict
from denoised_smoothing.reporting.evidence import HOLDING
from denoised_smoothing.runs.verify import verify

from ..certificates import changes
from ..certificates.changes import Change, Depth

PAGE = Path(__file__).parents[2] / "docs" / "verify.md"
IMAGE = load_dataset("digits")[0].image
PLANS = {
    "fixed": FixedBudget(100, 1_000, two_sided=True),
    "anytime": Anytime((0.25,), **changes.QUESTIONS),
}
LEFT = (Depth.REDRAW, Depth.FINGERPRINT, Depth.SIGNATURE)
"""The depths that reading leaves."""
OTHER = {"noise": "float", "contract": "unknown", "notes": ["A note."]}
"""Values for fields that have that of the table already."""
CHANGES = [
    (name, change)
    for name, found in (("fixed", changes.FIELDS), ("anytime", changes.ANYTIME))
    for change in found
    if change.depth in LEFT
]


@pytest.fixture(scope="module")
def smoothed() -> SmoothedClassifier:
    return SmoothedClassifier(
        load_classifier("digits"), 0.5, load_denoiser("digits-mse"), device="cpu"
    )


@pytest.fixture(scope="module")
def documents(smoothed: SmoothedClassifier) -> dict[str, dict[str, Any]]:
    return {
        name: smoothed.certify(IMAGE, plan=plan, seed=7).to_dict() for name, plan in PLANS.items()
    }


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=lambda v: getattr(v, "field", v))
def test_changes_that_a_redraw_finds(
    smoothed: SmoothedClassifier, documents: dict[str, dict[str, Any]], name: str, change: Change
) -> None:
    document = json.loads(json.dumps(documents[name]))
    *holders, last = change.field.split(".")
    holder = document
    for each in holders:
        holder = holder[each]
    value = OTHER.get(last, change.value)
    assert holder[last] != value
    holder[last] = value
    found = verify(Certificate.from_dict(document), smoothed, IMAGE, exact=True)
    assert (found.verdict in HOLDING) == (change.depth is Depth.SIGNATURE)
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
