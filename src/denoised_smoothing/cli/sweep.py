"""sweep: choose sigma."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.cli.certify import load_smoothed
from denoised_smoothing.cli.options import (
    FAILED,
    Alpha,
    AsJson,
    ClassifierSpec,
    Data,
    DenoiserSpec,
    Device,
    Engine,
    PrecisionName,
    Radii,
    Resolution,
    StoreUrl,
    command_line,
    fail,
    parse_numbers,
    parse_radii,
)
from denoised_smoothing.cli.output import out, plain_rows, print_json, run_bar
from denoised_smoothing.errors import ImageError

if TYPE_CHECKING:
    from denoised_smoothing.runs.sweep import SigmaSweep


def sweep(
    data: Data,
    classifier: ClassifierSpec,
    radius: Annotated[
        float, typer.Option(help="The L2 radius at which most images shall be certified.")
    ],
    denoiser: DenoiserSpec = "none",
    sigmas: Annotated[str, typer.Option(help="Sigmas to compare.")] = "0.12,0.25,0.5,1.0",
    radii: Radii = None,
    max_n: Annotated[int, typer.Option(help="The cap on copies an image.")] = 1_000,
    alpha: Alpha = 0.001,
    resolution: Resolution = None,
    limit: Annotated[int, typer.Option(help="Images of the sample, at most.")] = 50,
    stride: Annotated[int, typer.Option(help="Every so many-th image.")] = 1,
    store: StoreUrl = "runs.sqlite",
    run: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The runs are NAME-SIGMA; NAME-rRADIUS-SIGMA if --radius is none of --radii.",
        ),
    ] = "sweep",
    output: Annotated[Path, typer.Option(help="The HTML report to write.")] = Path("sweep.html"),
    device: Device = "auto",
    engine: Engine = EngineName.AUTO,
    precision: PrecisionName = Precision.FLOAT32,
    as_json: AsJson = False,
) -> None:
    """Choose sigma: certify a sample at several by the anytime plan, and report the trade-off."""
    from denoised_smoothing.certificates.plans import Anytime
    from denoised_smoothing.certificates.plans.anytime import RADII
    from denoised_smoothing.certificates.radii import check_radii
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.reporting import comparison, to_rich, write_report
    from denoised_smoothing.runs.run import CertificationRun
    from denoised_smoothing.runs.sweep import sweep_sigma
    from denoised_smoothing.store import Store

    usual = parse_radii(radii) or RADII
    asked = check_radii((*usual, radius))
    # A sweep about one more radius is another one: its runs stop later than those about the usual.
    name = run if radius in usual else f"{run}-r{radius:g}"
    dataset = load_dataset(data)
    requests = [
        CertificationRun(
            load_smoothed(
                classifier, denoiser, sigma, device=device, engine=engine, precision=precision
            ),
            dataset,
            Anytime(asked, max_n=max_n),
            alpha,
            classifier,
            denoiser,
            name=f"{name}-{sigma:g}",
            resolution=resolution,
            limit=limit,
            stride=stride,
            command=command_line(),
        )
        for sigma in parse_numbers("--sigmas", sigmas)
    ]
    with Store(store) as opened:
        with run_bar() as show:
            chosen = sweep_sigma(requests, opened, radius, show)
        names = [result.run.name for result in chosen.results]
        write_report(opened, names, output, radii=asked, title="Which sigma?")
    rows = comparison(chosen.results, asked)
    if as_json:
        print_json(
            {
                "sigma": chosen.sigma,
                "radius": radius,
                "share": chosen.share,
                "refused": chosen.refused,
                "runs": names,
                "report": str(output),
                "rows": plain_rows(rows),
            }
        )
    else:
        out.print(to_rich(rows))
        out.print(_advice(chosen), markup=False, soft_wrap=True)
        out.print(f"Report: {output}", markup=False, soft_wrap=True)
    if chosen.refused:
        fail(ImageError("; ".join(chosen.refused)), FAILED)


def _advice(chosen: SigmaSweep) -> str:
    if chosen.sigma is None:
        return (
            f"At L2 radius {chosen.radius:g} no image of this sample is certified with any of "
            "these sigmas; try larger ones, or a larger --max-n."
        )
    return (
        f"At L2 radius {chosen.radius:g} most images are certified with --sigma "
        f"{chosen.sigma:g} ({100 * chosen.share:.1f} % of this sample)."
    )
