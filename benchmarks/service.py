"""Load the service over loopback: its throughput next to that of the command line, and memory.

    python benchmarks/service.py [--clients 50] [--seconds 60] [--copies 1000]

Every client checks that the answer is about its own image. The library draws a sample of the
answers again with their seeds and compares the counts. The command line runs before and after.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from denoised_smoothing import CertificationRun, FixedBudget, SmoothedClassifier, Store
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.images import digest, to_png
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser

SIGMA, DENOISER = 0.5, "digits-stability"


def image(seed: int) -> np.ndarray:
    """Draw an image of 8x8 random pixels."""
    values = np.random.default_rng(seed).integers(0, 256, (1, 8, 8))
    return (values / np.float32(255)).astype(np.float32)


def command_line(smoothed: SmoothedClassifier, folder: Path, copies: int, count: int) -> float:
    """Return copies per second of ``certify``, without its start."""
    data = ImageDataset("random", "random", [str(i) for i in range(count)], image, [0] * count)
    run = CertificationRun(
        smoothed, data, FixedBudget(100, copies), 0.001, "digits", DENOISER, name="run"
    )
    with Store(folder / f"{time.time()}.sqlite") as store:
        began = time.perf_counter()
        run.execute(store)
        seconds = time.perf_counter() - began
        calls = sum(c.n for i in store.images("run") for c in i.counts.values())
    return calls / seconds


@contextmanager
def serving(folder: Path) -> Iterator[tuple[int, str]]:
    """Run the service; yields its process id and address."""
    command = [
        *(sys.executable, "-m", "denoised_smoothing", "serve", "--port", "0"),
        *("--store", str(folder / "service.sqlite"), "--sigma", str(SIGMA)),
        *("--denoiser", f"front={DENOISER}", "--client-rate", "1000000"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://\S+:\d+", process.stderr.readline())
    assert found is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()
    while True:
        try:
            if httpx.get(f"{found[0]}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    yield process.pid, found[0]
    process.terminate()
    process.wait()


class Load:
    """Clients that each send one request after the other, about their own images."""

    def __init__(self, address: str, copies: int) -> None:
        self.address, self.copies = address, copies
        self.statuses: Counter[int] = Counter()
        self.calls = self.wrong = 0
        self.sample: list[tuple[int, str]] = []
        self.seconds: list[float] = []
        self.lock, self.until = threading.Lock(), 0.0

    def run(self, clients: int, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._client, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, number: int) -> None:
        with httpx.Client(base_url=self.address, timeout=120) as client:
            turn = 0
            while time.monotonic() < self.until:
                turn += 1
                self._ask(client, number * 1_000_000 + turn, self.copies + number)

    def _ask(self, client: httpx.Client, seed: int, n: int) -> None:
        mine = image(seed)
        request = {"image": base64.b64encode(to_png(mine)).decode(), "sigma": SIGMA, "n": n}
        began = time.monotonic()
        reply = client.post("/v1/certificates", json=request)
        if reply.status_code == 429:
            time.sleep(float(reply.headers["retry-after"]))
        with self.lock:
            self.statuses[reply.status_code] += 1
            if reply.status_code != 200:
                return
            answer = reply.json()
            certificate = answer["certificate"]
            self.calls += answer["calls"]
            self.seconds.append(time.monotonic() - began)
            self.wrong += certificate["image_id"] != digest(mine) or certificate["plan"]["n"] != n
            if random.random() < 0.01:
                self.sample.append((seed, json.dumps(certificate)))


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def check(smoothed: SmoothedClassifier, sample: list[tuple[int, str]]) -> int:
    """Return the number of certificates whose counts the library does not draw again."""
    differing = 0
    for seed, text in sample:
        held = Certificate.from_json(text)
        again = smoothed.certify(image(seed), plan=held.plan, seed=held.seed)
        differing += again.counts.votes != held.counts.votes
    return differing


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--copies", type=int, default=1_000)
    options = parser.parse_args()
    smoothed = SmoothedClassifier(
        load_classifier("digits"), SIGMA, load_denoiser(DENOISER), engine="auto"
    )
    smoothed.certify(image(0), n=100)
    images = max(20, 200_000 // options.copies)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = [command_line(smoothed, folder, options.copies, images)]
        with serving(folder) as (pid, address):
            Load(address, options.copies).run(options.clients, 5)
            load, held = Load(address, options.copies), [memory(pid)]
            began = time.monotonic()
            clients = threading.Thread(target=load.run, args=(options.clients, options.seconds))
            clients.start()
            while clients.is_alive():
                clients.join(options.seconds / 4)
                held.append(memory(pid))
            seconds = time.monotonic() - began  # up to the last answer
        alone.append(command_line(smoothed, folder, options.copies, images))
    rate = load.calls / seconds
    load.seconds.sort()
    median = load.seconds[len(load.seconds) // 2]
    print(f"engine {smoothed.prepared.engine_for(image(0)).engine.name}")
    print(f"responses {dict(load.statuses)}, {load.wrong} about another image or request")
    print(f"drawn again {len(load.sample)}, {check(smoothed, load.sample)} of them differ")
    print(f"seconds: median {median:.2f}, maximum {load.seconds[-1]:.2f}")
    print(f"copies per second: {rate:,.0f}; command line {alone[0]:,.0f} and {alone[1]:,.0f}")
    print(f"share {rate / (sum(alone) / 2):.2f}")
    print("memory of the server, MB: " + ", ".join(f"{value:,.0f}" for value in held))


if __name__ == "__main__":
    main()
