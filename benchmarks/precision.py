"""The same images in float32 and in a reduced precision: certified accuracy, calls, time.

    python benchmarks/precision.py DATA --classifier SPEC --denoiser SPEC [--sigmas 0.25,0.5]

Runs are stored, and resume where they stopped. Both precisions get the same noise.
"""

from __future__ import annotations

import argparse
import time

from denoised_smoothing import (
    Anytime,
    CertificationRun,
    SmoothedClassifier,
    Store,
    load_classifier,
    load_dataset,
    load_denoiser,
    load_results,
)
from denoised_smoothing.certificates.plans.anytime import RADII
from denoised_smoothing.reporting.tables import comparison, to_markdown

SEED = 20190208


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--denoiser", required=True)
    parser.add_argument("--sigmas", default="0.25,0.5")
    parser.add_argument("--precisions", default="float32,int8")
    parser.add_argument("--max-n", type=int, default=1_000)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument(
        "--calibration", help="images for the int8 calibration, by default those of DATA"
    )
    parser.add_argument("--store", default="precision.sqlite")
    options = parser.parse_args()
    results, lines = [], []
    with Store(options.store) as store:
        for sigma in map(float, options.sigmas.split(",")):
            for precision in options.precisions.split(","):
                run = CertificationRun(
                    SmoothedClassifier(
                        load_classifier(options.classifier), sigma,
                        load_denoiser(options.denoiser), engine="openvino", precision=precision,
                    ),
                    load_dataset(options.data),
                    Anytime(RADII, max_n=options.max_n),
                    alpha=0.001,
                    classifier=options.classifier,
                    denoiser=options.denoiser,
                    name=f"{precision}-{sigma:g}",
                    seed=SEED,
                    limit=options.limit,
                    calibration=options.calibration and load_dataset(options.calibration),
                    method=precision,
                )  # fmt: skip
                began = time.perf_counter()
                name = run.execute(store).name
                seconds = time.perf_counter() - began
                result = load_results(store, name)
                calls = sum(image.certificate.calls for image in result.images)
                results.append(result)
                lines.append(f"| {precision} | {sigma:g} | {calls:,} | {seconds:.0f} |")
    print(to_markdown(comparison(results, (0.0, *RADII))))
    print("\n| precision | sigma | calls | seconds |\n| --- | ---: | ---: | ---: |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
