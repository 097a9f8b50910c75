"""Verify the arithmetic of large exports: seconds and peak memory of a process of its own.

    python benchmarks/verify.py [--rows 100000] [--plan anytime]

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
from pathlib import Path

import numpy as np

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget

PLANS: dict[str, SamplingPlan] = {"fixed": FixedBudget(100, 10_000), "anytime": Anytime()}
CHILD = """
import re, sys
from denoised_smoothing.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
status = open("/proc/self/status", encoding="ascii").read()
print(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1], "torch" in sys.modules, code)
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--plan", choices=PLANS, default="anytime")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        with path.open("w") as file:
            for index, certificate in enumerate(certificates(PLANS[given.plan], given.rows)):
                row = {"index": index, "true_label": 3, "refused": None, "seconds": 0.5}
                file.write(json.dumps({**row, "certificate": certificate.to_dict()}) + "\n")
        began = time.perf_counter()
        command = [sys.executable, "-c", CHILD, "verify", str(path), "--json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        found, peak = done.stdout.splitlines()
        kilobytes, torch, code = peak.split()
        print(
            f"{path.suffix} {given.plan}: {json.loads(found)['rows']:,} rows, "
            f"{path.stat().st_size / 1e6:.0f} MB: {seconds:.1f} s, "
            f"peak {int(kilobytes) / 1024:.0f} MB, torch loaded: {torch}, exit code {code}"
        )


if __name__ == "__main__":
    main()
