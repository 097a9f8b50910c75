"""Queries a second at 64 in flight and 100 ms latency: certify against the bare SDK in 64 threads.

    NO_PROXY=127.0.0.1 python benchmarks/remote.py [aws|http ...] [--queries N]

The server is the fake one of the tests, in a process of its own. Both sides send the same noisy
copies as PNG files; the bare SDK finds them encoded already.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from denoised_smoothing import CertificationRun, FixedBudget, SmoothedClassifier, Store
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.encoding import Encoding, to_levels
from denoised_smoothing.remote.limits import ClientSettings

TESTS = Path(__file__).parents[1] / "tests" / "remote"
IN_FLIGHT = 64


def bare_aws(url: str) -> Callable[[bytes], Any]:
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=IN_FLIGHT)
    client = boto3.client("rekognition", config=config)
    return lambda image: client.detect_labels(Image={"Bytes": image})["Labels"][0]["Name"]


def bare_http(url: str) -> Callable[[bytes], Any]:
    import httpx

    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    client = httpx.Client(limits=limits)
    return lambda image: client.post(f"{url}/classify", content=image).json()["predictions"]


def ours(name: str, url: str) -> RemoteClassifier:
    from denoised_smoothing.remote.vendors.aws import Rekognition
    from denoised_smoothing.remote.vendors.http import HttpEndpoint

    vendor = Rekognition() if name == "aws" else HttpEndpoint(f"{url}/classify", "predictions")
    return RemoteClassifier(vendor, settings=ClientSettings(in_flight=IN_FLIGHT, rate=None))


def images(count: int) -> ImageDataset:
    values = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32)) / np.float32(255)
    names = [str(index) for index in range(count)]
    return ImageDataset("random", "0", names, lambda i: values[i], [None] * count)


def measure_bare(send: Callable[[bytes], Any], name: str, queries: int) -> float:
    encoding, source = Encoding(), np.random.default_rng(0)
    limits = ours(name, "http://127.0.0.1").vendor.limits
    noisy = source.normal(0.5, 0.25, (50, 3, 32, 32)).astype(np.float32)
    files = [encoding.encode(levels, limits) for levels in to_levels(noisy)]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(send, files))
        began = time.perf_counter()
        list(pool.map(send, [files[i % 50] for i in range(queries)]))
        return queries / (time.perf_counter() - began)


def measure_ours(name: str, url: str, queries: int) -> float:
    classifier, count = ours(name, url), 30  # so that steps of a plan do not empty the wire
    smoothed = SmoothedClassifier(classifier, sigma=0.25)
    plan = FixedBudget(n0=20, n=queries // count - 20)
    run = CertificationRun(smoothed, images(count), plan, 0.001, name, "none")
    warm_up = replace(run, plan=FixedBudget(n0=10, n=200), name="warm up", limit=1)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s.sqlite") as store:
        warm_up.execute(store)
        began = time.perf_counter()
        run.execute(store)
        return count * plan.most_calls() / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("vendors", nargs="*", default=["aws", "http"])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    command = [sys.executable, str(TESTS / "fake.py"), "--latency", "0.1", "--labels", "cat=1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        os.environ |= {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "the-right-key-0123456789",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        print("| vendor | bare SDK, queries/s | certify, queries/s | share in % |")
        print("| --- | ---: | ---: | ---: |")
        for name in given.vendors:
            bare = {"aws": bare_aws, "http": bare_http}[name](url)
            rates = [
                (measure_bare(bare, name, given.queries), measure_ours(name, url, given.queries))
                for _ in range(given.rounds)
            ]
            for theirs, mine in rates:
                print(f"| {name} | {theirs:.0f} | {mine:.0f} | {100 * mine / theirs:.1f} |")
        server.terminate()


if __name__ == "__main__":
    main()
