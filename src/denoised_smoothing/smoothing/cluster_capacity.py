"""What a worker takes, and what the nodes of a Ray cluster have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Amounts = Mapping[str, float]
"""Resources by the names of Ray: CPU, GPU, memory in bytes, and custom ones."""


def nodes_of(ray: Any) -> list[Amounts]:
    """Return the resources of each node that is alive, free or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def capacity_of(nodes: Sequence[Amounts], needs: Amounts) -> int:
    """Count the workers with these needs that the nodes have capacity for, each on one node."""
    needed = {name: amount for name, amount in needs.items() if amount}
    fitting = [[int(node.get(name, 0) / needed[name] + 1e-9) for name in needed] for node in nodes]
    return sum(min(numbers, default=1) for numbers in fitting)


def lack_of(nodes: Sequence[Amounts], needs: Amounts) -> str:
    """Return a sentence that names what a worker takes and what all nodes have."""
    needed = {name: amount for name, amount in needs.items() if amount}
    totals = {name: sum(node.get(name, 0) for node in nodes) for name in needs}
    return (
        f"No node of the cluster has capacity for a worker ({_listed(needed)}): all have "
        f"{_listed(totals)}."
    )


def _listed(amounts: Amounts) -> str:
    return ", ".join(
        f"{name} {amount / 1e9:.3g} GB" if name == "memory" else f"{name} {amount:g}"
        for name, amount in amounts.items()
    )
