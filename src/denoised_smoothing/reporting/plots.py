"""Numbers to figures: curves of certified accuracy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.files import write_atomically
from denoised_smoothing.reporting.results import RunResults
from denoised_smoothing.reporting.tables import Row, accuracy_steps, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart with any kind of colour vision (Okabe & Ito 2008)."""
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 1.5, 1.2, 1.5)))
INK = "#404040"
GRID = "#8080804d"

NO_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def certified_accuracy_figure(runs: Sequence[tuple[str, RunResults]]) -> Figure:
    """Curves of certified accuracy (%) against the L2 radius, one a run.

    The exact step functions: the share of images that are certified at every radius, not at
    chosen ones. A method has a colour, a sigma has a line style.

    Args:
        runs: (method, results) pairs.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingError: a run has no finished image, or some have labels and others have not.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "a figure") from error
    what = measure([results for _, results in runs])
    methods = list(dict.fromkeys(method for method, _ in runs))
    sigmas = sorted({results.sigma for _, results in runs})
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for method, results in runs:
        radii, shares = accuracy_steps(results)
        axes.step(
            radii,
            100.0 * shares,
            where="post",
            color=COLOURS[methods.index(method) % len(COLOURS)],
            linestyle=STYLES[sigmas.index(results.sigma) % len(STYLES)],
            linewidth=1.6,
        )
    _dress(axes, f"{what} (%)")
    _legend(axes, methods, sigmas)
    return figure


def sigma_figure(rows: Sequence[Row]) -> Figure:
    """Certified accuracy (%) at each radius against sigma: the trade-off between the two.

    Args:
        rows: of one method at several sigmas, with the same radii (``comparison``).

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingError: fewer than two sigmas.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "a figure") from error
    ordered = sorted(rows, key=lambda row: row.cells[0].sigma)
    sigmas = [row.cells[0].sigma for row in ordered]
    if len(set(sigmas)) < 2:
        raise SettingError(f"a curve over sigma needs at least two of them, got {sigmas}")
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, cells in enumerate(zip(*(row.cells for row in ordered), strict=True)):
        axes.plot(
            sigmas,
            [100.0 * cell.share for cell in cells],
            marker="o",
            markersize=4,
            color=COLOURS[number % len(COLOURS)],
            linestyle=STYLES[number // len(COLOURS) % len(STYLES)],
            linewidth=1.6,
            label=f"r = {cells[0].radius:g}",
        )
    _dress(axes, f"{rows[0].measure} (%)")
    axes.set_xlabel("σ of the noise (pixel values in [0, 1])", color=INK)
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def radius_figure(
    rows: Sequence[Row], published: Sequence[tuple[str, Sequence[float], Sequence[float]]] = ()
) -> Figure:
    """Certified accuracy (%) at the radii of a table, one line a row: the figure of a paper.

    Args:
        rows: with the same radii (``comparison`` at one sigma, or ``best_over_sigma``).
        published: (name, radii, percentages) of others, drawn in grey.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "a figure") from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    ours = [
        (row.method, [c.radius for c in row.cells], [100.0 * c.share for c in row.cells])
        for row in rows
    ]
    for number, (name, radii, shares) in enumerate([*published, *ours]):
        own = number - len(published)
        axes.plot(
            radii,
            shares,
            marker="o" if own >= 0 else "x",
            markersize=4,
            color=COLOURS[own % len(COLOURS)] if own >= 0 else "#909090",
            linestyle=STYLES[own // len(COLOURS) % len(STYLES)]
            if own >= 0
            else STYLES[1 + number % (len(STYLES) - 1)],
            linewidth=1.6,
            label=name,
        )
    _dress(axes, f"{rows[0].measure} (%)")
    for text in axes.legend(frameon=False, labelcolor=INK, handlelength=2.6).get_texts():
        text.set_parse_math(False)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as png (200 dpi), svg or pdf; the same figure gives the same bytes.

    Raises:
        SettingError: another suffix, or the file cannot be written.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in NO_DATES:
        raise SettingError(
            f"a figure is saved as {', '.join(NO_DATES)}, got {str(path)!r}; "
            "name a file that ends in one of them"
        )
    write_atomically(path, _render(figure, kind))


def inline_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element whose texts and axes take the page's colour."""
    text = _render(figure, "svg", fonttype="none").decode()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def _render(figure: Figure, kind: str, fonttype: str = "path") -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "denoised-smoothing", "svg.fonttype": fonttype}):
        figure.savefig(
            buffer,
            format=kind,
            dpi=200,
            metadata=NO_DATES[kind],
            transparent=fonttype == "none",
        )
    return buffer.getvalue()


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel("L2 radius (pixel values in [0, 1])", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, 100.0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def _legend(axes: Axes, methods: Sequence[str], sigmas: Sequence[float]) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=COLOURS[number % len(COLOURS)], linewidth=1.6)
        for number in range(len(methods))
    ]
    lines += [
        Line2D([], [], color=INK, linestyle=STYLES[number % len(STYLES)], linewidth=1.4)
        for number in range(len(sigmas))
    ]
    labels = [*methods, *(f"σ = {sigma:g}" for sigma in sigmas)]
    legend = axes.legend(lines, labels, frameon=False, labelcolor=INK, handlelength=2.6)
    for text in legend.get_texts():
        text.set_parse_math(False)
