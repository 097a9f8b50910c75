"""Noisy copies a second: `certify` and the bare engine, the bare networks, and two plain loops.

All take turns in one process, because machines are shared: compare the ratios. The plain loops are
the original algorithm (one image at a time, default layout, counted on the host) and `certify` of
the Adversarial Robustness Toolbox, if that and statsmodels are installed. *Noise alone* draws
noisy copies and answers none. *Forward* calls the networks on given copies without an engine: as
they are (eager), through `torch.compile`, or as a CUDA graph. On CUDA every turn ends when the
device has finished.

    python benchmarks/throughput.py [--pipeline dncnn|unet|photo] [--device cpu|cuda]
        [--engines torch,openvino,...] [--forwards eager,compile,graph bfloat16,...]
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from importlib import metadata
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from denoised_smoothing import ImageClassifier, SmoothedClassifier
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.engines.choice import throughput
from denoised_smoothing.engines.engine import Engine, forward_size
from denoised_smoothing.engines.locks import exact_float32
from denoised_smoothing.images import to_grid
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet
from denoised_smoothing.models.denoisers.files import build_denoiser
from denoised_smoothing.noise import levels_of, noisy_copies

SIGMA = 0.25
ENGINES = {
    "cpu": "torch,torch bfloat16,onnxruntime,openvino,openvino bfloat16,openvino int8",
    "cuda": "torch,torch bfloat16,torch-compile bfloat16",
}
FORWARDS = {"cpu": "eager", "cuda": "eager,graph,eager bfloat16,compile bfloat16,graph bfloat16"}
LOOPS = {
    ("cpu", 32): (400, 400),
    ("cpu", 224): (32, 32),
    ("cuda", 32): (20_000, 1_000),
    ("cuda", 224): (512, 128),
}
"""Copies and batch size of the plain loops, by device and side of the images."""
COPIES = {("cpu", 32): 1_000, ("cpu", 224): 100, ("cuda", 32): 10_000, ("cuda", 224): 1_000}
"""n of `certify`. n0 is a tenth of it."""

Context = Callable[[], AbstractContextManager[None]]
Turn = Callable[[], float]
"""Works for some time and returns copies a second."""


class Pipeline(nn.Module):
    """Denoiser, then classifier, for the plain loops and the bare networks."""

    def __init__(
        self, denoiser: nn.Module, classifier: nn.Module, sigma: float | Tensor = SIGMA
    ) -> None:
        super().__init__()
        self.denoiser, self.classifier, self.sigma = denoiser, classifier, sigma

    def forward(self, copies: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.denoiser(copies, self.sigma))
        return logits


def build(name: str) -> tuple[nn.Module, nn.Module, int, str]:
    """Return denoiser, classifier, image side, and a title."""
    torch.manual_seed(0)
    if name == "photo":
        import timm

        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        classifier = ImageClassifier(network, [0.5] * 3, [0.5] * 3)
        denoiser = build_denoiser("multiscale-unet")
        return denoiser.eval(), classifier.eval(), 224, "multiscale UNet + EfficientNet-Lite0"
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
            device_type="cpu" if image.device.type == "cpu" else "gpu", sample_size=1, scale=SIGMA,
        )  # fmt: skip
        smoothed.certify(image[None].cpu().numpy(), n=n - 1, batch_size=batch)


def finish(device: torch.device) -> None:
    """Wait until the device has done all that was requested."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(work: Callable[[], object], size: int, seconds: float, device: torch.device) -> float:
    """Return the copies a second of ``work`` on ``size`` copies, called for about ``seconds``."""

    def elapsed(calls: int) -> float:
        finish(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        finish(device)
        return time.perf_counter() - began

    calls = max(1, int(seconds / elapsed(1)))
    return calls * size / elapsed(calls)


def loop_turns(
    plain: nn.Module, image: Tensor, classes: int, copies: int, batch: int
) -> dict[str, Turn]:
    """Return the plain loops."""

    def turn(work: Callable[..., None]) -> float:
        began = time.perf_counter()
        work(plain, image, copies, batch, classes)
        return copies / (time.perf_counter() - began)

    turns: dict[str, Turn] = {"original loop": partial(turn, original_loop)}
    if find_spec("art") and find_spec("statsmodels"):
        turns["Adversarial Robustness Toolbox"] = partial(turn, toolbox)
    return turns


def engine_turns(
    name: str,
    denoiser: nn.Module,
    classifier: nn.Module,
    images: np.ndarray,
    device: torch.device,
    seconds: float,
    n: int,
) -> dict[str, Turn]:
    """Return the bare engine on given copies, and `certify` in it."""
    engine, _, precision = name.partition(" ")
    precision = precision or "float32"
    smoothed = SmoothedClassifier(
        classifier, SIGMA, denoiser, engine=engine, precision=precision, calibration=images,
        device=device,
    )  # fmt: skip
    choice = smoothed.prepared.engine_for(images[0])
    copies = torch.rand(choice.forward, *images.shape[1:], device=device)
    waiting = choice.engine if device.type == "cpu" else finishing(choice.engine)

    def bare() -> float:
        return throughput(waiting, copies, seconds)

    # As in a real run: several images, and n of 1,000, or fewer for large images.
    count = max(2, min(len(images), int(bare() * seconds / (1.1 * n))))

    def certify() -> float:
        began = time.perf_counter()
        certificates = smoothed.certify_batch(images[:count], n0=max(1, n // 10), n=n)
        return sum(c.calls for c in certificates) / (time.perf_counter() - began)

    return {f"bare {engine} {precision}": bare, f"certify {engine} {precision}": certify}


def finishing(engine: Engine) -> Engine:
    """Return a copy of an engine that answers when the device has finished."""
    waiting = copy.copy(engine)

    def answer(copies: Tensor) -> Tensor:
        logits = engine.answer(copies)
        finish(engine.device)
        return logits

    waiting.answer = answer  # type: ignore[method-assign]
    return waiting


def noise_turn(image: Tensor, size: int, seconds: float, device: torch.device) -> Turn:
    """Return the noise of the package on one image, drawn as for a batch of ``size`` copies."""
    draw = partial(
        noisy_copies, image, SIGMA, noise=Noise.GRID, seed=0, image_id="0",
        stage=Stage.ESTIMATION, start=0, stop=size, device=device, levels=levels_of(image),
    )  # fmt: skip
    return partial(rate, draw, size, seconds, device)


def eager(
    network: Callable[[Tensor], Tensor], copies: Tensor, context: Context
) -> Callable[[], None]:
    """Return a call of the network."""

    def work() -> None:
        with torch.inference_mode(), context():
            network(copies)

    return work


def compiled(network: nn.Module, copies: Tensor, context: Context) -> Callable[[], None]:
    """Return a call of the network through `torch.compile`."""
    work = eager(torch.compile(network), copies, context)
    work()
    return work


def graph(network: nn.Module, copies: Tensor, context: Context) -> Callable[[], None]:
    """Return a replay of one call that was captured as a CUDA graph."""
    if copies.device.type != "cuda":
        raise RuntimeError("CUDA graphs need --device cuda")
    work, aside = eager(network, copies, context), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries choose their kernels before the capture
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        work()
    return captured.replay


WAYS = {
    "eager": ("eager", eager),
    "compile": ("torch.compile", compiled),
    "graph": ("CUDA graph", graph),
}


def forward_turns(
    names: str, plain: Pipeline, side: int, seconds: float, device: torch.device
) -> dict[str, Turn]:
    """Return the bare networks in channels_last, on batches of the size of the engines' rule.

    A way that is not available is named and omitted.
    """
    # A number would be copied to the device in every call, which a CUDA graph cannot hold.
    sigma = torch.tensor(SIGMA, device=device)
    copies = torch.rand(forward_size(side * side, device), 3, side, side, device=device)
    copies = copies.contiguous(memory_format=torch.channels_last)
    turns: dict[str, Turn] = {}
    for name in filter(None, names.split(",")):
        way, _, precision = name.partition(" ")
        parts = copy.deepcopy((plain.denoiser, plain.classifier))
        network = Pipeline(*parts, sigma).to(memory_format=torch.channels_last).eval()
        title, make = WAYS[way]
        title = f"forward {title} {precision or 'float32'}"
        try:
            work = make(network, copies, partial(arithmetic, device, precision or "float32"))
        except Exception as error:
            print(f"no {title}: {type(error).__name__}: {str(error).strip().splitlines()[0]}\n")
        else:
            turns[title] = partial(rate, work, len(copies), seconds, device)
    return turns


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Compute as the engine torch does in this precision."""
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(exact_float32())
        if precision != "float32":
            stack.enter_context(torch.autocast(device.type, getattr(torch, precision)))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipeline", choices=["dncnn", "unet", "photo"], default="dncnn")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--engines", help="engines with precisions, separated by commas")
    parser.add_argument("--forwards", help="eager, compile or graph, with precisions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each turn, about")
    parser.add_argument("--n", type=int, help="copies of each image that certify classifies")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here. Use --device cpu.")
    device, seconds = torch.device(arguments.device), arguments.seconds
    denoiser, classifier, side, title = build(arguments.pipeline)
    rng = np.random.default_rng(0)
    images = to_grid(rng.random((20, 3, side, side), dtype=np.float32))
    image = torch.from_numpy(images[0])
    # Copies of the networks: engines change the layout of theirs.
    plain = Pipeline(*copy.deepcopy((denoiser, classifier))).to(device)
    copies, batch = LOOPS[device.type, side]
    turns = loop_turns(plain, image.to(device), 10 if side == 32 else 1000, copies, batch)
    for name in (arguments.engines or ENGINES[device.type]).split(","):
        n = arguments.n or COPIES[device.type, side]
        turns |= engine_turns(name, denoiser, classifier, images, device, seconds, n)
    turns["noise alone"] = noise_turn(image, forward_size(side * side, device), seconds, device)
    forwards = FORWARDS[device.type] if arguments.forwards is None else arguments.forwards
    turns |= forward_turns(forwards, plain, side, seconds, device)
    rounds: list[dict[str, float]] = []
    try:
        for _ in range(arguments.rounds + 1):
            rounds.append({name: turn() for name, turn in turns.items()})
    except KeyboardInterrupt:
        print("Interrupted.", "These rounds were finished:" if rounds[1:] else "")
    if rounds[1:]:  # the first round warms up
        rates = {name: [measured[name] for measured in rounds[1:]] for name in turns}
        show(title, rates, len(rounds) - 1, device)
    if len(rounds) <= arguments.rounds:
        raise SystemExit(130)


def show(title: str, rates: dict[str, list[float]], rounds: int, device: torch.device) -> None:
    packages = [name for name in ("torch", "openvino", "onnxruntime", "nncf") if find_spec(name)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    machine = f"{torch.get_num_threads()} cores, {platform.machine()}"
    machine += f" {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        machine = f"{torch.cuda.get_device_name(device)}; {machine}"
    print(f"{title}, random weights; {machine}")
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
