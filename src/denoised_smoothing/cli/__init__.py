"""The command line: parse, call one function, print."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from denoised_smoothing.cli.options import INTERRUPTED
from denoised_smoothing.cli.termination import sigterm_as_ctrl_c
from denoised_smoothing.errors import DenoisedSmoothingError

COMMANDS = {
    "demo": "Certify photographs or digits with and without a denoiser, and write a report.",
    "predict": "Predict the label of an image. Needs fewer copies than 'certify'.",
    "certify": "Certify images and store the counts. Resumes an interrupted run.",
    "bundle": "Export classifier, denoiser and parameters to one folder for --bundle.",
    "plan": "Estimate the copies, time and cost of a run before you start it.",
    "sweep": "Certify a sample of images at several sigmas, and choose one.",
    "train": "Train a denoiser. Resumes an interrupted training.",
    "train-classifier": "Train a CIFAR ResNet on clean or noisy images.",
    "verify": "Check certificates: their arithmetic, and with the model their noisy copies.",
    "report": "Write an HTML report of one or more runs: curves, a table and example images.",
    "compare": "Compare two runs on the same images, and test whether they differ by chance.",
    "export": "Export a run as a table, one row per image. Radii are rounded down.",
    "backup": "Copy a store to one new file that is whole, also while runs are written to it.",
    "merge": "Copy the runs of several stores into one, and join shards.",
    "attack": "Attack the certified images of a run, and write the changed images.",
    "serve": "Start the web page and the HTTP API.",
    "experiment": "Reproduce the published tables on this machine.",
    "cache": "Show the converted models and measured choices on disk, or remove them.",
    "list": "List classifiers, denoisers, data sets or stored runs, and missing extras.",
}
"""The commands, and the first paragraph of their help."""
_MODULES = {"train-classifier": "train"} | dict.fromkeys(
    ("report", "export", "merge", "backup", "list"), "results"
)
"""The modules of commands that have none of their own name."""


class LazyCommands(TyperGroup):
    """Import a command when it is called, and none to list them."""

    _listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._listing or cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"{__name__}.{_MODULES.get(cmd_name, cmd_name)}")
        return next(
            held for held in vars(module).values() if getattr(held, "name", None) == cmd_name
        )

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Certify the robustness of existing image classifiers.\n\n"
    "Example: denoised-smoothing demo\n\n"
    "Exit codes: 0 done, 1 failed midway (finished work is kept), 2 refused before any work, "
    "3 a certificate is contradicted, 4 to 8 'verify' did not confirm one, "
    "130 interrupted, 143 ended by SIGTERM.",
)
for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(lambda: None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Print an error of this package as one message, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # print what its encoding lacks as escapes
            stream.reconfigure(errors="backslashreplace")
    with sigterm_as_ctrl_c():
        try:
            app(args=arguments, prog_name="denoised-smoothing")
        except DenoisedSmoothingError as error:
            from denoised_smoothing.cli.output import fail

            fail(error, error.exit_code)
        except SystemExit as end:
            from denoised_smoothing.cli.output import Interrupted, err, say

            if end.code == INTERRUPTED and not isinstance(end, Interrupted):
                say("Interrupted. Whatever was stored is kept. Repeat the command to resume.", err)
            raise
