"""Results to numbers and tables: certified accuracy, average certified radius, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table
from rich.text import Text

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.cells import Cell, Row, Summary, percent
from denoised_smoothing.reporting.cohen import AnyResults
from denoised_smoothing.reporting.proven import (
    condition_rows,
    conditions,
    proven_table,
)
from denoised_smoothing.reporting.results import RunResults

if TYPE_CHECKING:
    from denoised_smoothing.store import RefusedImage

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""The radii of the tables of Cohen et al. 2019."""
BAND = 20
"""Radii at which the bound on the population is drawn."""


def counted_radii(results: AnyResults) -> npt.NDArray[np.float64]:
    """Return the radius of each image [N] that counts, and -inf for each that does not.

    An image counts if its certified label is correct or, in data without labels, if it has
    a certified label.

    Raises:
        SettingError: the run has no finished image.
    """
    if not results.images:
        raise SettingError(
            f"Run {results.name!r} has no finished image to report on. Resume the run first."
        )
    labelled, radii = results.labelled, []
    for image in results.images:
        label = image.predicted
        counts = label is not None and (label == image.true_label or not labelled)
        radii.append(image.radius if counts else -np.inf)
    return np.array(radii)


def certified_accuracy(results: AnyResults, radii: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the share of all finished images that are correct with at least each radius.

    The approximate certified test set accuracy of Cohen et al. 2019, section 4. In data
    without labels: the share that has any certified label.

    Args:
        radii: [R] L2 radii in pixel values in [0, 1], at least 0.

    Returns:
        [R] shares in [0, 1].

    Raises:
        SettingError: no radius or one below 0, or the run has no finished image.
    """
    [row] = comparison([results], radii)
    return np.array([cell.share for cell in row.cells])


def accuracy_steps(
    results: AnyResults,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the whole curve of :func:`certified_accuracy` as a step function.

    Returns:
        [S] radii at which it falls, ascending from 0, and [S] shares in [0, 1]: ``shares[i]`` is
        that beyond ``radii[i]``.

    Raises:
        SettingError: the run has no finished image.
    """
    radii = np.sort(counted_radii(results))
    radii = np.concatenate([[0.0], radii[radii >= 0.0]])
    return radii, np.arange(len(radii) - 1, -1, -1) / len(results.images)


def population_band(results: RunResults, last: float) -> tuple[list[float], list[float]]:
    """Return lower bounds on the population at equally spaced radii, which hold together at 95 %.

    A bound at a radius holds at every smaller one: it is a curve of steps.

    Args:
        last: the largest radius, above 0.

    Returns:
        ``BAND`` radii, ascending, and as many shares in [0, 1].

    Raises:
        SettingError: the run has no finished image.
    """
    radii = [last * (step + 1) / BAND for step in range(BAND)]
    [row] = comparison([results], radii)
    return radii, [cell.population_of(BAND) for cell in row.cells]


def default_radii(runs: Sequence[RunResults]) -> tuple[float, ...]:
    """Return the radii that the plans of the runs name or, for other plans, those within reach.

    Within reach are those of ``RADII`` that the plan certifies if all copies of an image have one
    label. They do not depend on the results, which a bound that holds at all of them needs.
    """
    found = set[float]()
    for run in runs:
        settings = run.run.settings
        plan = SamplingPlan.from_dict(settings["plan"])
        n = plan.most_calls() - settings["plan"].get("n0", 0)
        if "radii" in settings["plan"]:
            found.update(settings["plan"]["radii"])
        else:
            failure = clopper_pearson_upper(0, n, settings["alpha"])
            reach = gaussian_radius(run.sigma, failure)
            found.update(radius for radius in RADII if radius <= reach)
    return tuple(sorted(found))


def summary(results: AnyResults) -> Summary:
    """Return the summary of a run.

    Raises:
        SettingError: the run has no finished image.
    """
    radii, images = counted_radii(results), results.images
    calls = [image.calls for image in images if image.calls is not None]
    return Summary(
        accuracy=float(np.mean(radii >= 0.0)),
        average_radius=float(np.maximum(radii, 0.0).mean()),
        abstained=sum(image.predicted is None for image in images) / len(images),
        images=len(images),
        unfinished=results.missing,
        seconds=sum(image.seconds for image in images) / len(images),
        calls=sum(calls) if calls else None,
        refused=results.refused,
        clean=results.clean_share("classifier"),
        denoised=results.clean_share("denoised"),
    )


def method_names(runs: Sequence[AnyResults]) -> list[str]:
    """Return a name for each run: its method, with engine and precision if they are unusual.

    Run names distinguish runs of equal name and sigma.
    """
    pairs = [(", ".join(filter(None, (run.method, run.executed))), run.sigma) for run in runs]
    return [
        pair[0] if pairs.count(pair) == 1 else f"{pair[0]} ({run.name})"
        for pair, run in zip(pairs, runs, strict=True)
    ]


def measure(runs: Sequence[AnyResults]) -> str:
    """Return ``certified accuracy``, or ``certified`` where the data have no labels.

    Raises:
        SettingError: some runs have labels and others have not.
    """
    labelled = [run.name for run in runs if run.labelled]
    if 0 < len(labelled) < len(runs):
        raise SettingError(
            f"Runs with true labels {labelled} and runs without cannot be compared. Report on them "
            "separately."
        )
    return "certified accuracy" if labelled else "certified"


def comparison(runs: Sequence[AnyResults], radii: Sequence[float]) -> list[Row]:
    """Return a row for each run, with a cell for each radius.

    Raises:
        SettingError: no run, no radius or one below 0, a run without finished images, or
            runs with and without labels.
    """
    if not runs or not len(radii):
        raise SettingError(
            f"A table needs at least one run and one radius, got {len(runs)} runs and radii "
            f"{tuple(radii)}"
        )
    if not all(radius >= 0.0 for radius in radii):
        raise SettingError(f"A radius must be at least 0, got {tuple(radii)}")
    counted = [counted_radii(run) for run in runs]
    names, what = method_names(runs), measure(runs)
    return [
        Row(
            method=name,
            measure=what,
            cells=tuple(
                Cell(
                    float(radius),
                    run.sigma,
                    int(np.count_nonzero(has >= radius)),
                    len(has),
                    run.attempted,
                    run.alpha,
                )
                for radius in radii
            ),
            sigma=run.sigma,
            summary=summary(run),
            conditions=conditions(run) if isinstance(run, RunResults) else (),
        )
        for name, run, has in zip(names, runs, counted, strict=True)
    ]


def best_cell(cells: Sequence[Cell]) -> Cell:
    """Return the cell with the largest share, which knows from how many it was chosen."""
    return replace(max(cells, key=lambda cell: cell.share), chosen_of=len(cells))


def best_over_sigma(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each method, each cell its best over sigma.

    As in the tables of Cohen et al. 2019 and Salman et al. 2020: sigma is chosen for each radius,
    in hindsight. Rows of files, without alpha, are not joined with those of runs.
    """
    best = []
    for key in dict.fromkeys((row.method, row.proven) for row in rows):
        of_method = [row for row in rows if (row.method, row.proven) == key]
        cells = tuple(map(best_cell, zip(*(row.cells for row in of_method), strict=True)))
        assumed = dict.fromkeys(one for row in of_method for one in row.conditions)
        best.append(Row(key[0], rows[0].measure, cells, conditions=tuple(assumed)))
    return best


def choose(rows: Sequence[Row], chosen: int) -> list[Row]:
    """Return the rows with one that was chosen from all of them after its numbers were seen."""
    cells = tuple(replace(cell, chosen_of=len(rows)) for cell in rows[chosen].cells)
    marked = replace(rows[chosen], cells=cells)
    return [*rows[:chosen], marked, *rows[chosen + 1 :]]


def caption(rows: Sequence[Row]) -> str:
    """Return what the cells are."""
    return f"{rows[0].measure.capitalize()} (% of the images) at L2 radius r, rounded down"


def headings(rows: Sequence[Row]) -> list[str]:
    """Return the column headings of the rows."""
    radii = [f"r = {cell.reach}" for cell in rows[0].cells]
    if rows[0].summary is None:
        return ["method", *radii]
    return [
        "method",
        "σ",
        "images",
        "clean %",
        "denoised %",
        *radii,
        "ACR",
        "abstains %",
        "s/image",
        "calls",
    ]


def refused_images(rows: Sequence[Row]) -> list[RefusedImage]:
    """Return the images that could not be certified, once each, with the first reason."""
    found = {
        image.image_id: image
        for row in reversed(rows)
        if row.summary is not None
        for image in row.summary.refused
    }
    return sorted(found.values(), key=lambda image: image.index)


def plain_tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return tables as captions and texts: of the rows, and of what they prove.

    Where a method has several rows, the same of those best over sigma.
    """
    best = best_over_sigma(rows)
    hindsight = ". The best σ for each radius, chosen in hindsight"
    tables: list[dict[str, Any] | None] = []
    for table, more in ((rows, ""), (best, hindsight)) if len(best) < len(rows) else ((rows, ""),):
        texts = [row.texts() for row in table]
        tables.append(
            {"caption": caption(table) + more, "headings": headings(table), "rows": texts}
        )
        tables.append(proven_table(table))
    return [table for table in tables if table is not None]


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the rows of :func:`comparison` or :func:`best_over_sigma` as a Markdown table."""
    table = markdown_table(headings(rows), [row.texts() for row in rows])
    if (proven := proven_table(rows)) is not None:
        bounds = markdown_table(proven["headings"], proven["rows"])
        listing = "\n".join(
            f"- {one['verdict']}, for {one['about']}: {one['text']} ({one['known']})"
            for one in condition_rows(rows)
        )
        table += f"\n\n{proven['caption']}:\n\n{bounds}\n\n{listing}"
    refused = [f"- refused: {image.image_id}: {image.reason}" for image in refused_images(rows)]
    listed = "".join(f"\n{line}" for line in ["", *refused]) if refused else ""
    return f"{caption(rows)}:\n\n{table}\n{listed}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of names in the first column and numbers in the others."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def to_rich(rows: Sequence[Row]) -> Table:
    """Return the rows for a terminal of 80 columns: methods, sigma, radii and ACR."""
    best = rows[0].summary is None
    title = f"{caption(rows)}{', at the best σ for each' if best else ''}"
    note = "Population: each bound with 95 % confidence, if the images are an independent sample"
    note += "; of the best of k, at 5 % / k." if any(row.best_of for row in rows) else "."
    table = Table(
        title=title, caption=note, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("method")
    radii = [cell.reach for cell in rows[0].cells]
    for heading in radii if best else ["σ", *radii, "ACR"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if best:
            table.add_row(Text(row.method), *map(str, row.cells))
        else:
            method, sigma, _, _, _, *shown, _, _, _ = row.texts()
            table.add_row(Text(method), sigma, *shown)
        if row.proven:
            bounds = [percent(cell.population) for cell in row.cells]
            said = f"  population, {row.best_of or 'at least'}"
            table.add_row(said, *([] if best else [""]), *bounds, style="dim")
    return table
