"""Certify every row at every sigma and write the table and the figure of the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from denoised_smoothing.certificates.plans.anytime import RADII
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.files import write_atomically
from denoised_smoothing.reporting import (
    Row,
    RunResults,
    best_over_sigma,
    comparison,
    load_results,
    markdown_table,
    radius_figure,
    save_figure,
    to_markdown,
    write_report,
)
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.store import Store


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
        store: holds the counts.
        folder: for the files.
        note: from the first run to its scale and precision, for the table.
        title: of the report.
        published: rows to print next to ours.
        progress: called after every batch.

    Raises:
        SettingError: no run.
        StoreError, ClassifierError: as :meth:`CertificationRun.execute`.
    """
    names: list[str] = []
    refused: list[str] = []
    text = ""
    for run in runs:
        run.prepare()
        text = text or note(run)
        try:
            run.execute(store, progress)
        except ImageError as error:  # all other images are certified
            refused.append(str(error))
        names.append(run.run_name)
        result = _write(names, store, folder, text, title, published, tuple(refused))
    if not names:
        raise SettingError("A table needs at least one row and one sigma, got none")
    return result


def _write(
    names: Sequence[str],
    store: Store,
    folder: Path,
    note: str,
    title: str,
    published: Sequence[PublishedRow],
    refused: tuple[str, ...],
) -> TableResult:
    results = [load_results(store, name) for name in names]
    each = comparison(results, RADII)
    best = best_over_sigma(each)
    table, figure, report = (folder / n for n in ("table.md", "figure.png", "report.html"))
    parts = [f"# {title}", "", note, "", "## Best over σ", "", to_markdown(best)]
    if published:
        columns = ["method", *(f"r = {radius:g}" for radius in published[0].radii)]
        lines = [[row.method, *(f"{value:g}" for value in row.certified)] for row in published]
        parts += ["Published:", "", markdown_table(columns, lines), ""]
    parts += ["## Every σ", "", to_markdown(each)]
    write_atomically(table, "\n".join(parts).encode())
    save_figure(radius_figure(best, published), figure)
    write_report(store, names, report, radii=RADII, title=title)
    return TableResult(note, results, best, each, table, figure, report, refused)
