"""The command ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denoised_smoothing.cli.grouped import command
from denoised_smoothing.cli.options import AsJson, option, require
from denoised_smoothing.cli.output import plain_rows, print_json, print_table, run_bar, say


@command()
def demo(
    name: Annotated[
        str, typer.Argument(metavar="photos|digits", help="What to certify.")
    ] = "photos",
    output: Annotated[Path, option("Output", "Folder for report and store.")] = Path("demo"),
    images: Annotated[
        int | None,
        option(
            "Data and model",
            "Number of images to certify.",
            show_default="all 12 photographs, 200 digits",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Certify photographs or digits with and without a denoiser, and write a report.

    Example: denoised-smoothing demo --images 6

    The report on photographs opens with a small change that fools the plain classifier. They need
    the extras photos and report; demo digits needs digits and report.
    """
    from denoised_smoothing.reporting.tables import best_over_sigma, comparison
    from denoised_smoothing.runs.demo import run_demo

    require("report", "the report of the demo", "jinja2", "matplotlib")
    with run_bar() as show:
        result = run_demo(output, name, images=images, progress=show)
    rows = comparison(result.results, result.demo.radii)
    opening = result.opening
    if as_json:
        files = {"report": str(result.report), "store": str(result.store)}
        fooled = opening and {
            "image": opening.image_id,
            "answer": opening.before,
            "changed": {"distance": opening.distance, "answer": opening.after},
        }
        print_json({**files, "opening": fooled, "rows": plain_rows(rows)})
        return
    if opening is not None:
        say(
            f"{opening.image_id}: the classifier answers {opening.before}. Changed by "
            f"{opening.distance:.3f} in L2, it answers {opening.after}."
        )
    if len(result.demo.sigmas) > 1:
        print_table(best_over_sigma(rows))
    print_table(rows)
    say(f"Report: {result.report.resolve().as_uri()}")
    say(f"Took {result.seconds:.0f} seconds. Every number was computed in this run.")
