"""Numbers to figures: curves of certified accuracy."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoised_smoothing.certificates.radii import format_down
from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.files import write_atomically
from denoised_smoothing.images import load_image
from denoised_smoothing.reporting.cells import Row
from denoised_smoothing.reporting.cohen import AnyResults
from denoised_smoothing.reporting.opening import Opening
from denoised_smoothing.reporting.results import RunResults, label_name
from denoised_smoothing.reporting.tables import accuracy_steps, measure, population_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from denoised_smoothing.store import StoredExample

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinct with any kind of colour vision (Okabe & Ito 2008)."""
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 1.5, 1.2, 1.5)))
INK = "#404040"
GRID = "#8080804d"

NO_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Metadata that would change from one file to the next, by format."""


def certified_accuracy_figure(
    runs: Sequence[tuple[str, AnyResults]], bounds_to: float = 0.0
) -> Figure:
    """Draw certified accuracy (%) against the L2 radius, a curve for each run.

    The exact step functions: the share of images that are certified at every radius, not at
    chosen ones. A method has a colour, a sigma has a line style.

    Args:
        runs: (method, results) pairs.
        bounds_to: the radius up to which the lower bound on the population is drawn as well, in
            steps that hold at all radii at once; 0.0 for none.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingError: a run has no finished image, or some have labels and others have not.
    """
    figure, axes = _figure(3.8)
    _draw_accuracy(axes, runs, bounds_to)
    return figure


def opening_figure(
    opening: Opening,
    examples: Iterable[StoredExample],
    runs: Sequence[tuple[str, RunResults]],
) -> Figure:
    """Draw the opening of a report above the curves of :func:`certified_accuracy_figure`.

    Args:
        opening: its run must be one of ``runs``.
        examples: pictures of that run, with a noisy and a denoised copy of its image.
        runs: (method, results) pairs.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingError: a run has no finished image, or some have labels and others have not.
    """
    figure = _empty(7.1)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.7, 4.4))
    above, below = parts
    [(image, names, method)] = [
        (image, results.run.label_names, method)
        for method, results in runs
        if results.run.name == opening.run
        for image in results.images
        if image.image_id == opening.image_id
    ]
    pictures = {
        example.kind: load_image(example.png)
        for example in examples
        if example.image_id == opening.image_id and example.position == 0
    }
    counts, votes = image.certificate.counts, "the copies decide\nnothing"
    if image.predicted is not None:
        votes = (
            f"{counts.votes[image.predicted]:,} of {counts.n:,} copies certify\n"
            f"“{label_name(image.predicted, names)}”\nwithin {format_down(image.radius, 2)} (L2)"
        )
    shown = (
        (opening.image, f"the classifier answers\n“{opening.before}”"),
        (opening.changed, f"changed by {opening.distance:.2f} (L2)\n“{opening.after}”"),
        (pictures["noisy"], f"one of {counts.n:,} noisy\ncopies"),
        (pictures["denoised"], f"{method}\n{votes}"),
    )
    for axes, (picture, title) in zip(above.subplots(1, len(shown)), shown, strict=True):
        axes.imshow(picture.transpose(1, 2, 0).clip(0, 1))
        axes.set_title(title, fontsize=7.5, color=INK, parse_math=False)
        axes.set_axis_off()
    _draw_accuracy(below.subplots(), runs)
    return figure


def _draw_accuracy(
    axes: Axes, runs: Sequence[tuple[str, AnyResults]], bounds_to: float = 0.0
) -> None:
    from matplotlib.lines import Line2D

    methods = list(dict.fromkeys(method for method, _ in runs))
    sigmas = sorted({results.sigma for _, results in runs}, key=lambda s: (s is None, s or 0.0))
    for method, results in runs:
        radii, shares = accuracy_steps(results)
        style: dict[str, Any] = {
            "color": COLOURS[methods.index(method) % len(COLOURS)],
            "linestyle": STYLES[sigmas.index(results.sigma) % len(STYLES)],
        }
        axes.step(radii, 100.0 * shares, where="post", linewidth=1.6, **style)
        if bounds_to > 0.0 and isinstance(results, RunResults):
            at, bounds = population_band(results, bounds_to)
            style |= {"linewidth": 1.0, "alpha": 0.6}
            below = [100.0 * bound for bound in (bounds[0], *bounds)]
            axes.step([0.0, *at], below, where="pre", **style)
    legend = [
        Line2D([], [], label=method, color=COLOURS[number % len(COLOURS)], linewidth=1.6)
        for number, method in enumerate(methods)
    ]
    legend += [
        Line2D(
            [],
            [],
            label="σ unknown" if sigma is None else f"σ = {sigma:g}",
            color=INK,
            linestyle=STYLES[number % len(STYLES)],
        )
        for number, sigma in enumerate(sigmas)
    ]
    if bounds_to > 0.0:
        legend.append(
            Line2D([], [], label="population, at least", color=INK, linewidth=1.0, alpha=0.6)
        )
    _finish(axes, measure([results for _, results in runs]), handles=legend)


def sigma_figure(rows: Sequence[Row]) -> Figure:
    """Draw certified accuracy (%) at each radius against sigma: the trade-off between the two.

    Args:
        rows: of one method at several sigmas, with the same radii (``comparison``).

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingError: fewer than two sigmas.
    """
    ordered = sorted(rows, key=lambda row: row.cells[0].sigma or 0.0)
    sigmas = [row.cells[0].sigma or 0.0 for row in ordered]
    if len(set(sigmas)) < 2:
        raise SettingError(f"A curve over sigma needs at least two sigmas, got {sigmas}")
    figure, axes = _figure(3.4)
    for number, cells in enumerate(zip(*(row.cells for row in ordered), strict=True)):
        shares = [100.0 * cell.share for cell in cells]
        axes.plot(sigmas, shares, label=f"r = {cells[0].reach}", **_line(number))
    _finish(axes, rows[0].measure, against="σ of the noise")
    return figure


def radius_figure(
    rows: Sequence[Row], published: Sequence[tuple[str, Sequence[float], Sequence[float]]] = ()
) -> Figure:
    """Draw certified accuracy (%) at the radii of a table, a line for each row.

    Args:
        rows: with the same radii (``comparison`` at one sigma, or ``best_over_sigma``).
        published: (name, radii, percentages) of others, drawn in grey.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure(4.0)
    for number, (name, radii, percentages) in enumerate(published):
        style = {"color": "#909090", "linestyle": STYLES[1 + number % (len(STYLES) - 1)]}
        axes.plot(radii, percentages, label=name, **{**_line(number), **style, "marker": "x"})
    for number, row in enumerate(rows):
        percentages = [100.0 * cell.share for cell in row.cells]
        axes.plot([c.radius for c in row.cells], percentages, label=row.method, **_line(number))
    _finish(axes, rows[0].measure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as png (200 dpi), svg or pdf; the same figure gives the same bytes.

    Raises:
        SettingError: another suffix, or the file cannot be written.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in NO_DATES:
        raise SettingError(
            f"A figure is saved as {', '.join(NO_DATES)}, got {str(path)!r}. Use a name that ends "
            "in one of them."
        )
    write_atomically(path, _render(figure, kind))


def inline_svg(figure: Figure) -> str:
    """Return the figure as an ``<svg>`` element whose texts and axes have the page's colour."""
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


def _figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure and its axes, both empty.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = _empty(height)
    return figure, figure.subplots()


def _empty(height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "a figure") from error
    return Figure(figsize=(6.4, height), layout="constrained")


def _line(number: int) -> dict[str, Any]:
    """Return the style of a line with points: first all colours, then other dashes."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
        "linewidth": 1.6,
        "marker": "o",
        "markersize": 4,
    }


def _finish(axes: Axes, measure: str, against: str = "L2 radius", **legend: Any) -> None:
    """Add axis labels, grid and legend after the lines, which decide the limits."""
    axes.set_xlabel(f"{against} (pixel values in [0, 1])", color=INK)
    axes.set_ylabel(f"{measure} (%)", color=INK)
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, 100.0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    drawn = axes.legend(frameon=False, labelcolor=INK, handlelength=2.6, **legend)
    for text in drawn.get_texts():
        text.set_parse_math(False)
