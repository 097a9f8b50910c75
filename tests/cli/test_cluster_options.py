"""The options of --ray."""

from __future__ import annotations

import pytest
import typer

from denoised_smoothing.cli.certify import certify
from denoised_smoothing.cli.cluster_options import ClusterOptions
from denoised_smoothing.errors import SettingError


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (["digits", "--ray"], "local"),
        (["digits", "--ray", "--json"], "local"),
        (["digits", "--ray", "auto", "--json"], "auto"),
        (["digits"], None),
    ],
)
def test_ray_accepts_a_missing_address(arguments: list[str], address: str | None) -> None:
    context: typer.Context = certify.make_context("certify", arguments)
    assert context.params["ray"] == address


def test_become_a_cluster() -> None:
    assert ClusterOptions().build() is None
    made = ClusterOptions("local", 3, 2.0, 0.5, "a100=1, disk=0.25", 4).build()
    assert made is not None
    assert (made.address, made.workers, made.cpus, made.gpus, made.passes) == (
        None, 3, 2, 0.5, 4,
    )  # fmt: skip
    assert (made.memory, made.wait) == (0, 10)
    made_otherwise = ClusterOptions(
        "auto", None, 1.0, 0.0, worker_memory=1.5, ray_wait=600.0
    ).build()
    assert made_otherwise is not None
    assert (made_otherwise.memory, made_otherwise.wait) == (1.5e9, 600)
    assert made.resources == {"a100": 1, "disk": 0.25}


def test_need_ray() -> None:
    with pytest.raises(SettingError, match=r"--workers is about the workers of a cluster\. Add --"):
        ClusterOptions(workers=4).build()


def test_resources_are_names_and_amounts() -> None:
    with pytest.raises(SettingError, match="must be names and amounts, got 'a100'"):
        ClusterOptions("local", worker_resources="a100").build()
