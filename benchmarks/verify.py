"""Verify the arithmetic of large exports: seconds and peak memory of a process of its own.

    python benchmarks/verify.py [--rows 100000] [--plan anytime] [--formats jsonl csv]

The certificates are simulated: each image has a failure probability of its own, and counts that the
plan could have ended on. Memory is the peak of the process in MB; torch must not be loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.results import ImageResult, RunResults
from denoised_smoothing.store import StoredRun

PLANS: dict[str, SamplingPlan] = {"fixed": FixedBudget(100, 10_000), "anytime": Anytime()}
CHILD = """
import re, sys, time
from denoised_smoothing.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
status = open("/proc/self/status", encoding="ascii").read()
peak = re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]
print(peak, time.process_time(), "torch" in sys.modules, code)
"""


def certificates(plan: SamplingPlan, rows: int) -> Iterator[Certificate]:
    """Yield certificates of a plan, each of another image."""
    random = np.random.default_rng(0)
    selection = plan.to_dict()["n0"]
    for index in range(rows):
        name, failing = f"{index:064x}", float(10 ** -random.uniform(0.4, 4))
        n = 10_000 if isinstance(plan, FixedBudget) else 100 * int(random.integers(1, 101))
        failures = int(random.binomial(n, failing))
        parts = random.multinomial(failures, [0.5, 0.3, 0.2]).tolist()
        counts = {
            Stage.SELECTION: LabelCounts("run", name, Stage.SELECTION, {3: selection}),
            Stage.ESTIMATION: LabelCounts("run", name, Stage.ESTIMATION, [*parts, n - failures]),
        }
        parameters = SmoothingParameters(0.25, 0.001, 3072, 7)
        identity = Identity("digits", "0" * 64, "none", "1" * 64, name, None, 32, (3, 32, 32))
        yield plan.certificate(counts, parameters).about(identity, {3: "three"})


def results(plan: SamplingPlan, rows: int) -> RunResults:
    """Return a run of such certificates."""
    run = StoredRun("run", {}, 7, {}, datetime(2026, 1, 1, tzinfo=UTC))
    images = (
        ImageResult(index, f"{index:064x}", 3, certificate, 0.5)
        for index, certificate in enumerate(certificates(plan, rows))
    )
    return RunResults(run, tuple(images))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--plan", choices=PLANS, default="anytime")
    parser.add_argument("--formats", nargs="+", default=["jsonl", "csv", "parquet"])
    given = parser.parse_args()
    found = results(PLANS[given.plan], given.rows)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.formats:
            path = Path(folder) / f"run.{name}"
            export(found, ExportFormat(name), path)
            print(f"{name}, plan {given.plan}: {measure(path)}", flush=True)


def measure(path: Path) -> str:
    """Verify a file in a process of its own, and describe what that took."""
    began = time.perf_counter()
    command = [sys.executable, "-c", CHILD, "verify", str(path), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    outcome, status = done.stdout.splitlines()
    kilobytes, used, torch, code = status.split()
    return (
        f"{json.loads(outcome)['rows']:,} rows, {path.stat().st_size / 1e6:.0f} MB: "
        f"{seconds:.0f} s ({float(used):.0f} s of a core), peak {int(kilobytes) / 1024:.0f} MB, "
        f"torch loaded: {torch}, exit code {code}"
    )


if __name__ == "__main__":
    main()
