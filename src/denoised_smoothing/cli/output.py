"""What the commands show: progress, tables, cards, JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from denoised_smoothing.certificates.radii import round_down
from denoised_smoothing.reporting import (
    ImageResult,
    Row,
    RunResults,
    comparison,
    default_radii,
    to_rich,
)

if TYPE_CHECKING:
    from denoised_smoothing.remote.records import Spending
    from denoised_smoothing.runs.writer import RunProgress

out, err = Console(), Console(stderr=True)


@contextmanager
def run_bar() -> Iterator[Callable[[RunProgress], None]]:
    """A progress bar on standard error: images done, certified so far, queries, time left."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("images, {task.fields[certified]} certified, {task.fields[calls]:,} queries"),
        TextColumn("{task.fields[spent]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("certifying", total=None, certified=0, calls=0, spent="", left="")

        def show(progress: RunProgress) -> None:
            bar.update(
                task,
                description=progress.run,
                completed=progress.images_done,
                total=progress.images,
                certified=progress.certified,
                calls=progress.calls,
                spent="" if progress.spent is None else _spent(progress.spent),
                left="" if progress.seconds_left is None else _left(progress.seconds_left),
            )

        yield show


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value))  # noqa: T201


def print_results(
    results: Sequence[RunResults], radii: Sequence[float] | None, store: str, *, as_json: bool
) -> None:
    """The table of some runs, or one image's certificate, and what to do with them next."""
    rows = comparison(results, radii or default_radii(results))
    names = [result.run.name for result in results]
    images = [image for result in results for image in result.images]
    if as_json:
        alone = {"certificate": images[0].certificate.to_dict()} if len(images) == 1 else {}
        print_json({"store": store, "runs": names, "rows": plain_rows(rows), **alone})
        return
    if len(images) == 1:
        out.print(_certificate(results[0], images[0]), markup=False, soft_wrap=True)
    else:
        out.print(to_rich(rows))
    out.print(f"Stored as {', '.join(names)} in {store}. Next:", markup=False, soft_wrap=True)
    for name in names:
        at = [] if store == "runs.sqlite" else ["--store", store]
        for command in (
            ["report", name, "--output", "report.html"],
            ["export", name, "--output", f"{name}.tsv"],
        ):
            line = shlex.join(["denoised-smoothing", *command, *at])
            out.print(f"  {line}", markup=False, soft_wrap=True)


def _certificate(result: RunResults, image: ImageResult) -> str:
    names = result.run.info.get("label_names")
    name = f"{names[image.predicted]}: " if names and image.predicted is not None else ""
    return f"{image.image_id}: {name}{image.certificate}"


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of a comparison as plain values, shares rounded down by their construction."""
    return [
        {
            "method": row.method,
            "sigma": row.sigma,
            "measure": row.measure,
            "certified": {f"{cell.radius:g}": cell.certified for cell in row.cells},
            "images": row.cells[0].images,
            **(
                {}
                if row.summary is None
                else {
                    "average_certified_radius": round_down(row.summary.average_radius, 6),
                    "abstained": row.summary.abstained,
                    "unfinished": row.summary.unfinished,
                    "seconds_per_image": row.summary.seconds,
                    "calls": row.summary.calls,
                }
            ),
        }
        for row in rows
    ]


def print_card(path: Path, card: Mapping[str, str], *, as_json: bool) -> None:
    """Where trained weights are, and their card."""
    if as_json:
        print_json({"output": str(path), **card})
        return
    table = Table("card", str(path), box=None, pad_edge=False, show_header=True)
    for name, value in card.items():
        table.add_row(name, value)
    out.print(table)


def print_written(path: Path, *, as_json: bool) -> None:
    """That a file was written."""
    if as_json:
        print_json({"output": str(path)})
    else:
        out.print(f"wrote {path}", markup=False, soft_wrap=True)


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Rows with the same keys as a table, or as a JSON array."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("none")
        return
    table = Table(box=None, pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    out.print(table)


def print_spending(spending: Spending) -> None:
    """What queries of a run came to, on standard error."""
    doubtful = f", {spending.doubtful:,} of them perhaps not" if spending.doubtful else ""
    err.print(
        f"{spending.attempts:,} attempts, {spending.queries:,} paid for{doubtful}: "
        f"${spending.max_cost:,.4f}",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def _spent(spending: Spending) -> str:
    return f"${spending.max_cost:,.2f}"


def _left(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
