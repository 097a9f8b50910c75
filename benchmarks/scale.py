"""The limits of a run's speed: the constants of docs/scale.md, measured.

    python benchmarks/scale.py driver [--postgresql URL]
    python benchmarks/scale.py workers [--counts 1,8,64,512] [--seconds 0.5]
    python benchmarks/scale.py results [--images 1000000]
    python benchmarks/scale.py model [--rate 650] [--passes 8]

``driver`` counts votes without cost, so that only the driver and the store work. ``workers`` sleep
instead of computing: many of them in a few processes of a Ray cluster on this machine. ``results``
reports and exports a run of N images. ``model`` prints the table of planning.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.smoothing.scheduler import (
    BatchRunner,
    CopyRange,
    ImageTask,
    Votes,
    schedule_batches,
)
from denoised_smoothing.store import IMAGES, Store

CHUNK, CLASSES = 50, 1000
PLAN = FixedBudget(100, 900)
PARTS = (PLAN.n0 + PLAN.n) // CHUNK
"""Number of chunk results of an image."""
IMAGE = np.full((1, 8, 8), 128 / 255, np.float32)
FULL = 50_000 * 10_100
"""Classifier calls of ImageNet's validation images at n0 = 100 and n = 10,000."""
ANYTIME = 50_000 * 868
"""The same with the anytime plan and one radius (docs/statistics.md, economy)."""


def votes_of(parts: Sequence[CopyRange]) -> Votes:
    """Return votes for one class of a thousand, as those of an ImageNet classifier."""
    return [([0, len(part.copies), *[0] * (CLASSES - 2)], 0) for part in parts]


def at_once(parts: Sequence[CopyRange]) -> Future[Votes]:
    future: Future[Votes] = Future()
    future.set_result(votes_of(parts))
    return future


class Stub(SmoothedClassifier):
    """A smoothed classifier whose copies are counted by a given runner."""

    runner: BatchRunner

    def count_labels(
        self, tasks: Any, targets: Any, seed: Any, *, on_batch: Any = None, **_: Any
    ) -> Iterator[ImageTask]:
        yield from schedule_batches(tasks, targets, self.runner, chunk=CHUNK, on_batch=on_batch)


def certify(images: int, runner: BatchRunner, target: str) -> tuple[float, float]:
    """Return wall and CPU seconds of a run, without its preparation."""
    smoothed = Stub(lambda x: x.flatten(1), 0.5, device="cpu")
    smoothed.runner = runner
    data = ImageDataset(
        name="folder:stub",
        fingerprint="f",
        image_ids=[str(index) for index in range(images)],
        read=lambda index: IMAGE,
        labels=[1] * images,
        label_names=[str(label) for label in range(CLASSES)],
    )
    run = CertificationRun(smoothed, data, PLAN, 0.001, "stub", "none", seed=1)
    with Store(target) as store:
        began, before = time.perf_counter(), time.process_time()
        run.execute(store)
        return time.perf_counter() - began, time.process_time() - before


def driver(options: argparse.Namespace) -> None:
    if options.postgresql:
        check_empty(options.postgresql)
    print("| store | chunk results | seconds | results/s | CPU ms a result | memory MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        targets = {"SQLite": f"{folder}/runs.sqlite"}
        if options.postgresql:
            targets["PostgreSQL"] = options.postgresql
        for name, target in targets.items():
            for images in (options.images // 4, options.images):
                # One chunk a batch gives the maximum number of messages.
                seconds, cpu = certify(images, BatchRunner(at_once, CHUNK, 8, 16), f"{target}")
                done = images * PARTS
                print(
                    f"| {name} | {done:,} | {seconds:.1f} | {done / seconds:,.0f} "
                    f"| {1000 * cpu / done:.2f} | {memory()} |",
                    flush=True,
                )
                if name == "SQLite":
                    Path(target).unlink()
                else:
                    empty(target)


def check_empty(url: str) -> None:
    """Refuse a database that holds tables, because they would be dropped."""
    engine = sa.create_engine(url)
    found = sa.inspect(engine).get_table_names()
    engine.dispose()
    if found:
        sys.exit(
            f"the database must be empty, got tables {', '.join(sorted(found)[:5])}, which would "
            "be dropped. Name a new database (createdb)."
        )


def empty(url: str) -> None:
    engine, tables = sa.create_engine(url), sa.MetaData()
    tables.reflect(engine)
    tables.drop_all(engine)
    engine.dispose()


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Sleeper:
    """Many workers in one process: each thread sleeps for the time of a batch."""

    def votes(self, seconds: float, sizes: Sequence[int]) -> Votes:
        time.sleep(seconds)
        return [([0, size, *[0] * (CLASSES - 2)], 0) for size in sizes]


def workers(options: argparse.Namespace) -> None:
    import ray

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="error")
    print("| workers | batches | seconds | at best | efficiency | CPU ms a result | memory MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in map(int, options.counts.split(",")):
        processes = min(4, count)
        threads = count // processes
        kind = ray.remote(Sleeper).options(num_cpus=0.1, max_concurrency=threads)
        sleepers = [kind.remote() for _ in range(processes)]
        ray.get([sleeper.votes.remote(0.0, [1]) for sleeper in sleepers])
        turns = itertools.cycle(sleepers)

        def submit(parts: Sequence[CopyRange], turns: Iterator[Any] = turns) -> Future[Votes]:
            sizes = [len(part.copies) for part in parts]
            future: Future[Votes] = next(turns).votes.remote(options.seconds, sizes).future()
            return future

        images = -(-count * options.rounds // PARTS)
        with tempfile.TemporaryDirectory() as folder:
            runner = BatchRunner(submit, CHUNK, count, 4 * count)
            seconds, cpu = certify(images, runner, f"{folder}/runs.sqlite")
        batches = images * PARTS
        best = batches * options.seconds / count
        print(
            f"| {count} | {batches:,} | {seconds:.1f} | {best:.1f} | {best / seconds:.0%} "
            f"| {1000 * cpu / batches:.2f} | {memory()} |",
            flush=True,
        )
    ray.shutdown()


def results(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.sqlite"
        fill(path, options.images)
        print("| command | images | seconds | CPU seconds | memory MB |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for command in ("export", "report"):
            began = time.perf_counter()
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "denoised_smoothing", command, "run"),
                    *("--store", path, "--output", Path(folder) / command),
                ],
                stdout=subprocess.DEVNULL,
            )
            _, status, used = os.wait4(process.pid, 0)
            assert status == 0, f"{command} failed"
            seconds, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
            peak = used.ru_maxrss // 1024
            print(f"| {command} | {options.images:,} | {seconds:.0f} | {cpu:.0f} | {peak} |")


def fill(path: Path, images: int) -> None:
    """Store a finished run with counts of ten classes and radii of all sizes."""
    certify(1, BatchRunner(at_once, CHUNK), str(path))
    generator = np.random.default_rng(0)
    with Store(path) as store, store.transaction(write=True) as connection:
        for statement in (
            "delete from examples",
            "delete from images",
            "update runs set name = 'run'",
        ):
            connection.exec_driver_sql(statement)
        for start in range(0, images, 10_000):
            tops = generator.integers(PLAN.n // 2, PLAN.n + 1, 10_000).tolist()
            connection.execute(
                sa.insert(IMAGES),
                [
                    row(start + place, top)
                    for place, top in enumerate(tops[: max(0, images - start)])
                ],
            )


def row(index: int, top: int) -> dict[str, Any]:
    label = index % 10
    counts = [0] * 10
    counts[label], counts[(label + 1) % 10] = top, PLAN.n - top
    chosen = [PLAN.n0 if other == label else 0 for other in range(10)]
    return {
        "run": "run", "index": index, "image_id": str(index), "label": label, "digest": "0" * 64,
        "counts": {"selection": [chosen, 0], "estimation": [counts, 0]},
        "seconds": 1.0, "finished": True,
    }  # fmt: skip


def model(options: argparse.Namespace) -> None:
    """Print the hours of a run that its workers or its driver limit."""
    print("| workers | drivers | fixed n = 10,000 | anytime | bound by |")
    print("| ---: | ---: | ---: | ---: | --- |")
    message = options.message / (options.forward * options.passes)
    of_driver = 1000 / (options.part / options.chunk + message)
    for count, drivers in ((1, 1), (8, 1), (64, 1), (64, 4), (512, 1), (512, 32)):
        of_workers, most = count * options.rate, drivers * of_driver
        rate = min(of_workers, most)
        fixed, anytime = (calls / rate / 3600 for calls in (FULL, ANYTIME))
        bound = "the workers" if of_workers <= most else "the driver"
        print(f"| {count} | {drivers} | {fixed:,.1f} h | {anytime:,.2f} h | {bound} |")


PARTS_OF_IT: dict[str, Callable[[argparse.Namespace], None]] = {
    "driver": driver,
    "workers": workers,
    "results": results,
    "model": model,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=PARTS_OF_IT)
    parser.add_argument("--postgresql", help="URL of an empty database")
    parser.add_argument("--counts", default="1,8,64,512")
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds of a batch")
    parser.add_argument("--rounds", type=int, default=40, help="number of batches of each worker")
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--rate", type=float, default=650.0, help="copies a second of a worker")
    parser.add_argument(
        "--part", type=float, default=0.25, help="driver's milliseconds for a copy range"
    )
    parser.add_argument(
        "--message", type=float, default=1.2, help="driver's milliseconds for a message"
    )
    parser.add_argument(
        "--chunk", type=int, default=4, help="copies in a copy range (at 224 pixels)"
    )
    parser.add_argument("--forward", type=int, default=20, help="copies in a forward pass")
    parser.add_argument("--passes", type=int, default=8, help="forward passes in a message")
    options = parser.parse_args()
    options.images = options.images or {"driver": 400, "results": 1_000_000}.get(options.what, 0)
    PARTS_OF_IT[options.what](options)


if __name__ == "__main__":
    main()
