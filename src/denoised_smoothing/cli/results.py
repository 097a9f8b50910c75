"""The commands ``report``, ``export``, ``merge``, ``backup`` and ``list``."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from denoised_smoothing.cli.claim_options import ClaimOptions
from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.options import AsJson, File, Radii, StoreUrl, option, parse_radii
from denoised_smoothing.cli.output import plain_rows, print_json, print_rows, print_written
from denoised_smoothing.reporting.export import ExportFormat

Together = Annotated[
    float | None,
    option(
        "Output",
        "Evaluate the counts again, so that all certificates of top labels hold together but for "
        "this probability, such as 0.05.",
        show_default="each by itself",
    ),
]


class Listing(StrEnum):
    """The kinds of things that can be listed."""

    CLASSIFIERS = "classifiers"
    DENOISERS = "denoisers"
    DATASETS = "datasets"
    RUNS = "runs"


@command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Names of the runs, and files that end in .tsv, with the columns of "
            "Cohen et al. 2019.",
        ),
    ],
    claims: Annotated[ClaimOptions, Take(without=("decide",))],
    output: File = Path("report.html"),
    radii: Radii = None,
    together: Together = None,
    store: StoreUrl = "runs.sqlite",
    as_json: AsJson = False,
) -> None:
    """Write an HTML report of one or more runs: curves, a table and example images.

    Example: denoised-smoothing report my-run --output report.html
    """
    from denoised_smoothing.reporting.further_claims import plain_further
    from denoised_smoothing.reporting.html import write_report
    from denoised_smoothing.store import Store

    chosen = None if radii is None else parse_radii(radii)
    with Store(store, read_only=True) as opened:
        stored = {run.name for run in opened.runs()}
        files = [name for name in runs if name.lower().endswith(".tsv") and name not in stored]
        names = [name for name in runs if name not in files]
        built = {name: claims.build(opened.run(name).label_names) for name in names}
        asked = {name: questions for name, questions in built.items() if questions is not None}
        written = write_report(
            opened, names, output, radii=chosen, published=files, together=together,
            questions=asked,
        )  # fmt: skip
    if not as_json:
        print_written(output, as_json=False)
        return
    further = {
        run.name: plain_further(run, asked[run.name], written.radii)
        for run in written.runs
        if run.name in asked
    }
    values = {"output": str(output), "together": together, "rows": plain_rows(written.rows)}
    print_json(values | ({"further": further} if further else {}))


@command()
def backup(output: File, store: StoreUrl = "runs.sqlite", as_json: AsJson = False) -> None:
    """Copy a store to one new file that is whole, also while runs are written to it.

    Example: denoised-smoothing backup --output copy.sqlite
    """
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        opened.back_up(output)
    print_written(output, as_json=as_json)


@command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")],
    output: File,
    format: Annotated[
        ExportFormat, option("Output", "File format. tsv has the columns of Cohen et al. 2019.")
    ] = ExportFormat.TSV,
    together: Together = None,
    store: StoreUrl = "runs.sqlite",
    as_json: AsJson = False,
) -> None:
    """Export a run as a table, one row per image. Radii are rounded down.

    Example: denoised-smoothing export my-run --output my-run.tsv
    """
    from denoised_smoothing.reporting.export import export as write_export
    from denoised_smoothing.reporting.export import side_file
    from denoised_smoothing.reporting.results import hold_together, load_results
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        results = load_results(opened, run)
    if together is not None:
        [results] = hold_together([results], together)
    write_export(results, format, output)
    beside = side_file(output) if format is ExportFormat.TSV else None
    print_written(output, as_json=as_json, side_file=beside)


@command()
def merge(
    stores: Annotated[
        list[str], typer.Argument(metavar="STORES", help="Stores that hold shards or other runs.")
    ],
    store: Annotated[str, option("Output", "Store to write the runs to.", metavar="URL")],
    partial: Annotated[bool, option("Output", "Merge unfinished shards too.", "--partial")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the runs of several stores into one, and join shards.

    Example: denoised-smoothing merge a.sqlite b.sqlite --store runs.sqlite
    """
    from denoised_smoothing.runs.examples import EXAMPLES
    from denoised_smoothing.runs.shards import merge as join
    from denoised_smoothing.store import Store

    with ExitStack() as opened:
        sources = [opened.enter_context(Store(url, read_only=True)) for url in stores]
        target = opened.enter_context(Store(store))
        runs = join(sources, target, examples=EXAMPLES, partial=partial)
    rows = [{"run": run.name, "stores": len(run.info.get("merged", [None]))} for run in runs]
    print_rows(rows, as_json=as_json)


@command("list")
def list_(
    kind: Annotated[
        Listing | None,
        typer.Argument(
            metavar="[KIND]",
            help="classifiers, denoisers, datasets or runs. Omit it to list all but runs.",
        ),
    ] = None,
    store: StoreUrl = "runs.sqlite",
    as_json: AsJson = False,
) -> None:
    """List classifiers, denoisers, data sets or stored runs, and missing extras.

    Example: denoised-smoothing list classifiers
    """
    if kind is Listing.RUNS:
        print_rows(_list_runs(store), as_json=as_json)
        return
    from denoised_smoothing.models import catalogue

    listers = {
        Listing.CLASSIFIERS: catalogue.list_classifiers,
        Listing.DENOISERS: catalogue.list_denoisers,
        Listing.DATASETS: catalogue.list_datasets,
    }
    chosen = listers if kind is None else {kind: listers[kind]}
    rows = [{"kind": which.value, **row} for which, lister in chosen.items() for row in lister()]
    columns = dict.fromkeys(key for row in rows for key in row)
    rows = [{key: row.get(key, "") for key in columns} for row in rows]
    if not as_json and not any(row["missing"] for row in rows):
        rows = [{key: row[key] for key in row if key != "missing"} for row in rows]
    print_rows(rows, as_json=as_json)


def _list_runs(store: str) -> list[dict[str, Any]]:
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        finished = opened.finished()
        return [
            {
                "run": run.name,
                "data": run.settings["data"],
                "sigma": run.settings["sigma"],
                "engine": run.settings.get("engine", "torch") or "none",
                "precision": run.settings.get("precision", "float32") or "none",
                "finished": finished.get(run.name, 0),
                "created": run.created.isoformat(timespec="seconds"),
            }
            for run in opened.runs()
        ]
