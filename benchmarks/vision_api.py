"""CIFAR-10 through a vision API: certified images, queries and cost of fixed and anytime plans.

    NO_PROXY=127.0.0.1 python benchmarks/vision_api.py --denoiser SPEC [--rows 20] [--photos SPEC]

A server on loopback serves ResNet-56 in the format of Amazon Rekognition. The client enlarges
images to 96 pixels, the server shrinks them to 32. n0 = 20 and n = 100 at sigma 0.12 and 0.25 are
the parameters of Salman et al. 2020, section 5.3. The anytime plan certifies the radii in the
table.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
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


class Hidden:
    """Return the scores of a network for an encoded image, shrunk to 32 pixels."""

    def __init__(self, spec: str) -> None:
        self._network, self._lock = load_classifier(spec), threading.Lock()

    def __call__(self, image: bytes) -> list[tuple[str, float]]:
        picture = PIL.Image.open(io.BytesIO(image)).resize((32, 32), PIL.Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1) / np.float32(255))
        with self._lock, torch.inference_mode():
            scores = self._network(pixels[None]).softmax(dim=1)[0].tolist()
        return sorted(zip(NAMES, scores, strict=True), key=lambda pair: -pair[1])


def measure(
    data: str, denoiser: str, sigma: float, plan: SamplingPlan, rows: int, resolution: int | None
) -> str:
    smoothed = SmoothedClassifier(load_classifier("aws?size=96"), sigma, load_denoiser(denoiser))
    classifier = smoothed.classifier
    classifier.settings = replace(classifier.settings, rate=None, in_flight=16)
    run = CertificationRun(
        smoothed, load_dataset(data), plan, 0.001, "aws?size=96", denoiser, name="run", seed=0,
        limit=rows, resolution=resolution,
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
    parser.add_argument("--denoiser", required=True)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--photos", help="denoiser of photographs, for a short run at 224 pixels")
    given = parser.parse_args()
    hidden = Hidden(f"cifar-resnet56:{SHARED}/data/cifar10_classifiers/resnet56.safetensors")
    anytime = Anytime(radii=(0.0625, 0.125, 0.25), max_n=1_000, n0=20, every=10)
    print(
        "| sigma | plan | certified | correct | r = 0.0625 | 0.125 | 0.25 | queries | cost | "
        "seconds |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with FakeVendor(hidden) as server:
        os.environ |= {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "secret-0123456789",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        for sigma in (0.12, 0.25):
            for plan in (FixedBudget(n0=20, n=100), anytime):
                data = f"parquet:{SHARED}/data/cifar10/test.parquet"
                print(measure(data, given.denoiser, sigma, plan, given.rows, None), flush=True)
        if given.photos:
            data = f"parquet:{SHARED}/data/photos/validation.parquet"
            plan = FixedBudget(n0=5, n=20)
            print(measure(data, given.photos, 0.25, plan, 3, 224), flush=True)


if __name__ == "__main__":
    main()
