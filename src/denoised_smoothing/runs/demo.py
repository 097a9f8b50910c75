"""Experiments that anyone can rerun: the demo, the choice of sigma."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.reporting import (
    RunResults,
    certified_accuracy,
    certified_accuracy_figure,
    load_results,
    save_figure,
    write_report,
)
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

METHODS = {
    "no denoiser": "none",
    "black box (mse)": "digits-mse",
    "white box (stability)": "digits-stability",
}
"""Rows of the demo's table and their bundled denoisers."""
SIGMAS = (0.25, 0.5)
RADII = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
PLAN = FixedBudget(n0=100, n=1000)


@dataclass(frozen=True)
class DemoStory:
    """What the demo found: results a run, where its report and store are, how long it took."""

    results: list[RunResults]
    report: Path
    store: Path
    seconds: float


def run_demo(
    folder: Path, *, images: int, progress: Callable[[RunProgress], None] | None = None
) -> DemoStory:
    """Certify test images of the digits without, with a black-box and a white-box denoiser.

    The classifier never saw noise. The black-box denoiser never saw the classifier; the
    white-box one was trained through it. Everything is computed anew, with fresh noise.

    Args:
        folder: where ``report.html``, ``figure.png`` and a new store go.
        images: how many test images, from the first.
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
    return DemoStory(results, report, path, time.monotonic() - began)


@dataclass(frozen=True)
class SigmaSweep:
    """Runs that differ in sigma alone, and the sigma that certifies most at the radius asked."""

    results: list[RunResults]
    radius: float
    sigma: float | None
    """None where no sigma certifies any image at the radius."""
    share: float
    refused: tuple[str, ...] = ()
    """What was said of images that could not be certified."""


def sweep_sigma(
    requests: Sequence[CertificationRun],
    store: Store,
    radius: float,
    progress: Callable[[RunProgress], None] | None = None,
) -> SigmaSweep:
    """Certify the same images at several sigmas and choose one.

    The choice is made on these images, so the share it promises is a little optimistic; each
    certificate is as valid as without the sweep. Of equal shares the smaller sigma wins, which
    costs less accuracy.

    Args:
        requests: runs of one method, each with a sigma of its own.
        store: where they are kept; a sweep that was interrupted goes on.
        radius: the L2 radius at which most shall be certified.
        progress: called after every batch.

    Raises:
        SettingError: fewer than two sigmas.
    """
    if len({request.smoothed.sigma for request in requests}) < 2:
        raise SettingError(
            f"a sweep needs at least two sigmas, got {[r.smoothed.sigma for r in requests]}"
        )
    names, refused = [], []
    for request in requests:
        try:
            request.execute(store, progress)
        except ImageError as error:  # all other images are certified
            refused.append(str(error))
        names.append(request.run_name)
    results = sorted((load_results(store, name) for name in names), key=lambda run: run.sigma)
    shares = [float(certified_accuracy(run, (radius,))[0]) for run in results]
    best = max(range(len(shares)), key=lambda i: (shares[i], -i))
    sigma = results[best].sigma if shares[best] else None
    return SigmaSweep(results, radius, sigma, shares[best], tuple(refused))
