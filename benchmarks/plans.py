"""A fixed budget and the anytime plan with that maximum, on the same noise: results, calls, time.

Prints the table of docs/statistics.md. Its calls and seconds are those of all images.

    python benchmarks/plans.py DATA --classifier SPEC --denoiser SPEC [--sigma 0.5] [--n 4000]
        [--engine auto] [--precision float32]

Both runs are stored, and resume where they stopped. Images on which the two differ at one of the
radii are listed with their counts.
"""

from __future__ import annotations

import argparse

from denoised_smoothing import (
    Anytime,
    CertificationRun,
    FixedBudget,
    SmoothedClassifier,
    Store,
    load_classifier,
    load_dataset,
    load_denoiser,
    load_results,
)
from denoised_smoothing.certificates.plans.anytime import RADII
from denoised_smoothing.reporting.results import ImageResult, RunResults
from denoised_smoothing.reporting.tables import comparison

SEED = 20190208


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--denoiser", required=True)
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--n", type=int, default=4_000)
    parser.add_argument("--n0", type=int, default=100)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--store", default="plans.sqlite")
    return parser.parse_args()


def claims(image: ImageResult) -> tuple[int | None, int]:
    """Return the certified label, and the number of radii at which it is certified."""
    count = sum(image.radius >= radius for radius in RADII)
    return (image.predicted if count else None), count


def counts(image: ImageResult) -> str:
    """Return the votes of the candidate among the copies of the estimation."""
    certificate = image.certificate
    candidate = certificate.selection.top()
    votes = 0 if candidate is None else certificate.counts.of(candidate)
    return f"label {candidate}: {votes} of {certificate.counts.n}, radius {image.radius:.4f}"


def table(results: dict[str, RunResults], n: int) -> str:
    """Return a table: certified accuracy (%) at 0 and the radii, calls, and seconds."""
    rows = comparison(list(results.values()), (0.0, *RADII))
    names = {"anytime": f"anytime, cap {n:,}", "fixed": f"fixed, n = {n:,}"}
    first, *radii = (f"{cell.radius:g}" for cell in rows[0].cells)
    lines = [["plan", f"r = {first}", *radii, "calls", "seconds"]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for (name, result), row in zip(results.items(), rows, strict=True):
        calls = sum(image.certificate.calls for image in result.images)
        seconds = sum(image.seconds for image in result.images)
        lines.append([names[name], *map(str, row.cells), f"{calls:,}", f"{seconds:,.1f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    options = parse()
    smoothed = SmoothedClassifier(
        load_classifier(options.classifier),
        options.sigma,
        load_denoiser(options.denoiser),
        engine=options.engine,
        precision=options.precision,
    )
    plans = {
        "anytime": Anytime(RADII, max_n=options.n, n0=options.n0),
        "fixed": FixedBudget(options.n0, options.n),
    }
    results = {}
    with Store(options.store) as store:
        for name, plan in plans.items():
            CertificationRun(
                smoothed,
                load_dataset(options.data),
                plan,
                alpha=0.001,
                classifier=options.classifier,
                denoiser=options.denoiser,
                name=name,
                seed=SEED,
                limit=options.limit,
                method=name,
            ).execute(store)
            results[name] = load_results(store, name)
    print(table(results, options.n))
    pairs = zip(results["fixed"].images, results["anytime"].images, strict=True)
    different = [pair for pair in pairs if claims(pair[0]) != claims(pair[1])]
    print(f"\n{len(different)} of {options.limit} images differ at one of {RADII}:\n")
    for fixed, anytime in different:
        print(
            f"- row {fixed.index} (true label {fixed.true_label}): fixed {counts(fixed)}; "
            f"anytime {counts(anytime)}"
        )


if __name__ == "__main__":
    main()
