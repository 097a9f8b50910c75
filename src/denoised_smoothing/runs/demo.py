"""The demo: handwritten digits, certified without a denoiser and with two."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.plots import certified_accuracy_figure, save_figure
from denoised_smoothing.reporting.results import RunResults, load_results
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

METHODS = {
    "no denoiser": "none",
    "black box (mse)": "digits-mse",
    "white box (stability)": "digits-stability",
}
"""Rows of the demo's table and their shipped denoisers."""
SIGMAS = (0.25, 0.5)
RADII = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
PLAN = FixedBudget(n0=100, n=1000)


@dataclass(frozen=True)
class DemoResult:
    """The results of each run of the demo, the paths of report and store, and the time."""

    results: list[RunResults]
    report: Path
    store: Path
    seconds: float


def run_demo(
    folder: Path, *, images: int, progress: Callable[[RunProgress], None] | None = None
) -> DemoResult:
    """Certify test images of the digits without, with a black-box and a white-box denoiser.

    The classifier was trained without noise. The black-box denoiser was trained without the
    classifier, the white-box one through it. Every number is computed with fresh noise.

    Args:
        folder: where ``report.html``, ``figure.png`` and a new store are written.
        images: number of test images, from the first.
        progress: called after every batch.

    Raises:
        InputError: ``images`` is below 1, or an extra is missing.
    """
    began = time.monotonic()
    path = folder / f"runs-{datetime.now(UTC):%Y%m%d-%H%M%S}.sqlite"
    classifier, dataset = load_classifier("digits"), load_dataset("digits:test")
    results = []
    with Store(path) as store:
        for method, spec in METHODS.items():
            denoiser = load_denoiser(spec)
            for sigma in SIGMAS:
                run = CertificationRun(
                    SmoothedClassifier(classifier, sigma, denoiser),
                    dataset,
                    PLAN,
                    alpha=0.001,
                    classifier="digits",
                    denoiser=spec,
                    name=f"{spec}-{sigma:g}",
                    limit=images,
                    method=method,
                    command="denoised-smoothing demo",
                )
                results.append(load_results(store, run.execute(store, progress).name))
        names = [result.run.name for result in results]
        report = folder / "report.html"
        write_report(store, names, report, radii=RADII, title="An ordinary classifier, certified")
    curves = certified_accuracy_figure([(result.method, result) for result in results])
    save_figure(curves, folder / "figure.png")
    return DemoResult(results, report, path, time.monotonic() - began)
