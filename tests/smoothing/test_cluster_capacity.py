"""smoothing/cluster_capacity.py: workers that fit on nodes."""

from __future__ import annotations

from types import SimpleNamespace

from denoised_smoothing.smoothing.cluster_capacity import capacity_of, lack_of, nodes_of

NODES = [{"CPU": 3.0, "memory": 4e9}, {"CPU": 5.0, "GPU": 1.0, "memory": 8e9}]


def test_capacity_is_that_of_each_node() -> None:
    assert capacity_of(NODES, {"CPU": 2.0}) == 1 + 2
    assert capacity_of(NODES, {"CPU": 0.5, "GPU": 0.5}) == 2
    assert capacity_of(NODES, {"CPU": 1.0, "memory": 3e9}) == 1 + 2
    assert capacity_of(NODES, {"CPU": 6.0}) == 0
    assert capacity_of(NODES, {"CPU": 1.0, "a100": 1.0}) == 0
    assert capacity_of(NODES, {"CPU": 0.0}) == 2
    assert capacity_of([], {"CPU": 1.0}) == 0


def test_a_lack_names_what_is_requested_and_what_is_there() -> None:
    assert lack_of(NODES, {"CPU": 6.0, "GPU": 0.0, "memory": 1.5e10}) == (
        "No node of the cluster has capacity for a worker (CPU 6, memory 15 GB): all have CPU 8, "
        "GPU 1, memory 12 GB."
    )


def test_dead_nodes_have_nothing() -> None:
    tables = [
        {"Alive": alive, "Resources": node}
        for alive, node in zip((False, True), NODES, strict=True)
    ]
    assert nodes_of(SimpleNamespace(nodes=lambda: tables)) == NODES[1:]
