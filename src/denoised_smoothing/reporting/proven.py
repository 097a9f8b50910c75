"""Bounds on these images and on the population that the cells of a table prove."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.certificates.population import CONFIDENCE
from denoised_smoothing.certificates.radii import round_down
from denoised_smoothing.reporting.cells import Cell, Condition, Row, percent
from denoised_smoothing.reporting.results import RunResults

WHAT = {"certified accuracy": "Robust accuracy", "certified": "Share of robust images"}
"""The quantity that a measure bounds from below."""

SAMPLE = (
    "The images are an independent sample of the population or, class by class, of a population "
    "with the class shares of these images. No model, sigma or label was trained or chosen on them."
)
NUMBER = "The number of images was fixed before results were seen."
SEED = "The seed of the noise was not known to anyone who chose images, models or settings."
NOISE = "The noise is exact (grid noise)."
LEVEL = f"{100 * (1 - CONFIDENCE):.3g}"
"""Percentage of one minus the confidence."""
_SEEDS = {
    True: "it was given",
    False: "fresh entropy of the operating system",
    None: "how it was chosen is not recorded",
}


def conditions(run: RunResults) -> tuple[Condition, ...]:
    """Return the conditions of the bounds of a run, as far as the run knows them."""
    grid = run.run.settings["noise"] == Noise.GRID
    photos = run.run.settings["data"] == "photos"
    return (
        Condition(
            SAMPLE,
            False if photos else None,
            "photographs that were chosen for the package" if photos else _selected(run),
            these_images=False,
        ),
        _number(run),
        _seed(run),
        Condition(NOISE, grid, f"{run.run.settings['noise']} noise"),
    )


def _number(run: RunResults) -> Condition:
    """Return the condition on the number of images; one that was raised is not known to be met."""
    planned = run.run.info.get("planned", ())
    if run.missing:
        return Condition(
            NUMBER, False, f"{run.missing:,} of {run.attempted:,} images are not finished"
        )
    known = f"all {run.attempted:,} images are finished or refused"
    if len(planned) > 1:
        known += f"; the number was raised from {planned[0]:,} to {planned[-1]:,}"
    return Condition(NUMBER, None, known)


def _seed(run: RunResults) -> Condition:
    """Return the condition on the seed; stored answers show what the noise gave."""
    if run.run.info.get("answers_of"):
        return Condition(SEED, False, "the settings were chosen after the answers")
    given = run.run.info.get("seed_given")
    return Condition(SEED, True if given is False else None, _SEEDS[given])


def _selected(run: RunResults) -> str:
    """Say which rows of which data were used, and how many there are of each class."""
    stride = run.run.settings.get("stride", 1)
    places = [image.index for image in run.images]
    rows = "consecutive rows" if stride == 1 else f"one row in {stride}"
    text = f"{rows} of {run.run.settings['data']}"
    if places:
        text += f", from {min(places):,} to {max(places):,}"
    classes = Counter(image.true_label for image in run.images if image.true_label is not None)
    if len(classes) > 1:
        least, most = min(classes.values()), max(classes.values())
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        text += f", {each} images of each of {len(classes):,} classes"
    return text


def condition_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return each condition with the verdicts and the knowledge of all rows, once each."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in (condition for row in rows for condition in row.conditions):
        held = found.setdefault(one.text, {"about": [], "verdict": [], "known": []})
        for name in held:
            if (value := getattr(one, name)) not in held[name]:
                held[name].append(value)
    return [
        {"text": text, **{name: "; ".join(value) for name, value in held.items()}}
        for text, held in found.items()
    ]


def proven_table(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return the bounds of the cells, as caption, headings and rows of texts.

    Rows of files that do not hold their alpha prove nothing, and are left out; None without any
    other row.
    """
    rows = [row for row in rows if row.proven]
    if not rows:
        return None
    caption = (
        f"{WHAT[rows[0].measure]} (%) that is proven with {100 * CONFIDENCE:g} % confidence, each "
        "number by itself, rounded down: of these very images and, on the conditions of a sample, "
        "of the population"
    )
    if any(row.best_of for row in rows):
        caption += f". A row that is the best of k on the same images has {LEVEL} % / k"
    texts, each = [], rows[0].sigma is not None
    for row in rows:
        sigma = [f"{row.sigma:g}"] if each else []
        best = f", {row.best_of}" if row.best_of else ""
        images = f"these {row.cells[0].attempted:,} images{best}"
        here = [percent(Fraction(cell.holds_among, cell.attempted)) for cell in row.cells]
        texts.append([row.method, *sigma, images, *here])
        bounds = [percent(cell.population) for cell in row.cells]
        texts.append([row.method, *sigma, f"the population{best}", *bounds])
    radii = [f"r = {cell.reach}" for cell in rows[0].cells]
    headings = ["method", *(["σ"] if each else []), "of", *radii]
    return {"caption": caption, "headings": headings, "rows": texts}


def statements(row: Row, cell: Cell) -> list[str]:
    """Return the two statements of a cell as sentences to quote."""
    labelled, changed = row.measure != "certified", cell.radius > 0.0
    kept = ["is correct"] if labelled else [] if changed else ["has the certified label"]
    if changed:
        kept.append(f"keeps its label under every change below L2 norm {cell.reach}")
    who = f"the smoothed classifier ({row.method}, σ = {cell.sigma:g}) {' and '.join(kept)}"
    sure = f"{100 * CONFIDENCE:g} % confidence"
    best = f", as the best of {cell.chosen_of} on the same images" if cell.chosen_of > 1 else ""
    return [
        f"With {sure} over the noise{best}, {who} on at least {cell.holds_among:,} of "
        f"these {cell.attempted:,} images, if the noise is exact and its seed was not known.",
        f"With {sure} over images and noise{best}, {who} on at least "
        f"{percent(cell.population)} % of the population, if the {cell.attempted:,} images are an "
        "independent sample of it, the noise is exact and its seed was not known.",
    ]


def plain_proof(row: Row) -> dict[str, Any]:
    """Return the statements of a row and their conditions as plain values, rounded down."""
    together = len(row.cells)
    return {
        "confidence": CONFIDENCE,
        "attempted": row.cells[0].attempted,
        "chosen_of": row.cells[0].chosen_of,
        "these_images": {cell.reach: cell.holds_among for cell in row.cells},
        "population": {cell.reach: round_down(cell.population, 6) for cell in row.cells},
        "population_at_all_radii": {
            cell.reach: round_down(cell.population_of(together), 6) for cell in row.cells
        },
        "conditions": [asdict(condition) for condition in row.conditions],
    }
