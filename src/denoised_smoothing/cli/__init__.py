"""The command line: parse, call one function, print."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from denoised_smoothing.cli import (
    attack as attacking,
)
from denoised_smoothing.cli import (
    bundle as bundling,
)
from denoised_smoothing.cli import (
    certify as certifying,
)
from denoised_smoothing.cli import (
    experiment as experimenting,
)
from denoised_smoothing.cli import (
    plan as planning,
)
from denoised_smoothing.cli import (
    results,
)
from denoised_smoothing.cli import (
    serve as serving,
)
from denoised_smoothing.cli import (
    sweep as sweeping,
)
from denoised_smoothing.cli import (
    train as training,
)
from denoised_smoothing.cli.cluster_options import RayCommand
from denoised_smoothing.cli.options import FAILED, INTERRUPTED, REFUSED, fail
from denoised_smoothing.errors import (
    DenoisedSmoothingError,
    InputError,
    MissingExtraError,
    RunBusyError,
    RunMismatchError,
    RunNotFoundError,
    SchemaTooNewError,
    TrainingInterruptedError,
    WeightsError,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Certified robustness for image classifiers that already exist. Exit codes: 0 done, "
    "1 failed on the way (what was done is kept), 2 refused before any work, "
    "3 an attack contradicts a certificate, 130 interrupted.",
)

app.command()(certifying.demo)
app.command()(certifying.predict)
app.command(cls=RayCommand)(certifying.certify)
app.command()(bundling.bundle)
app.command()(planning.plan)
app.command()(sweeping.sweep)
app.command()(training.train)
app.command()(training.train_classifier)
app.command()(results.report)
app.command()(results.export)
app.command()(results.merge)
app.command()(attacking.attack)
app.command()(serving.serve)
app.add_typer(experimenting.experiment, name="experiment")
app.command("list")(results.list_)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors of this package are printed as one message, without a trace."""
    try:
        app(args=arguments, prog_name="denoised-smoothing")
    except DenoisedSmoothingError as error:
        refused = (
            InputError,
            MissingExtraError,
            RunBusyError,
            RunMismatchError,
            RunNotFoundError,
            SchemaTooNewError,
            WeightsError,
        )
        if isinstance(error, TrainingInterruptedError):
            fail(error, INTERRUPTED)
        fail(error, REFUSED if isinstance(error, refused) else FAILED)
