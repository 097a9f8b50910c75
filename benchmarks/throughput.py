"""Noisy copies a second: `certify` in each engine, the bare engine, and two plain loops.

All take turns in one process, because machines are shared: compare the ratios. The plain loops are
the original algorithm (one image at a time, default layout, counted on the host) and `certify` of
the Adversarial Robustness Toolbox, if that and statsmodels are installed.

    python benchmarks/throughput.py [--pipeline dncnn|unet|photo] [--engines torch,openvino,...]
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from denoised_smoothing import ImageClassifier, SmoothedClassifier
from denoised_smoothing.engines.choice import throughput
from denoised_smoothing.images import to_grid
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet
from denoised_smoothing.models.denoisers.files import build_denoiser

SIGMA = 0.25
ALL = "torch,torch bfloat16,onnxruntime,openvino,openvino bfloat16,openvino int8"


class Pipeline(nn.Module):
    """Denoiser, then classifier, for the plain loops."""

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier

    def forward(self, copies: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.denoiser(copies, SIGMA))
        return logits


def build(name: str) -> tuple[nn.Module, nn.Module, int, str]:
    """Return denoiser, classifier, image side, and a title."""
    torch.manual_seed(0)
    if name == "photo":
        import torchvision

        network = torchvision.models.resnet50(weights=None)
        classifier = ImageClassifier(network, [0.5] * 3, [0.25] * 3)
        return build_denoiser("unet", width=32).eval(), classifier.eval(), 224, "UNet + ResNet-50"
    classifier = ImageClassifier(CifarResNet(56), [0.5] * 3, [0.25] * 3)
    titles = {"dncnn": "DnCNN + ResNet-56", "unet": "UNet + ResNet-56"}
    return build_denoiser(name).eval(), classifier.eval(), 32, titles[name]


def original_loop(pipeline: nn.Module, image: Tensor, n: int, batch: int, classes: int) -> None:
    """Count one image at a time, in the default layout, on the host (Cohen et al. 2019, 3.2)."""
    counts = np.zeros(classes, dtype=int)
    with torch.no_grad():
        for _ in range(math.ceil(n / batch)):
            size = min(batch, n)
            n -= size
            copies = image.repeat(size, 1, 1, 1)
            noise = torch.randn_like(copies) * SIGMA
            for label in pipeline(copies + noise).argmax(dim=1).cpu().numpy():
                counts[label] += 1


def toolbox(pipeline: nn.Module, image: Tensor, n: int, batch: int, classes: int) -> None:
    """`certify` of the Adversarial Robustness Toolbox."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

        smoothed = PyTorchRandomizedSmoothing(
            pipeline, nn.CrossEntropyLoss(), tuple(image.shape), classes,
            device_type="cpu", sample_size=1, scale=SIGMA,
        )  # fmt: skip
        smoothed.certify(image[None].numpy(), n=n - 1, batch_size=batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", choices=["dncnn", "unet", "photo"], default="dncnn")
    parser.add_argument("--engines", default=ALL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each turn, about")
    arguments = parser.parse_args()
    denoiser, classifier, side, title = build(arguments.pipeline)
    rng = np.random.default_rng(0)
    images = to_grid(rng.random((20, 3, side, side), dtype=np.float32))
    plain, image = Pipeline(denoiser, classifier), torch.from_numpy(images[0])
    batch, classes = (400, 10) if side == 32 else (32, 1000)
    rates: dict[str, list[float]] = {}
    turns: dict[str, Callable[[], float]] = {}

    def loop(work: Callable[..., None]) -> Callable[[], float]:
        def turn() -> float:
            began = time.perf_counter()
            work(plain, image, batch, batch, classes)
            return batch / (time.perf_counter() - began)

        return turn

    turns["original loop"] = loop(original_loop)
    if find_spec("art") and find_spec("statsmodels"):
        turns["Adversarial Robustness Toolbox"] = loop(toolbox)
    for name in arguments.engines.split(","):
        engine, _, precision = name.partition(" ")
        turns |= engine_turns(engine, precision or "float32", denoiser, classifier, images,
                              arguments.seconds)  # fmt: skip
    for number in range(arguments.rounds + 1):
        for name, turn in turns.items():
            rate = turn()
            if number:  # the first round warms up
                rates.setdefault(name, []).append(rate)
    show(title, rates, arguments.rounds)


def engine_turns(
    engine: str,
    precision: str,
    denoiser: nn.Module,
    classifier: nn.Module,
    images: np.ndarray,
    seconds: float,
) -> dict[str, Callable[[], float]]:
    """Return the bare engine on given copies, and `certify` in it."""
    smoothed = SmoothedClassifier(
        classifier, SIGMA, denoiser, engine=engine, precision=precision, calibration=images
    )
    choice = smoothed.prepared.engine_for(images[0])
    copies = torch.rand(choice.forward, *images.shape[1:])

    def bare() -> float:
        return throughput(choice.engine, copies, seconds)

    # As in a real run: several images, and n of 1,000, or fewer for large images.
    count = max(2, min(len(images), int(bare() * seconds / 1_100)))
    n = 1_000 if images.shape[-1] == 32 else 100

    def certify() -> float:
        began = time.perf_counter()
        certificates = smoothed.certify_batch(images[:count], n0=n // 10, n=n)
        return sum(c.calls for c in certificates) / (time.perf_counter() - began)

    name = f"{engine} {precision}"
    return {f"bare {name}": bare, f"certify {name}": certify}


def show(title: str, rates: dict[str, list[float]], rounds: int) -> None:
    packages = [name for name in ("torch", "openvino", "onnxruntime", "nncf") if find_spec(name)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    machine = f"{torch.get_num_threads()} cores, {platform.machine()}"
    print(f"{title}, random weights; {machine} {torch.backends.cpu.get_cpu_capability()}")
    print(f"{versions}; median of {rounds} rounds\n")
    art = rates.get("Adversarial Robustness Toolbox")
    print("| | copies/s | of the bare engine | of the original loop | of the toolbox |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, values in rates.items():
        bare = rates.get(name.replace("certify", "bare")) if name.startswith("certify") else None
        cells = [ratio(values, other) for other in (bare, rates["original loop"], art)]
        print(f"| {name} | {statistics.median(values):.0f} | {' | '.join(cells)} |")


def ratio(values: list[float], others: list[float] | None) -> str:
    """Return the median of the ratios within each round."""
    if others is None:
        return ""
    return f"{statistics.median(a / b for a, b in zip(values, others, strict=True)):.2f}"


if __name__ == "__main__":
    main()
