"""Options of ``--ray``: the address of the cluster, its workers and their resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from denoised_smoothing.cli.grouped import option_group
from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.smoothing.cluster import RayCluster

LOCAL = "local"
_option = option_group("Cluster")


@dataclass(frozen=True)
class ClusterOptions:
    """The options as typed."""

    ray: str | None = _option(
        "Count on the workers of a Ray cluster: at this address, on the cluster of this machine "
        "(auto), or on one that is started here (no address).",
        metavar="[ADDRESS]",
    )
    workers: int | None = _option("Number of workers.", show_default="as many as fit")
    worker_cpus: float = _option("CPUs per worker.", default=1)
    worker_gpus: float = _option("GPUs per worker. Workers with a fraction share a GPU.", default=0)
    worker_resources: str | None = _option("Resources per worker.", metavar="NAME=AMOUNT,...")
    passes: int = _option("Forward passes per task of a worker.", default=1)
    worker_memory: float = _option(
        "Memory per worker in GB. Limits the workers of a node.", default=0
    )
    ray_wait: float = _option(
        "Seconds to wait for the cluster, and for a node with capacity for a worker.", default=10
    )

    def build(self) -> RayCluster | None:
        """Return the cluster; None without ``--ray``.

        Raises:
            SettingError: an option has an unusable value, or needs ``--ray``.
        """
        if self.ray is None:
            default = vars(ClusterOptions())
            if typed := [name for name, value in vars(self).items() if value != default[name]]:
                raise SettingError(
                    f"--{typed[0].replace('_', '-')} is about the workers of a cluster. "
                    "Add --ray, or remove it."
                )
            return None
        from denoised_smoothing.smoothing.cluster import RayCluster

        address = None if self.ray == LOCAL else self.ray
        resources = _parse(self.worker_resources or "")
        return RayCluster(
            address, self.workers, self.worker_cpus, self.worker_gpus, resources, self.passes,
            self.worker_memory * 1e9, float(self.ray_wait),
        )  # fmt: skip


class RayCommand(TyperCommand):
    """A command whose ``--ray`` accepts a missing address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        filled: list[str] = []
        for argument, following in zip(args, [*args[1:], "-"], strict=False):
            filled.append(argument)
            if argument == "--ray" and following.startswith("-"):
                filled.append(LOCAL)
        return super().parse_args(ctx, filled)


def _parse(resources: str) -> dict[str, float]:
    """Read ``"a=1,b=0.5"`` as a dictionary."""
    parsed = {}
    for part in filter(None, resources.split(",")):
        name, _, amount = part.partition("=")
        try:
            parsed[name.strip()] = float(amount)
        except ValueError as error:
            raise SettingError(
                f"--worker-resources must be names and amounts, got {part!r}. "
                "Write for example --worker-resources a100=1."
            ) from error
    return parsed
