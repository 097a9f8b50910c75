"""The choice of sigma: runs at several sigmas, and the one that certifies most at a radius."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from denoised_smoothing.errors import RefusedImagesError, SettingError
from denoised_smoothing.reporting.cells import Row
from denoised_smoothing.reporting.results import RunResults, load_results
from denoised_smoothing.reporting.tables import certified_accuracy, choose, comparison
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.store import Store


@dataclass(frozen=True)
class SigmaSweep:
    """Runs that differ in sigma alone, and the sigma that certifies most at the radius."""

    results: list[RunResults]
    radius: float
    sigma: float | None
    """None where no sigma certifies any image at the radius."""
    share: float
    refused: tuple[str, ...] = ()
    """Messages about images that could not be certified."""

    def rows(self, radii: Sequence[float]) -> list[Row]:
        """Return a table row for each sigma; that of the chosen one knows that it was chosen."""
        rows = comparison(self.results, radii)
        chosen = [at for at, row in enumerate(rows) if row.sigma == self.sigma]
        return choose(rows, chosen[0]) if chosen else rows


def sweep_sigma(
    runs: Sequence[CertificationRun],
    store: Store,
    radius: float,
    progress: Callable[[RunProgress], None] | None = None,
) -> SigmaSweep:
    """Certify the same images at several sigmas and choose one.

    The choice is made on these images, so the share that it promises is slightly optimistic. Each
    certificate is as valid as without the sweep. Of equal shares the smaller sigma wins, which
    costs less accuracy.

    Args:
        runs: of one method, each with its own sigma.
        store: holds the runs; an interrupted sweep resumes.
        radius: the L2 radius at which most images should be certified.
        progress: called after every batch.

    Raises:
        SettingError: fewer than two sigmas.
    """
    sigmas = [run.smoothed.sigma for run in runs]
    if len(set(sigmas)) < 2:
        raise SettingError(f"A sweep needs at least two sigmas, got {sigmas}")
    for run in runs:  # bad input is refused before any image is certified
        run.prepare()
    refused = []
    for run in runs:
        try:
            run.execute(store, progress)
        except RefusedImagesError as error:  # all other images are certified
            refused.append(str(error))
    results = sorted(
        (load_results(store, run.run_name, indices=run.indices) for run in runs),
        key=lambda r: r.sigma,
    )
    shares = [float(certified_accuracy(run, (radius,))[0]) for run in results]
    best = max(range(len(shares)), key=lambda i: (shares[i], -i))
    sigma = results[best].sigma if shares[best] else None
    return SigmaSweep(results, radius, sigma, shares[best], tuple(refused))
