"""Print progress, notes, tables, cards and JSON."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from denoised_smoothing.cli.options import FAILED, INTERRUPTED, command_line

if TYPE_CHECKING:
    from denoised_smoothing.remote.records import Spending
    from denoised_smoothing.reporting.cells import Row
    from denoised_smoothing.reporting.further_claims import ClaimRow, Questions
    from denoised_smoothing.reporting.results import RunResults
    from denoised_smoothing.runs.writer import RunProgress
    from denoised_smoothing.store import RefusedImage

out, err = Console(), Console(stderr=True)


def say(text: str, console: Console = out) -> None:
    """Print a text as it is: no markup, no line breaks."""
    console.print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a note on standard error."""
    say(f"note: {text}", err)


def fail(error: Exception, code: int = FAILED) -> NoReturn:
    """Print the message of an error and end with an exit code."""
    say(f"error: {error}", err)
    sys.exit(code)


class Interrupted(SystemExit):
    """The end by Ctrl-C of a command that said what is kept."""


def stopped(text: str) -> NoReturn:
    """Print what Ctrl-C leaves, and end."""
    say(f"Interrupted. {text}", err)
    raise Interrupted(INTERRUPTED)


def interrupted(more: str = "", kept: str = "") -> NoReturn:
    """Print how to resume after Ctrl-C, and end.

    Args:
        more: options that the repeated command needs.
        kept: what is stored, or is not; all counts, if empty.
    """
    kept = kept or "Counts so far are stored."
    stopped(f"{kept} To resume:\n{command_line()}{more}")


@contextmanager
def progress_bar(text: str, description: str, **fields: Any) -> Iterator[Callable[..., None]]:
    """Show a bar on standard error, with a text of fields; yields the function that updates it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(text),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(description, total=None, **fields)
        yield lambda **values: bar.update(task, **values)


@contextmanager
def run_bar(more: Callable[[], str] = str) -> Iterator[Callable[[RunProgress], None]]:
    """Show images done, certified so far, queries, cost and time left of a run.

    After Ctrl-C, it prints how to resume, and ends.

    Args:
        more: returns options that the repeated command needs.
    """
    text = (
        "images, {task.fields[certified]} certified, {task.fields[calls]:,} queries "
        "{task.fields[spent]} {task.fields[left]}"
    )
    start = {"certified": 0, "calls": 0, "spent": "", "left": ""}
    try:
        with progress_bar(text, "certifying", **start) as update:
            yield lambda progress: update(
                description=progress.run,
                completed=progress.images_done,
                total=progress.images,
                certified=progress.certified,
                calls=progress.calls,
                spent="" if progress.spent is None else f"${progress.spent.max_cost:,.2f}",
                left=""
                if progress.seconds_left is None
                else f"{timedelta(seconds=int(progress.seconds_left))} left",
            )
    except KeyboardInterrupt as stop:
        interrupted(more(), str(stop))


def print_json(value: Any) -> None:
    """Print one JSON value on standard output."""
    print(json.dumps(value))  # noqa: T201


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows of a comparison, and every image that could not be certified."""
    from denoised_smoothing.reporting.proven import condition_rows
    from denoised_smoothing.reporting.tables import refused_images, to_rich

    out.print(to_rich(rows))
    for condition in condition_rows(rows):
        if "not met" in condition["verdict"]:
            say(f"Not met, for {condition['about']}: {condition['text']} ({condition['known']})")
    print_refused(refused_images(rows))


def print_refused(refused: Sequence[RefusedImage]) -> None:
    """Print the images that could not be certified, with the reasons."""
    for image in refused:
        say(f"refused: {image.image_id}: {image.reason}")


def print_results(
    results: RunResults,
    radii: Sequence[float] | None,
    store: str,
    questions: Questions | None = None,
    *,
    as_json: bool,
) -> None:
    """Print the table of a run, or the certificate of its one image, and the next commands."""
    from denoised_smoothing.reporting.further_claims import (
        claim_rows,
        plain_further,
        sentences,
    )
    from denoised_smoothing.reporting.tables import comparison, default_radii

    radii = radii or default_radii([results])
    rows = comparison([results], radii)
    name, images = results.run.name, results.images
    if as_json:
        alone = {"certificate": images[0].certificate.to_dict()} if len(images) == 1 else {}
        more = {} if questions is None else {"further": plain_further(results, questions, radii)}
        print_json({"store": store, "runs": [name], "rows": plain_rows(rows), **alone, **more})
        return
    if len(images) == 1:
        labels, label = results.run.label_names, images[0].predicted
        named = f"{labels[label]}: " if label in labels else ""
        say(f"{images[0].image_id}: {named}{images[0].certificate}")
        if questions is not None:
            for sentence in sentences(questions.claims(images[0].certificate), labels):
                say(sentence)
        print_refused(results.run.refused)
    else:
        print_table(rows)
        if questions is not None:
            print_claims(claim_rows(results, questions, radii), radii, results)
    say(f"Stored as {name} in {store}. Next:")
    at = [] if store == "runs.sqlite" else ["--store", store]
    for command, file in (("report", "report.html"), ("export", f"{name}.tsv")):
        line = shlex.join(["denoised-smoothing", command, name, "--output", file, *at])
        say(f"  {line}")


def print_claims(rows: Sequence[ClaimRow], radii: Sequence[float], results: RunResults) -> None:
    """Print how many images have each answer, the top label and those next to it."""
    from rich import box
    from rich.table import Table

    from denoised_smoothing.reporting.further_claims import claim_table

    texts = claim_table(rows, radii, results)
    say(f"{texts['caption']}:")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(texts["headings"]):
        table.add_column(heading.removeprefix("r = "), justify="right" if number else "left")
    for cells in texts["rows"]:
        table.add_row(*cells)
    out.print(table)


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows of a comparison as plain values; shares are rounded down."""
    from denoised_smoothing.certificates.radii import round_down
    from denoised_smoothing.reporting.proven import plain_proof

    plain = []
    for row in rows:
        values: dict[str, Any] = {
            "method": row.method,
            "sigma": row.sigma,
            "measure": row.measure,
            "certified": {cell.reach: cell.certified for cell in row.cells},
            "images": row.cells[0].images,
            "proven": plain_proof(row),
        }
        if row.summary is not None:
            values |= {
                "average_certified_radius": round_down(row.summary.average_radius, 6),
                "clean_accuracy": _decimals(row.summary.clean),
                "denoised_accuracy": _decimals(row.summary.denoised),
                "abstained": row.summary.abstained,
                "unfinished": row.summary.unfinished,
                "refused": [asdict(image) for image in row.summary.refused],
                "seconds_per_image": row.summary.seconds,
                "calls": row.summary.calls,
            }
        plain.append(values)
    return plain


def _decimals(share: Fraction | None) -> float | None:
    return None if share is None else float(share)


def print_written(path: Path, *, as_json: bool, side_file: Path | None = None) -> None:
    """Print that a file was written, and another one next to it."""
    if as_json:
        print_json({"output": str(path)} | ({"side_file": str(side_file)} if side_file else {}))
    else:
        say(f"wrote {path}" + (f" and {side_file}" if side_file else ""))


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Print rows with the same keys as a table, or as a JSON array."""
    from rich.table import Table

    if as_json:
        return print_json(rows)
    table = Table(box=None, pad_edge=False)
    for heading in rows[0] if rows else ():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row.values()))
    return out.print(table if rows else "none")


def print_spending(spending: Spending) -> None:
    """Print the queries and the cost of a run on standard error."""
    uncertain = f" ({spending.doubtful:,} of them uncertain)" if spending.doubtful else ""
    say(
        f"{spending.attempts:,} queries sent, {spending.queries:,} paid for{uncertain}: "
        f"${spending.max_cost:,.4f}",
        err,
    )
