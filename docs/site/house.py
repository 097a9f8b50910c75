"""The picture of the rooms, drawn from the imports of the code and the layers of pyproject.toml."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations, product
from pathlib import Path as File
from random import Random

import grimp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from scipy.optimize import linprog

from denoised_smoothing.reporting.plots import COLOURS, INK

PACKAGE = "denoised_smoothing"
REPOSITORY = File(__file__).parents[2]
NO_TORCH = COLOURS[2]
BOX, WAY, GAP, HEIGHT = 1.5, 0.2, 0.45, 0.42
"""Width of a box, of a passing arrow and between them; height of a box. Layers are 1 apart."""
STARTS, SWEEPS = 12, 6


@dataclass(frozen=True)
class Node:
    """A room in its layer or, in the layers between, the way of the arrows to it."""

    room: str
    layer: int
    passing: bool = False

    @property
    def width(self) -> float:
        """Width of the box, or of the way."""
        return WAY if self.passing else BOX


Edge = tuple[Node, Node]


def house() -> Figure:
    """The packages and single files of the package in their layers; arrows are imports."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    layers = [layer.split(" | ") for layer in contracts[0]["layers"] if layer != "__main__"]
    no_torch = {name.removeprefix(f"{PACKAGE}.") for name in contracts[1]["source_modules"]}
    files = {file.stem for file in (REPOSITORY / "src" / PACKAGE).glob("*.py")}
    rows, edges = _routed(layers, _reduced(_imports()))
    rows = _ordered(rows, edges)
    place = _placed(rows, edges)
    return _drawn(place, edges, no_torch, files)


def _imports() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second, lazily or for types too."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    pairs = {
        tuple(module.split(".")[1] for module in (name, imported))
        for name in graph.modules - {PACKAGE, f"{PACKAGE}.__main__"}
        for imported in graph.find_modules_directly_imported_by(name) - {PACKAGE}
    }
    return {(a, b) for a, b in pairs if a != b}


def _reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Drop each arrow that follows from others, so that the picture can be read."""
    below: dict[str, set[str]] = defaultdict(set)
    for a, b in arrows:
        below[a].add(b)

    def reached(room: str) -> set[str]:
        return below[room].union(*(reached(other) for other in below[room]))

    return {(a, b) for a, b in arrows if not any(b in reached(other) for other in below[a] - {b})}


def _routed(
    layers: Sequence[Sequence[str]], arrows: set[tuple[str, str]]
) -> tuple[list[list[Node]], set[Edge]]:
    """Lead long arrows through the layers between; those to the same room share their way."""
    level = {room: number for number, rooms in enumerate(layers) for room in rooms}
    edges: set[Edge] = set()
    for source, target in arrows:
        way = [Node(target, layer, True) for layer in range(level[source] + 1, level[target])]
        stops = [Node(source, level[source]), *way, Node(target, level[target])]
        edges |= set(pairwise(stops))
    rows = [[Node(room, number) for room in rooms] for number, rooms in enumerate(layers)]
    for node in sorted({node for edge in edges for node in edge}, key=str):
        if node.passing:
            rows[node.layer].append(node)
    return rows, edges


def _ordered(rows: list[list[Node]], edges: set[Edge]) -> list[list[Node]]:
    """Order each layer so that few arrows cross: sweeps from several starts, the best one."""
    random, found = Random(0), []
    for _ in range(STARTS):
        rows = [random.sample(row, len(row)) for row in rows]
        for _, layer in product(range(SWEEPS), range(len(rows))):
            near = [edge for edge in edges if layer in (edge[0].layer, edge[1].layer)]
            options = permutations(rows[layer])
            rows[layer] = list(
                min(options, key=lambda row: _cost([*rows[:layer], row, *rows[layer + 1 :]], near))
            )
        found.append((_cost(rows, edges), rows))
    return min(found, key=lambda each: each[0])[1]


def _cost(rows: Sequence[Sequence[Node]], edges: set[Edge] | list[Edge]) -> float:
    """Crossings, and with little weight the lengths of the arrows."""
    place = {node: (number + 0.5) / len(row) for row in rows for number, node in enumerate(row)}
    ends = [(a.layer, place[a], place[b]) for a, b in edges]
    crossings = sum(
        (a - c) * (b - d) < 0 for (m, a, b), (n, c, d) in combinations(ends, 2) if m == n
    )
    return crossings + 0.1 * sum(abs(a - b) for _, a, b in ends)


def _placed(rows: list[list[Node]], edges: set[Edge]) -> dict[Node, float]:
    """The centre of each node: arrows as straight as the order and the widths allow."""
    nodes = {node: number for number, node in enumerate(node for row in rows for node in row)}
    size, pairs = len(nodes), sorted(edges, key=str)
    cost = np.zeros(size + len(pairs))
    cost[size:] = [2.0 ** (2 * a.passing + b.passing) for a, b in pairs]  # long ones are straight
    above: list[np.ndarray] = []
    limits: list[float] = []

    def demand(signs: Mapping[int, float], limit: float) -> None:
        row = np.zeros(len(cost))
        for column, sign in signs.items():
            row[column] = sign
        above.append(row)
        limits.append(limit)

    for number, (a, b) in enumerate(pairs):
        for sign in (1.0, -1.0):
            demand({nodes[a]: sign, nodes[b]: -sign, size + number: -1.0}, 0.0)
    for row in rows:
        for a, b in pairwise(row):
            demand({nodes[a]: 1.0, nodes[b]: -1.0}, -(a.width + b.width) / 2 - GAP)
    solved = linprog(cost, np.array(above), limits, bounds=(0, None))
    return {node: float(solved.x[number]) for node, number in nodes.items()}


def _drawn(
    place: Mapping[Node, float], edges: set[Edge], no_torch: set[str], files: set[str]
) -> Figure:
    figure = Figure(figsize=(6.6, 6.6), layout="constrained")
    axes = figure.subplots()
    for node, x in place.items():
        if node.passing:
            continue
        colour = NO_TORCH if node.room in no_torch else INK
        axes.add_patch(
            FancyBboxPatch(
                (x - BOX / 2, -node.layer - HEIGHT / 2), BOX, HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.08", facecolor=f"{colour}14",
                edgecolor=colour, linewidth=1.2,
            )
        )  # fmt: skip
        name = f"{node.room}.py" if node.room in files else node.room
        axes.text(x, -node.layer, name, color=INK, ha="center", va="center_baseline", fontsize=10)
    for a, b in edges:
        start, end = _port(a, b, place, edges, 0), _port(b, a, place, edges, 1)
        y, z = -a.layer - HEIGHT / 2, -b.layer + HEIGHT / 2
        middle = (y + z) / 2
        points = [(start, y), (start, middle), (end, middle), (end, z)]
        codes = [Path.MOVETO, *[Path.CURVE4] * 3]
        if a.passing:
            points.insert(0, (start, y + HEIGHT))
            codes.insert(1, Path.LINETO)
        axes.add_patch(
            FancyArrowPatch(
                path=Path(points, codes), arrowstyle="-" if b.passing else "-|>",
                mutation_scale=8, color=INK, linewidth=0.9, shrinkA=0, shrinkB=0,
            )
        )  # fmt: skip
    left, right = min(place.values()) - BOX / 2, max(place.values()) + BOX / 2
    bottom = -max(node.layer for node in place)
    legend = (
        "Green rooms import no deep-learning library. Arrows that follow from others are left out."
    )
    axes.text((left + right) / 2, bottom - 0.75, legend, color=INK, ha="center", fontsize=8.5)
    axes.set_xlim(left - 0.1, right + 0.1)
    axes.set_ylim(bottom - 0.9, 0.4)
    axes.set_axis_off()
    return figure


def _port(
    node: Node, other: Node, place: Mapping[Node, float], edges: set[Edge], side: int
) -> float:
    """Where an arrow leaves or meets a node: next to each other, in the order of their ends."""
    if node.passing:
        return place[node]
    ends = sorted(
        {edge[1 - side] for edge in edges if edge[side] == node}, key=lambda end: place[end]
    )
    step = min(0.35, 0.7 * BOX / len(ends))
    return place[node] + step * (ends.index(other) - (len(ends) - 1) / 2)
