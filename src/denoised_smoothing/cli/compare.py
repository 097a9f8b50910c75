"""The command ``compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from denoised_smoothing.cli.grouped import command
from denoised_smoothing.cli.options import AsJson, Radii, StoreUrl, option, parse_radii
from denoised_smoothing.cli.output import note, print_json, print_rows, say


@command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Name of another run.")],
    radii: Radii = None,
    confidence: Annotated[
        float, option("Output", "Confidence that all differences hold together.")
    ] = 0.95,
    store: StoreUrl = "runs.sqlite",
    as_json: AsJson = False,
) -> None:
    """Compare two runs on the same images, and test whether they differ by chance.

    Example: denoised-smoothing compare my-run other-run --radii 0.25,0.5
    """
    from denoised_smoothing.reporting.html import differing_settings
    from denoised_smoothing.reporting.pairs import compare_runs
    from denoised_smoothing.reporting.results import load_results
    from denoised_smoothing.reporting.tables import default_radii
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        runs = [load_results(opened, name) for name in (first, second)]
    lengths = default_radii(runs) if radii is None else parse_radii(radii)
    found = compare_runs(runs[0], runs[1], lengths, confidence)
    differing = differing_settings(runs)
    if as_json:
        print_json({**found.to_dict(), "differing": differing})
        return
    say(f"first: {first} ({found.methods[0]}, sigma {runs[0].sigma:g})")
    say(f"second: {second} ({found.methods[1]}, sigma {runs[1].sigma:g})")
    print_rows(found.rows())
    say(
        "first, second: images that one run alone certifies; unfinished and refused ones count as "
        "not certified. points: the share of the first less "
        f"that of the second in %, with limits at {100 * confidence:g} % for all radii together."
    )
    say(found.sentence())
    if differing:
        note(f"The runs differ in {', '.join(differing)}.")
