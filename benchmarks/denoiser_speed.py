"""Images a second of each denoiser at 32x32 pixels: forward in float32, training by mse.

    python benchmarks/denoiser_speed.py [--rounds 5]

All take turns in one process, because machines are shared: compare the ratios. Prints medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.files import ARCHITECTURES, build_denoiser
from denoised_smoothing.models.shipped import load_shipped_denoiser

SIGMA = 0.25
SHIPS = "unet, as `cifar10`"
NAMES = (*ARCHITECTURES, SHIPS)


def network_of(name: str) -> DenoiserNetwork:
    """Return a new network of the default or of the shipped size."""
    if name != SHIPS:
        return build_denoiser(name)
    return build_denoiser("unet", **load_shipped_denoiser("cifar10").config)


def workload(architecture: str, batch: int, training: bool) -> Callable[[], None]:
    """Return a function of one forward pass or one training step."""
    torch.manual_seed(0)
    network = network_of(architecture).to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    if not training:
        network.eval()

        def forward() -> None:
            with torch.inference_mode():
                network(images, SIGMA)

        return forward
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = (network(images, SIGMA) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def rate(work: Callable[[], None], batch: int, seconds: float) -> float:
    """Return images a second of wall time."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        count += batch
    return count / (time.perf_counter() - began)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    forward, training = (
        {name: workload(name, batch, trains) for name in NAMES}
        for batch, trains in ((50, False), (64, True))
    )
    rates: dict[tuple[str, bool], list[float]] = {}
    for round_ in range(arguments.rounds + 1):
        for trains, works, batch in ((False, forward, 50), (True, training, 64)):
            for name, work in works.items():
                found = rate(work, batch, arguments.seconds)
                if round_:  # the first round warms up
                    rates.setdefault((name, trains), []).append(found)
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print("| denoiser | parameters | forward, images/s | training in bfloat16, images/s |")
    print("| --- | ---: | ---: | ---: |")
    for name in NAMES:
        parameters = sum(p.numel() for p in network_of(name).parameters())
        cells = [f"{statistics.median(rates[name, trains]):,.0f}" for trains in (False, True)]
        print(f"| {name} | {parameters / 1e6:.2f} M | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
