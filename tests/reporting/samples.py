"""Hand-made results, and a store that holds what it is given."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from PIL import Image

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.reporting.results import ImageResult, RunResults
from denoised_smoothing.store import RefusedImage

N0, N = 10, 1000


@dataclass(frozen=True)
class FakeRun:
    name: str
    settings: dict[str, Any]
    seed: int = 7
    info: dict[str, Any] = field(default_factory=dict)
    created: datetime = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    refused: tuple[RefusedImage, ...] = ()

    @property
    def label_names(self) -> dict[int, str]:
        return dict(enumerate(self.info.get("label_names") or ()))


@dataclass(frozen=True)
class FakeImage:
    index: int
    image_id: str
    label: int | None
    counts: dict[Stage, LabelCounts]
    seconds: float = 0.5
    finished: bool = True
    digest: str = "e" * 64


@dataclass(frozen=True)
class FakeExample:
    image_id: str
    kind: str
    position: int
    png: bytes


@dataclass
class FakeStore:
    content: dict[str, tuple[FakeRun, list[FakeImage], list[FakeExample]]]

    def run(self, name: str) -> FakeRun:
        return self.content[name][0]

    def images(self, name: str) -> list[FakeImage]:
        return self.content[name][1]

    def stream_images(self, name: str) -> Iterator[FakeImage]:
        return iter(sorted(self.images(name), key=attrgetter("index")))

    def examples(self, name: str) -> list[FakeExample]:
        return self.content[name][2]


def fake_run(name: str = "a", **changes: Any) -> FakeRun:
    info = {key: changes.pop(key) for key in ("method", "label_names") if key in changes}
    settings = {
        "data": "digits",
        "classifier": "python:mine:build",
        "denoiser": "none",
        "sigma": 0.5,
        "alpha": 0.001,
        "plan": FixedBudget(N0, N).to_dict(),
        "noise": "grid",
        "dimension": 64,
        "resolution": None,
        "stride": 1,
        "engine": "torch",
        "precision": "float32",
        "forward_shape": [64, 1, 8, 8],
        "processor": "cpu",
        "data_fingerprint": "d",
        "classifier_fingerprint": "c" * 64,
        "denoiser_fingerprint": "d" * 64,
    }
    return FakeRun(
        name,
        settings | changes,
        info={"versions": {"torch": "2.0"}, "command": "certify digits"} | info,
    )


def votes(index: int, counts: tuple[int, ...], failed: int = 0) -> dict[Stage, LabelCounts]:
    """N copies in the estimation stage, and N0 that agree on the most frequent label."""
    image_id = f"image-{index}"
    estimation = LabelCounts("a", image_id, Stage.ESTIMATION, counts, failed)
    top = estimation.top() or 0
    selection = LabelCounts("a", image_id, Stage.SELECTION, (0,) * top + (N0,))
    return {Stage.SELECTION: selection, Stage.ESTIMATION: estimation}


def image(
    index: int, true_label: int | None, label: int | None, radius: float, seconds: float = 0.5
) -> ImageResult:
    counts = votes(index, (0, N))
    certificate = Certificate(
        label=label,
        radius=radius,
        lower_bound=0.912345678,
        plan=FixedBudget(N0, N),
        parameters=SmoothingParameters(sigma=0.5, alpha=0.001, dimension=64, seed=7),
        selection=counts[Stage.SELECTION],
        counts=counts[Stage.ESTIMATION],
    )
    return ImageResult(index, f"image-{index}", true_label, certificate, seconds)


def results(*images: ImageResult, unfinished: int = 0, **changes: Any) -> RunResults:
    return RunResults(fake_run(**changes), images, unfinished)


def png(size: int = 8, value: int = 128) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (size, size), value).save(buffer, "PNG")
    return buffer.getvalue()
