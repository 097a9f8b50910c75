"""The command line: parse, call one function, print."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from denoised_smoothing.cli import (
    attack,
    bundle,
    certify,
    experiment,
    plan,
    results,
    serve,
    sweep,
    train,
)
from denoised_smoothing.cli.cluster_options import RayCommand
from denoised_smoothing.cli.options import fail
from denoised_smoothing.errors import DenoisedSmoothingError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Certified robustness for image classifiers that already exist. Exit codes: 0 done, "
    "1 failed on the way (what was done is kept), 2 refused before any work, "
    "3 an attack contradicts a certificate, 130 interrupted.",
)

app.command()(certify.demo)
app.command()(certify.predict)
app.command(cls=RayCommand)(certify.certify)
app.command()(bundle.bundle)
app.command()(plan.plan)
app.command()(sweep.sweep)
app.command()(train.train)
app.command()(train.train_classifier)
app.command()(results.report)
app.command()(results.export)
app.command()(results.merge)
app.command()(attack.attack)
app.command()(serve.serve)
app.add_typer(experiment.experiment, name="experiment")
app.command("list")(results.list_)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors of this package are printed as one message, without a trace."""
    try:
        app(args=arguments, prog_name="denoised-smoothing")
    except DenoisedSmoothingError as error:
        fail(error, error.exit_code)
