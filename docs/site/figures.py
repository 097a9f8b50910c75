"""The figures of the documentation, computed by the package when the site is built."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import house
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from denoised_smoothing import (
    CertificationRun,
    FixedBudget,
    SmoothedClassifier,
    Store,
    load_classifier,
    load_dataset,
    load_denoiser,
    load_results,
)
from denoised_smoothing.certificates.bounds import clopper_pearson_lower
from denoised_smoothing.certificates.confidence_sequence import mixture_failure_bound
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.reporting.plots import (
    COLOURS,
    GRID,
    INK,
    STYLES,
    certified_accuracy_figure,
    inline_svg,
)
from denoised_smoothing.runs.demo import DEMOS
from denoised_smoothing.smoothing.votes import shown_copies

ALPHA = 0.001
SEED = 1
SHOWN = 0
"""Index of the test image in the figures."""
RIGHT, WRONG = COLOURS[:2]


@cache
def draw(name: str) -> str:
    """Return the figure of that name as an ``<svg>`` element in the colours of the style sheet."""
    figure = FIGURES[name]
    svg = inline_svg(figure()).strip()
    for number, colour in enumerate(COLOURS, start=1):
        svg = svg.replace(colour.lower(), f"var(--curve-{number})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{figure.__doc__}"', 1)


def copies() -> Figure:
    """An image, noisy copies of it, the denoised copies, and the label of each."""
    classifier, example = load_classifier("digits"), load_dataset("digits:test")[SHOWN]
    smoothed = SmoothedClassifier(classifier, 0.5, load_denoiser("digits-stability"))
    noisy, denoised = shown_copies(smoothed.prepared, example.image, example.image_id, SEED, 6)
    figure = Figure(figsize=(5.8, 1.95), layout="constrained")
    grid = figure.subplots(2, 7, width_ratios=[1.25, *[1] * 6])
    _picture(grid[0, 0], example.image, f"image of a {example.label}", INK)
    grid[1, 0].set_axis_off()
    for row, pictures in zip(grid[:, 1:], (noisy, denoised), strict=True):
        for axes, picture, label in zip(row, pictures, _labels(classifier, pictures), strict=True):
            _picture(axes, picture, f"{label}", RIGHT if label == example.label else WRONG)
    return figure


def bound() -> Figure:
    """Lower bound on the probability of the most frequent label, and the radius, by copies."""
    classifier, example = load_classifier("digits"), load_dataset("digits:test")[SHOWN]
    smoothed = SmoothedClassifier(classifier, 0.5, load_denoiser("digits-stability"))
    _, denoised = shown_copies(smoothed.prepared, example.image, example.image_id, SEED, 10_000)
    hits = np.cumsum(_labels(classifier, denoised) == example.label)
    counts = np.unique(np.geomspace(10, len(hits), 120).astype(int))
    top = [int(hits[n - 1]) for n in counts]
    curves = {
        "share of votes": [count / n for count, n in zip(top, counts, strict=True)],
        "bound, n fixed in advance": [
            clopper_pearson_lower(count, int(n), ALPHA)
            for count, n in zip(top, counts, strict=True)
        ],
        "bound, valid at any time": [
            1 - mixture_failure_bound(count, int(n), ALPHA)
            for count, n in zip(top, counts, strict=True)
        ],
    }
    figure = Figure(figsize=(5.8, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = zip((INK, *COLOURS), STYLES, strict=False)
    for (name, values), (colour, style) in zip(curves.items(), styles, strict=False):
        radii = [gaussian_radius(0.5, 1 - value) for value in values]
        left.plot(counts, values, color=colour, linestyle=style, linewidth=1.6, label=name)
        if colour != INK:
            right.plot(counts, radii, color=colour, linestyle=style, linewidth=1.6)
    for axes, label in ((left, "probability of the top label"), (right, "L2 radius")):
        axes.set_xscale("log")
        axes.set_xticks([10, 100, 1_000, 10_000], ["10", "100", "1,000", "10,000"])
        axes.minorticks_off()
        _style(axes, "noisy copies", label)
    left.set_ylim(0.5, 1.0)
    right.set_ylim(0.0, None)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
        columnspacing=1.2,
    )
    return figure


def radius() -> Figure:
    """The radius by the lower bound on the probability, and the maximum for n copies."""
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    nines = np.linspace(np.log10(2), 4.3, 300)
    for number, sigma in enumerate((0.25, 0.5, 1.0)):
        radii = [gaussian_radius(sigma, min(0.5, 10**-value)) for value in nines]
        axes.plot(nines, radii, color=COLOURS[number], linestyle=STYLES[number], linewidth=1.6)
        axes.text(nines[-1] + 0.05, radii[-1], f"σ = {sigma:g}", color=COLOURS[number], va="center")
    place = blended_transform_factory(axes.transData, axes.transAxes)
    for n in (100, 1_000, 10_000):
        best = -np.log10(1 - clopper_pearson_lower(n, n, ALPHA))
        axes.axvline(best, color=INK, linewidth=0.8, linestyle=":")
        axes.text(
            best, 1.01, f"n = {n:,}", transform=place, color=INK, fontsize=9, ha="center",
            va="bottom",
        )  # fmt: skip
    shown = (0.5, 0.9, 0.99, 0.999, 0.9999)
    axes.set_xticks([-np.log10(1 - p) for p in shown], [f"{p:g}" for p in shown])
    _style(
        axes,
        "lower bound on the probability of the top label",
        "L2 radius (pixel values in [0, 1])",
    )
    axes.set_xlim(nines[0], nines[-1])
    axes.set_ylim(0.0, None)
    return figure


def accuracy() -> Figure:
    """Certified accuracy of the classifier of digits, with and without a denoiser."""
    classifier, dataset = load_classifier("digits"), load_dataset("digits:test")
    found = []
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "runs.sqlite") as store:
        for method, spec in DEMOS["digits"].methods.items():
            run = CertificationRun(
                SmoothedClassifier(classifier, 0.25, load_denoiser(spec)),
                dataset,
                FixedBudget(n0=50, n=300),
                alpha=ALPHA,
                classifier="digits",
                denoiser=spec,
                limit=60,
                seed=SEED,
            )
            found.append((method, load_results(store, run.execute(store).name)))
    return certified_accuracy_figure(found)


FIGURES: dict[str, Callable[[], Figure]] = {
    "copies": copies,
    "bound": bound,
    "radius": radius,
    "accuracy": accuracy,
    "house": house.house,
}


def _labels(classifier: Any, pictures: np.ndarray) -> np.ndarray:
    """Return the labels [N] of pictures [N, C, H, W]."""
    import torch

    with torch.no_grad():
        labels: np.ndarray = classifier(torch.tensor(pictures)).argmax(1).numpy()
    return labels


def _picture(axes: Axes, picture: np.ndarray, title: str, colour: str) -> None:
    pixels = np.kron(np.clip(picture[0], 0.0, 1.0), np.ones((8, 8)))
    axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0)
    axes.set_title(title, color=colour, fontsize=10, pad=3)
    axes.set_axis_off()


def _style(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
