"""The command ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from denoised_smoothing.cli.grouped import command
from denoised_smoothing.cli.options import AsJson, option
from denoised_smoothing.cli.output import plain_rows, print_json, print_table, run_bar, say


@command()
def demo(
    output: Annotated[Path, option("Output", "Folder for report and store.")] = Path("demo"),
    images: Annotated[int, option("Data and model", "Number of test images to certify.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Certify handwritten digits with and without a denoiser, and write a report.

    Example: denoised-smoothing demo --images 50
    """
    from denoised_smoothing.reporting.tables import best_over_sigma, comparison
    from denoised_smoothing.runs.demo import RADII, run_demo

    with run_bar() as show:
        result = run_demo(output, images=images, progress=show)
    rows = comparison(result.results, RADII)
    if as_json:
        files = {"report": str(result.report), "store": str(result.store)}
        print_json({**files, "rows": plain_rows(rows)})
        return
    print_table(best_over_sigma(rows))
    print_table(rows)
    say(f"Report: {result.report.resolve().as_uri()}")
    say(f"Took {result.seconds:.0f} seconds. Every number was computed in this run.")
