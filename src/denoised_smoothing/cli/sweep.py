"""The command ``sweep``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import (
    Alpha,
    AsJson,
    Data,
    File,
    Labels,
    MaxN,
    Radii,
    Radius,
    Sigmas,
    StoreUrl,
    Stride,
    command_line,
    option,
    parse_numbers,
    parse_radii,
    read_labels,
)
from denoised_smoothing.cli.output import (
    fail,
    note,
    plain_rows,
    print_json,
    print_table,
    run_bar,
    say,
)
from denoised_smoothing.errors import RefusedImagesError

if TYPE_CHECKING:
    from denoised_smoothing.runs.sweep import SigmaSweep

TAKEN = ("classifier", "denoiser", "resolution", "device", "engine", "precision")


@command()
def sweep(
    data: Data,
    model: Annotated[ModelOptions, Take(TAKEN, required=("classifier",))],
    radius: Radius,
    sigmas: Sigmas = "0.12,0.25,0.5,1.0",
    radii: Radii = None,
    max_n: MaxN = 1_000,
    alpha: Alpha = 0.001,
    limit: Annotated[int, option("Data and model", "Use at most N images.")] = 50,
    stride: Stride = 1,
    labels: Labels = None,
    store: StoreUrl = "runs.sqlite",
    run: Annotated[str, option("Output", "Start of the names of the runs.")] = "sweep",
    output: File = Path("sweep.html"),
    as_json: AsJson = False,
) -> None:
    """Certify a sample of images at several sigmas, and choose one.

    Example: denoised-smoothing sweep digits --classifier digits --radius 0.25

    Writes a report. Resumes an interrupted sweep. The runs are NAME-SIGMA, or NAME-rRADIUS-SIGMA
    if --radius is none of --radii.
    """
    from denoised_smoothing.certificates.plans import Anytime
    from denoised_smoothing.certificates.plans.anytime import RADII
    from denoised_smoothing.certificates.radii import check_radii
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.reporting.html import write_report
    from denoised_smoothing.runs.run import CertificationRun
    from denoised_smoothing.runs.sweep import sweep_sigma
    from denoised_smoothing.store import Store
    from denoised_smoothing.store.records import check_name

    check_name(run)
    usual = RADII if radii is None else parse_radii(radii)
    decided = check_radii((*usual, radius))
    # A sweep about one more radius has runs of its own: they stop later than those without it.
    name = run if radius in usual else f"{run}-r{radius:g}"
    dataset, assigned = load_dataset(data), read_labels(labels)
    requests = [
        CertificationRun(
            replace(model, sigma=sigma).build(),
            dataset,
            Anytime(decided, max_n=max_n),
            alpha,
            name=f"{name}-{sigma:g}",
            resolution=model.resolution,
            limit=limit,
            stride=stride,
            labels=assigned,
            command=command_line(),
        )
        for sigma in parse_numbers("--sigmas", sigmas)
    ]
    if text := requests[0].label_match.note:  # the same at every sigma
        note(text)
    with Store(store) as opened:
        with run_bar() as show:
            chosen = sweep_sigma(requests, opened, radius, show)
        names = [result.run.name for result in chosen.results]
        shown = requests[0].indices
        write_report(opened, names, output, decided, title="Which sigma?", indices=shown)
    rows = chosen.rows(decided)
    if as_json:
        found = {"sigma": chosen.sigma, "radius": radius, "share": chosen.share}
        files = {"refused": chosen.refused, "runs": names, "report": str(output)}
        print_json({**found, **files, "rows": plain_rows(rows)})
    else:
        print_table(rows)
        say(_advice(chosen))
        say(f"Report: {output}")
    if chosen.refused:
        fail(RefusedImagesError("; ".join(chosen.refused)))


def _advice(chosen: SigmaSweep) -> str:
    if chosen.sigma is None:
        return (
            f"No image of this sample is certified at L2 radius {chosen.radius:g}. "
            "Try larger --sigmas or a larger --max-n."
        )
    return (
        f"--sigma {chosen.sigma:g} certifies most images at L2 radius {chosen.radius:g}: "
        f"{100 * chosen.share:.1f} % of this sample."
    )
