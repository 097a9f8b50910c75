"""Results to numbers and tables: certified accuracy, average certified radius, comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table
from rich.text import Text

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.radii import format_down, gaussian_radius
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.results import RunResults

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""The radii of the tables of Cohen et al. 2019."""


def counted_radii(results: RunResults) -> npt.NDArray[np.float64]:
    """One radius an image [N] where it counts, -inf where it does not.

    An image counts if its certified label is correct or, in data without labels, if it has
    a certified label.

    Raises:
        SettingError: the run has no finished image.
    """
    _check_finished(results)
    return np.array(
        [
            image.radius
            if (image.correct if results.labelled else image.predicted is not None)
            else -np.inf
            for image in results.images
        ]
    )


def certified_accuracy(results: RunResults, radii: Sequence[float]) -> npt.NDArray[np.float64]:
    """Share of all finished images that are correct with at least each radius.

    The approximate certified test set accuracy of Cohen et al. 2019, section 4. In data
    without labels: the share that has any certified label.

    Args:
        radii: [R] L2 radii in pixel values in [0, 1], at least 0.

    Returns:
        [R] shares in [0, 1].

    Raises:
        SettingError: a radius is below 0, or the run has no finished image.
    """
    return _counts(results, radii) / len(results.images)


def accuracy_steps(
    results: RunResults,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The whole curve of :func:`certified_accuracy`: radii at which it falls, ascending from 0.

    Returns:
        [S] radii and [S] shares in [0, 1]: ``shares[i]`` is that beyond ``radii[i]``.

    Raises:
        SettingError: the run has no finished image.
    """
    radii = np.sort(counted_radii(results))
    radii = np.concatenate([[0.0], radii[radii >= 0.0]])
    return radii, np.arange(len(radii) - 1, -1, -1) / len(results.images)


def accuracy(results: RunResults) -> float:
    """Certified accuracy at radius 0: the share of images that get their label right."""
    return float(certified_accuracy(results, (0.0,))[0])


def average_certified_radius(results: RunResults) -> float:
    """ACR: mean over all images of radius * correct (Zhai et al. 2020, MACER, section 5)."""
    return float(np.maximum(counted_radii(results), 0.0).mean())


def abstention_rate(results: RunResults) -> float:
    """Share of the finished images for which the smoothed classifier abstains."""
    _check_finished(results)
    return sum(image.predicted is None for image in results.images) / len(results.images)


def default_radii(runs: Sequence[RunResults]) -> tuple[float, ...]:
    """The radii that the plans of the runs ask about or, without such, those within reach.

    Within reach are those of ``RADII`` that some run could certify, had all its copies had
    one label.
    """
    asked = {radius for run in runs for radius in run.run.settings["plan"].get("radii", ())}
    reach = max(
        (
            gaussian_radius(run.sigma, clopper_pearson_upper(0, n, image.certificate.alpha))
            for run in runs
            if "radii" not in run.run.settings["plan"]
            for image in run.images[:1]
            for n in {image.certificate.counts.n for image in run.images} - {0}
        ),
        default=0.0,
    )
    fixed = any("radii" not in run.run.settings["plan"] for run in runs)
    reachable = {radius for radius in RADII if fixed and radius <= reach}
    return tuple(sorted(asked | reachable))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run comes to beside its certified accuracy at single radii."""

    accuracy: float
    average_radius: float
    abstained: float
    images: int
    unfinished: int
    seconds: float
    """Mean seconds an image."""
    calls: int
    """Classifier calls of all finished images."""


def summary(results: RunResults) -> Summary:
    """The summary of a run.

    Raises:
        SettingError: the run has no finished image.
    """
    return Summary(
        accuracy=accuracy(results),
        average_radius=average_certified_radius(results),
        abstained=abstention_rate(results),
        images=len(results.images),
        unfinished=results.unfinished,
        seconds=sum(image.seconds for image in results.images) / len(results.images),
        calls=sum(image.certificate.calls for image in results.images),
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """How many images a run certifies at a radius; as text a percentage, rounded down."""

    radius: float
    sigma: float
    certified: int
    images: int

    @property
    def share(self) -> float:
        """The share in [0, 1]."""
        return self.certified / self.images

    def __str__(self) -> str:
        tenths = self.certified * 1000 // self.images
        return f"{tenths // 10}.{tenths % 10}"


@dataclass(frozen=True, slots=True)
class Row:
    """A run in a table; without ``sigma`` and ``summary``: the best over several runs."""

    method: str
    measure: str
    cells: tuple[Cell, ...]
    sigma: float | None = None
    summary: Summary | None = None

    def texts(self) -> list[str]:
        """The row as printed, one text a column of :func:`headings`."""
        if self.summary is None:
            return [self.method, *(f"{cell} (σ {cell.sigma:g})" for cell in self.cells)]
        total = self.summary.images + self.summary.unfinished
        return [
            self.method,
            f"{self.sigma:g}",
            f"{self.summary.images:,}" + (f"/{total:,}" if self.summary.unfinished else ""),
            *map(str, self.cells),
            format_down(self.summary.average_radius, 3),
            f"{100 * self.summary.abstained:.1f}",
            f"{self.summary.seconds:.3g}",
            f"{self.summary.calls:,}",
        ]


def method_names(runs: Sequence[RunResults]) -> list[str]:
    """One name a run: its method, with engine and precision where they are not the usual ones.

    And the run's own name where all of it and sigma occur twice.
    """
    names = [
        run.method if run.executed is None else f"{run.method}, {run.executed}" for run in runs
    ]
    seen = Counter((name, run.sigma) for name, run in zip(names, runs, strict=True))
    return [
        name if seen[name, run.sigma] == 1 else f"{name} ({run.run.name})"
        for name, run in zip(names, runs, strict=True)
    ]


def measure(runs: Sequence[RunResults]) -> str:
    """``certified accuracy``, or ``certified`` where the data have no labels.

    Raises:
        SettingError: some runs have labels and others have not, or no finished image.
    """
    for run in runs:
        _check_finished(run)
    labelled = {run.labelled for run in runs}
    if len(labelled) > 1:
        raise SettingError(
            "runs with and without true labels cannot be compared, got labels in "
            f"{[run.run.name for run in runs if run.labelled]} and none in "
            f"{[run.run.name for run in runs if not run.labelled]}; report on them apart"
        )
    return "certified accuracy" if True in labelled else "certified"


def comparison(runs: Sequence[RunResults], radii: Sequence[float]) -> list[Row]:
    """One row a run, one cell a radius.

    Raises:
        SettingError: no run, no radius or one below 0, a run without finished images, or
            runs with and without labels.
    """
    if not runs or not len(radii):
        raise SettingError(
            f"a table needs at least one run and one radius, got {len(runs)} runs and radii "
            f"{tuple(radii)}"
        )
    what = measure(runs)
    return [
        Row(
            method=name,
            measure=what,
            cells=tuple(
                Cell(float(radius), run.sigma, int(count), len(run.images))
                for radius, count in zip(radii, _counts(run, radii), strict=True)
            ),
            sigma=run.sigma,
            summary=summary(run),
        )
        for name, run in zip(method_names(runs), runs, strict=True)
    ]


def best_over_sigma(rows: Sequence[Row]) -> list[Row]:
    """One row a method, each cell its best over sigma.

    As in the tables of Cohen et al. 2019 and Salman et al. 2020: sigma is chosen by radius, in
    hindsight.
    """
    methods = {row.method: [other for other in rows if other.method == row.method] for row in rows}
    return [
        Row(
            method,
            group[0].measure,
            tuple(
                max(cells, key=lambda cell: cell.share)
                for cells in zip(*(row.cells for row in group), strict=True)
            ),
        )
        for method, group in methods.items()
    ]


def caption(rows: Sequence[Row]) -> str:
    """What the cells are."""
    return f"{rows[0].measure.capitalize()} (% of the images) at L2 radius r, rounded down"


def headings(rows: Sequence[Row]) -> list[str]:
    """The column headings of the rows."""
    radii = [f"r = {cell.radius:g}" for cell in rows[0].cells]
    if rows[0].summary is None:
        return ["method", *radii]
    return ["method", "σ", "images", *radii, "ACR", "abstains %", "s/image", "calls"]


def to_markdown(rows: Sequence[Row]) -> str:
    """The rows of :func:`comparison` or :func:`best_over_sigma` as a Markdown table."""
    columns = headings(rows)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *(row.texts() for row in rows)]
    table = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
    return "\n".join([caption(rows) + ":", "", *table, ""])


def to_rich(rows: Sequence[Row]) -> Table:
    """The rows as a table for a terminal of 80 columns: methods, sigma, radii and ACR."""
    best = rows[0].summary is None
    title = f"{caption(rows)}{', at the best σ for each' if best else ''}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method")
    radii = [f"{cell.radius:g}" for cell in rows[0].cells]
    for heading in radii if best else ["σ", *radii, "ACR"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        method, *texts = row.texts()
        if best:
            texts = [str(cell) for cell in row.cells]
        else:
            sigma, _, *shown, _, _, _ = texts
            texts = [sigma, *shown]
        table.add_row(Text(method), *texts)
    return table


def _check_finished(results: RunResults) -> None:
    if not results.images:
        raise SettingError(
            f"run {results.run.name!r} has no finished image to report on; go on with the run first"
        )


def _counts(results: RunResults, radii: Sequence[float]) -> npt.NDArray[np.int64]:
    if not all(radius >= 0.0 for radius in radii):
        raise SettingError(f"a radius is a length of at least 0, got {tuple(radii)}")
    counted = counted_radii(results)
    return np.array([np.count_nonzero(counted >= radius) for radius in radii], dtype=np.int64)
