"""Options of --ray: where workers are, how many, and what each takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.smoothing.cluster import RayCluster

LOCAL = "local"
_PANEL = "Cluster"

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Count on workers of a Ray cluster: at an address, auto for the one that this machine "
        "belongs to, or started here.",
        rich_help_panel=_PANEL,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="How many workers.", show_default="as the cluster has room", rich_help_panel=_PANEL
    ),
]
WorkerCpus = Annotated[
    float, typer.Option(help="CPUs that each worker takes.", rich_help_panel=_PANEL)
]
WorkerGpus = Annotated[
    float,
    typer.Option(help="GPUs that each worker takes; fractions share one.", rich_help_panel=_PANEL),
]
WorkerResources = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=AMOUNT,...",
        help="Custom resources that each worker takes.",
        rich_help_panel=_PANEL,
    ),
]
Passes = Annotated[
    int,
    typer.Option(help="Forward passes for one message to a worker.", rich_help_panel=_PANEL),
]


class RayCommand(TyperCommand):
    """A command whose ``--ray`` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_address(args))


def with_address(arguments: Sequence[str]) -> list[str]:
    """The arguments, with an address where ``--ray`` has none."""
    filled: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=False):
        filled.append(argument)
        if argument == "--ray" and following.startswith("-"):
            filled.append(LOCAL)
    return filled


def cluster(
    ray: str | None,
    workers: int | None,
    cpus: float,
    gpus: float,
    resources: str | None,
    passes: int,
) -> RayCluster | None:
    """What the options say; None without ``--ray``.

    Raises:
        SettingError: they say nothing usable, or need ``--ray``.
    """
    if ray is None:
        if (workers, cpus, gpus, resources, passes) != (None, 1, 0, None, 1):
            raise SettingError(
                "--workers, --passes and --worker-... are about the workers of a cluster; add "
                "--ray, or leave them out"
            )
        return None
    from denoised_smoothing.smoothing.cluster import RayCluster

    return RayCluster(
        None if ray == LOCAL else ray, workers, cpus, gpus, _parse(resources or ""), passes
    )


def _parse(resources: str) -> dict[str, float]:
    """``"a=1,b=0.5"`` as a dictionary."""
    parsed = {}
    for part in filter(None, resources.split(",")):
        name, _, amount = part.partition("=")
        try:
            parsed[name.strip()] = float(amount)
        except ValueError as error:
            raise SettingError(
                f"--worker-resources takes names and amounts such as a100=1, got {part!r}"
            ) from error
    return parsed
