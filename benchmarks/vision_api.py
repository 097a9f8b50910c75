"""Images through a vision API: certified images, queries and cost of fixed and anytime plans.

    NO_PROXY=127.0.0.1 python benchmarks/vision_api.py photos [--denoiser photo] [--rows 12]
    NO_PROXY=127.0.0.1 python benchmarks/vision_api.py cifar10 [--denoiser cifar10] [--rows 20]

A server on loopback answers in the format of Amazon Rekognition: EfficientNet-Lite0 for the
photographs of the package, ResNet-56 for CIFAR-10, whose images the client enlarges to 96 pixels
and the server shrinks to 32. n0 = 20 and n = 100 at sigma 0.12 and 0.25 are the parameters of
Salman et al. 2020, section 5.3. The anytime plan certifies the radii in the table.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from denoised_smoothing import (
    Anytime,
    CertificationRun,
    FixedBudget,
    SamplingPlan,
    SmoothedClassifier,
    Store,
    load_classifier,
    load_dataset,
    load_denoiser,
    load_results,
)
from denoised_smoothing.remote.log import StoreLog

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("DENOISED_SMOOTHING_SHARED", ROOT.parent / "shared"))
sys.path.insert(0, str(ROOT / "tests" / "remote"))

from fake import KEY, FakeVendor  # noqa: E402

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TOP = 10
"""Labels of an answer."""


@dataclass(frozen=True)
class Case:
    """Images, and the classifier behind the API with the side of its images."""

    data: str
    api: str
    classifier: str
    side: int
    names: Sequence[str] | None = None


CASES = {
    "photos": Case("photos", "aws", "efficientnet-lite0", 224),
    "cifar10": Case(
        f"parquet:{SHARED}/data/cifar10/test.parquet",
        "aws?size=96",
        f"cifar-resnet56:{SHARED}/data/cifar10_classifiers/resnet56.safetensors",
        32,
        NAMES,
    ),
}


class Hidden:
    """Return the best labels of a network for an encoded image, and their scores."""

    def __init__(self, case: Case) -> None:
        self._network, self._lock = load_classifier(case.classifier), threading.Lock()
        self._side, self._names = case.side, case.names or self._network.label_names

    def __call__(self, image: bytes) -> list[tuple[str, float]]:
        size = (self._side, self._side)
        picture = PIL.Image.open(io.BytesIO(image)).resize(size, PIL.Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1) / np.float32(255))
        with self._lock, torch.inference_mode():
            best = self._network(pixels[None]).softmax(dim=1)[0].topk(TOP)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self._names[label], score) for label, score in pairs]


def measure(case: Case, denoiser: str, sigma: float, plan: SamplingPlan, rows: int) -> str:
    smoothed = SmoothedClassifier(load_classifier(case.api), sigma, load_denoiser(denoiser))
    classifier = smoothed.classifier
    classifier.settings = replace(classifier.settings, rate=None, in_flight=16)
    run = CertificationRun(
        smoothed, load_dataset(case.data), plan, 0.001, case.api, denoiser, name="run", seed=0,
        limit=rows,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s.sqlite") as store:
        began = time.perf_counter()
        run.execute(store)
        seconds = time.perf_counter() - began
        images = load_results(store, "run").images
        spent = StoreLog(store, "run").spending()
    certified = [image for image in images if image.predicted is not None]
    cells = [
        sum(i.radius >= r and i.predicted is not None for i in images)
        for r in (0.0625, 0.125, 0.25)
    ]
    correct = sum(image.correct for image in images)
    kind = (
        f"fixed {plan.n0} + {plan.n}" if isinstance(plan, FixedBudget) else "anytime, 1,000 at most"
    )
    return (
        f"| {sigma} | {kind} | {len(certified)} | {correct} | {' | '.join(map(str, cells))} | "
        f"{spent.queries:,} | ${spent.max_cost:.2f} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--denoiser", help="spec; of photos photo, of cifar10 cifar10")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--plan", choices=["fixed", "anytime"], help="only this plan")
    parser.add_argument("--sigma", type=float, action="append", help="0.12 and 0.25 by default")
    given = parser.parse_args()
    case = CASES[given.case]
    denoiser = given.denoiser or {"photos": "photo", "cifar10": "cifar10"}[given.case]
    rows = given.rows or {"photos": 12, "cifar10": 20}[given.case]
    plans = {
        "fixed": FixedBudget(n0=20, n=100),
        "anytime": Anytime(radii=(0.0625, 0.125, 0.25), max_n=1_000, n0=20, every=10),
    }
    asked = list(plans) if given.plan is None else [given.plan]
    print(
        "| sigma | plan | certified | correct | r = 0.0625 | 0.125 | 0.25 | queries | cost | "
        "seconds |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with FakeVendor(Hidden(case)) as server:
        os.environ |= {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "secret-0123456789",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        for sigma, name in product(given.sigma or (0.12, 0.25), asked):
            print(measure(case, denoiser, sigma, plans[name], rows), flush=True)


if __name__ == "__main__":
    main()
