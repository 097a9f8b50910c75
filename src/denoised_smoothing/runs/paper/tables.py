"""Certify every row at every sigma and write the table and the figure of the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from denoised_smoothing.certificates.plans.anytime import RADII
from denoised_smoothing.errors import RefusedImagesError, SettingError
from denoised_smoothing.files import write_atomically
from denoised_smoothing.reporting.cells import Row
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.plots import radius_figure, save_figure
from denoised_smoothing.reporting.results import RunResults, load_results
from denoised_smoothing.reporting.tables import (
    best_over_sigma,
    comparison,
    markdown_table,
    to_markdown,
)
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.store import Store
from denoised_smoothing.text import shown


class PublishedRow(NamedTuple):
    """A row of a published table: certified accuracy in % at each of the radii."""

    method: str
    radii: tuple[float, ...]
    certified: tuple[float, ...]


CIFAR10_PUBLISHED = (
    PublishedRow("published: black box, ResNet-110", RADII, (45, 20, 15, 13, 11, 10)),
    PublishedRow("published: white box, ResNet-110", RADII, (56, 41, 28, 19, 16, 13)),
)
"""Salman et al. 2020, Table 2: best over sigma 0.12, 0.25, 0.5 and 1.0, n = 10,000."""
IMAGENET_PUBLISHED = tuple(
    PublishedRow(f"published: {method}, ResNet-{depth}", RADII, certified)
    for depth, rows in {
        18: ((18, 1, 1, 0, 0, 0), (42, 26, 14, 7, 5, 3), (42, 29, 16, 10, 6, 4)),
        34: ((26, 2, 1, 0, 0, 0), (47, 32, 18, 12, 8, 3), (47, 32, 19, 12, 8, 4)),
        50: ((32, 4, 2, 0, 0, 0), (48, 31, 19, 12, 7, 4), (50, 33, 20, 14, 11, 6)),
    }.items()
    for method, certified in zip(("no denoiser", "black box", "white box"), rows, strict=True)
)
"""Salman et al. 2020, Table 1 and appendix: best over sigma, n = 10,000, one of every 100 images of
the validation set."""

_DRAWN = 3
"""Published rows in the figure; more would hide ours."""


@dataclass(frozen=True)
class TableResult:
    """The runs of a table, its rows, and the files that hold it."""

    note: str
    results: list[RunResults]
    best: list[Row]
    each: list[Row]
    table: Path
    figure: Path
    report: Path
    refused: tuple[str, ...]
    """Messages about images that could not be certified."""


def make_table(
    runs: Iterable[CertificationRun],
    store: Store,
    folder: Path,
    *,
    note: Callable[[CertificationRun], str],
    title: str,
    published: Sequence[PublishedRow] = (),
    progress: Callable[[RunProgress], None] | None = None,
) -> TableResult:
    """Certify, and write ``table.md``, ``figure.png`` and ``report.html`` into the folder.

    Finished images in the store are not certified again, so a repeated call resumes. The files
    are written after every run.

    Args:
        runs: one for each row and sigma, all with a plan that names radii; taken one by one, as
            each may load a model.
        note: from the first run to its scale and precision, for the table.
        published: rows to print next to ours; the figure shows the last three.
        progress: called after every batch.

    Raises:
        SettingError: no run.
        StoreError, ClassifierError: as :meth:`CertificationRun.execute`.
    """
    made: TableResult | None = None
    results: list[RunResults] = []
    refused: list[str] = []
    for run in runs:
        run.prepare()
        text = note(run) if made is None else made.note
        try:
            run.execute(store, progress)
        except RefusedImagesError as error:  # all other images are certified
            refused.append(str(error))
        results.append(load_results(store, run.run_name, indices=run.indices))
        each = comparison(results, RADII)
        made = TableResult(
            text, results, best_over_sigma(each), each, folder / "table.md",
            folder / "figure.png", folder / "report.html", tuple(refused),
        )  # fmt: skip
        write_atomically(made.table, shown(_markdown(made, title, published)).encode())
        save_figure(radius_figure(made.best, published[-_DRAWN:]), made.figure)
        names = [result.run.name for result in results]
        write_report(store, names, made.report, radii=RADII, title=title, indices=run.indices)
    if made is None:
        raise SettingError("A table needs at least one row and one sigma, got none. Name them.")
    return made


def _markdown(made: TableResult, title: str, published: Sequence[PublishedRow]) -> str:
    parts = [f"# {title}", "", made.note, "", "## Best over σ", "", to_markdown(made.best)]
    if published:
        columns = ["method", *(f"r = {radius:g}" for radius in published[0].radii)]
        lines = [[row.method, *(f"{value:g}" for value in row.certified)] for row in published]
        parts += ["Published:", "", markdown_table(columns, lines), ""]
    return "\n".join([*parts, "## Every σ", "", to_markdown(made.each)])
