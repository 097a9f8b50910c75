"""Attacks within and beyond the certified radius. Within, no smoothed prediction may change.

Attacks certified images of a stored run at shares of their radii, with 50 steps of projected
gradient descent and 32 noisy copies a step. Prints a table.

    denoised-smoothing certify digits:test --classifier digits --denoiser digits-stability \\
        --sigma 0.25 --n 1000 --limit 60 --store runs.sqlite --run digits
    python benchmarks/attack.py digits --store runs.sqlite [--images 50] [--shares 0.99,1.5,2,3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ALARM = 3


def attacked(arguments: argparse.Namespace, share: str, folder: str) -> dict[str, Any]:
    """Return the JSON of ``denoised-smoothing attack`` at one share."""
    command = [
        sys.executable, "-m", "denoised_smoothing", "attack", arguments.run,
        "--store", arguments.store, "--limit", str(arguments.images), "--share", share,
        "--steps", str(arguments.steps), "--copies", str(arguments.copies),
        "--n", str(arguments.n), "--seed", str(arguments.seed), "--device", arguments.device,
        "--output", str(Path(folder) / share), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, ALARM):
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(found: dict[str, Any], seconds: float) -> str:
    """Return one line of the table."""
    [share], attacks = found["shares"], found["attacks"]
    votes = [
        (attack["counts"] + [0] * 1000)[attack["certified_label"]]
        / (sum(attack["counts"]) + attack["failed"])
        for attack in attacks
    ]
    used = statistics.median(attack["norm"] / attack["epsilon"] for attack in attacks)
    verdicts = f"{share['held']} | {share['abstained']} | {share['changed']}"
    return (
        f"| {share['share']:g} | {len(attacks)} | {verdicts} | {statistics.median(votes):.3f} | "
        f"{min(votes):.3f} | {used:.4f} | {len(found['alarms'])} | {seconds / len(attacks):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--store", default="runs.sqlite")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--shares", default="0.99,1.5,2,3")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--copies", type=int, default=32)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    print(f"{arguments.run}: {arguments.steps} steps, {arguments.copies} noisy copies a step\n")
    print(
        "| share of the certified radius | images | held | abstained | changed "
        "| votes for the certified label (median) | (least) | length used | alarms | s/attack |"
    )
    print("| ---: " * 10 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for share in arguments.shares.split(","):
            began = time.perf_counter()
            found = attacked(arguments, share, folder)
            print(row(found, time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
