"""Which engine executes a pipeline, and in batches of which size."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.engines.cache import cache_key, cached_folder, recall, remember
from denoised_smoothing.engines.converted import (
    OnnxRuntimeEngine,
    OpenVinoEngine,
)
from denoised_smoothing.engines.engine import Engine, cores, forward_size, processor
from denoised_smoothing.engines.locks import tracing
from denoised_smoothing.engines.pipeline import Pipeline, agrees, folded
from denoised_smoothing.engines.torch_engine import CompiledTorchEngine, TorchEngine
from denoised_smoothing.errors import (
    ClassifierError,
    DenoisedSmoothingError,
    MissingExtraError,
    SettingError,
)
from denoised_smoothing.models.fingerprints import fingerprint

TOLERANCE = 1e-3
"""``auto`` takes an engine whose float32 logits differ from torch's by at most this share of the
largest; labels must be the same."""
MEASURED_SECONDS = 0.4
"""How long each candidate is measured."""
COMPARED = 8
"""Noisy copies on which folding is checked: few, as they must fit into memory."""
CALIBRATION_COPIES = 300
"""Noisy copies, at least, from which the ranges of int8 are taken."""


@dataclass(frozen=True)
class Request:
    """What is asked for: an engine, a precision, and where."""

    engine: EngineName
    precision: Precision
    device: torch.device
    forward: int | None = None
    """Copies of a forward pass; None for a rule, or for ``auto`` what is fastest."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, the copies of a forward pass, and what is to be told about the choice."""

    engine: Engine
    forward: int
    notes: tuple[str, ...] = ()


Noisy = Callable[[int], Float[Tensor, "b c h w"]]
"""So many noisy copies, to convert, check and calibrate with; none of those of a certificate."""


def choose_engine(pipeline: Pipeline, request: Request, noisy: Noisy) -> EngineChoice:
    """The engine that was asked for; for ``auto`` the fastest that reproduces torch's logits.

    ``auto`` measures for a moment which engine and which batch size is fastest, and remembers it
    for this machine and model. Where a model cannot be converted, or answers something else when
    it is, it stays with torch and says why.

    Raises:
        SettingError: the engine or the precision is not to be had on this device.
        MissingExtraError: the engine that was named is not installed.
        ClassifierError: the model cannot be converted for the engine that was named.
    """
    maker = _Maker(pipeline, request, noisy)
    if request.engine is not EngineName.AUTO:
        forward = request.forward or maker.rule
        engine = maker.make(request.engine, forward)
        notes: tuple[str, ...] = ()
        if request.forward is None and request.device.type != "cpu":
            forward, notes = largest_batch(engine, forward, noisy)
        remark, _ = maker.compare_with_torch(engine, forward)
        return EngineChoice(engine, forward, (*notes, remark) if remark else notes)
    names, notes = _candidates(pipeline, request)
    if names == [EngineName.TORCH]:  # nothing to choose from: start at once
        torch_only = Request(EngineName.TORCH, request.precision, request.device, request.forward)
        choice = choose_engine(pipeline, torch_only, noisy)
        return replace(choice, notes=(*notes, *choice.notes))
    key = cache_key("choice", maker.key, maker.calibration, names, maker.rule, *_here())
    known = recall(key)
    if known is None:
        known, settled = _measured(maker, names)
        if settled:
            remember(key, known)
    forward = int(known["forward"])
    return EngineChoice(
        maker.make(EngineName(known["engine"]), forward), forward, tuple(known["notes"])
    )


def largest_batch(engine: Engine, forward: int, noisy: Noisy) -> tuple[int, tuple[str, ...]]:
    """The copies of a forward pass that memory holds, and what to tell of it.

    From ``forward`` by halves: the shape is recorded, so it must not change on the way.

    Raises:
        ClassifierError: it does not hold a single copy.
    """
    asked = forward
    while True:
        try:
            engine.answer(noisy(forward)[:forward])
        except torch.OutOfMemoryError as error:
            if engine.device.type == "cuda":
                torch.cuda.empty_cache()
            if forward == 1:
                raise ClassifierError(
                    f"the memory of {engine.device} does not hold the pipeline with a single copy: "
                    f"{error}; free memory, or take a device with more of it"
                ) from error
            forward //= 2
        else:
            break
    if forward == asked:
        return forward, ()
    return forward, (f"{forward} copies a forward pass: memory does not hold {asked}",)


def throughput(engine: Engine, copies: Float[Tensor, "b c h w"], seconds: float) -> float:
    """Copies a second that the engine answers in batches like ``copies``, all workers busy."""
    stop = time.perf_counter()

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() < stop:
            engine.answer(copies)
            done += len(copies)
        return done

    with ThreadPoolExecutor(engine.workers, initializer=partial(limit_threads, engine)) as pool:
        list(pool.map(work, range(engine.workers)))  # each thread once, to warm up
        list(pool.map(lambda _: engine.answer(copies), range(engine.workers)))
        began = time.perf_counter()
        stop = began + seconds
        done = sum(pool.map(work, range(engine.workers)))
        return done / (time.perf_counter() - began)


def limit_threads(engine: Engine) -> None:
    """In a worker: torch gets the threads that the engine wants it to have."""
    if engine.threads is not None:
        torch.set_num_threads(engine.threads)


def _candidates(pipeline: Pipeline, request: Request) -> tuple[list[EngineName], tuple[str, ...]]:
    """What ``auto`` chooses from, and why there is no more."""
    if request.device.type != "cpu":
        return [EngineName.TORCH], ()
    if request.precision is Precision.INT8:
        return [EngineName.OPENVINO], ()
    if not pipeline.is_module:
        return [EngineName.TORCH], (
            "engine torch: the classifier or the denoiser is no torch module, and cannot be "
            "converted for a faster one",
        )
    fast = [EngineName.OPENVINO, EngineName.ONNXRUNTIME]
    if request.precision is not Precision.FLOAT32:
        fast = fast[:1]
    installed = [name for name in fast if find_spec(name.value) is not None]
    if not installed:
        return [EngineName.TORCH], (
            "engine torch: pip install 'denoised-smoothing[openvino]' brings a faster one",
        )
    return [installed[0], EngineName.TORCH], ()


def _measured(maker: _Maker, names: list[EngineName]) -> tuple[dict[str, Any], bool]:
    """The fastest engine and batch size, as plain values, and whether it stays so.

    Where an engine failed, it may be there next time: a full disk or a missing package passes.
    """
    notes: list[str] = []
    settled = True
    rates: dict[tuple[str, int], float] = {}
    for name in names:
        sizes = {maker.rule} if name is EngineName.ONNXRUNTIME else maker.sizes
        try:
            for forward in sorted(sizes):
                engine = maker.make(name, forward)
                if forward == min(sizes):
                    remark, agrees_with_torch = maker.compare_with_torch(engine, forward)
                    notes.extend([remark] if remark else [])
                    if not agrees_with_torch:
                        break
                rates[name.value, forward] = throughput(
                    engine, maker.noisy(forward)[:forward], MEASURED_SECONDS
                )
        except (ClassifierError, MissingExtraError, SettingError) as error:
            notes.append(f"not {name.value}: {error}")
            settled = False
    if not rates:
        raise ClassifierError("; ".join(notes))
    engine_name, forward = max(rates, key=lambda pair: rates[pair])
    return {
        "engine": engine_name,
        "forward": forward,
        "notes": notes,
        "rates": {f"{name} {size}": round(rate, 1) for (name, size), rate in rates.items()},
    }, settled


def _first_line(error: Exception) -> str:
    """The first line that says something; those of OpenVINO begin with places in its source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Exception from ")]
    return next(iter(told or lines), "no message").strip()


def _here() -> tuple[object, ...]:
    """What a measured choice depends on beside the model: this machine and its packages."""
    engines = ("openvino", "nncf", "onnxruntime")
    return cores(), platform.node(), processor(), *map(_version, engines)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


class _Maker:
    """Makes engines of one pipeline, on demand."""

    def __init__(self, pipeline: Pipeline, request: Request, noisy: Noisy) -> None:
        self.pipeline, self.request, self.noisy = pipeline, request, noisy
        self.example = noisy(1)[:1]
        seen = getattr(pipeline.classifier, "network_size", None) or (0, 0)
        # An adapter may enlarge the images, and then that is what fills the memory.
        pixels = max(math.prod(self.example.shape[2:]), math.prod(seen))
        self.rule = forward_size(pixels, request.device)

    @property
    def sizes(self) -> set[int]:
        """Batches that are measured."""
        return {max(1, self.rule // 2), self.rule, 2 * self.rule}

    @cached_property
    def key(self) -> str:
        """Of the pipeline, the form of its images and the arithmetic.

        What it answers is part of it: what no fingerprint sees may still change an answer.
        """
        pipeline = self.pipeline
        answer = self._expected(self.noisy(COMPARED)[:COMPARED]) if pipeline.is_module else None
        held = (pipeline.classifier, pipeline.denoiser, pipeline.sigma, answer)
        form = (*self.example.shape[1:], self.request.precision.value)
        ours = _version("denoised-smoothing")
        return cache_key(fingerprint(held), *form, torch.__version__, ours)

    @cached_property
    def calibration(self) -> str:
        """Of what int8 takes its ranges from."""
        if self.request.precision is not Precision.INT8:
            return ""
        return fingerprint(self.noisy(CALIBRATION_COPIES))

    @cached_property
    def _folded(self) -> Pipeline:
        return folded(self.pipeline, self.noisy(COMPARED)[:COMPARED])

    def make(self, name: EngineName, forward: int) -> Engine:
        """The engine of that name for batches of ``forward`` copies."""
        precision, device = self.request.precision, self.request.device
        if name in (EngineName.TORCH, EngineName.TORCH_COMPILE):
            kind = TorchEngine if name is EngineName.TORCH else CompiledTorchEngine
            return kind(self._folded, device, precision)
        if device.type != "cpu":
            raise SettingError(
                f"{name.value} runs on a CPU here, not on {device}; take --engine torch or "
                "torch-compile, or --device cpu"
            )
        if not self.pipeline.is_module:
            raise ClassifierError(
                f"{name.value} converts torch modules, and classifier or denoiser is another "
                "callable; take --engine torch"
            )
        shape = (forward, *self.example.shape[1:])
        if name is EngineName.OPENVINO:
            return OpenVinoEngine(self._convert(OpenVinoEngine), shape, precision)
        return OnnxRuntimeEngine(self._convert(OnnxRuntimeEngine), shape, precision)

    def _convert(self, kind: type[OpenVinoEngine | OnnxRuntimeEngine]) -> Path:
        """The folder with the converted model, from the cache if it is there."""
        kind.check(self.request.precision)
        calibration = None
        if self.request.precision is Precision.INT8:
            batches = -(-CALIBRATION_COPIES // self.rule)  # whole ones: the model takes no others
            copies = self.noisy(batches * self.rule)
            calibration = [part.numpy() for part in torch.split(copies, self.rule)]
        key = cache_key(
            kind.name.value, _version("nncf"), kind.version(), self.key, self.rule,
            fingerprint(calibration),
        )  # fmt: skip
        copies = self.noisy(self.rule)[: self.rule]
        try:
            with tracing.alone():
                return cached_folder(
                    key, lambda folder: kind.convert(self.pipeline, copies, folder, calibration)
                )
        except DenoisedSmoothingError:
            raise
        except Exception as error:
            raise ClassifierError(
                f"{kind.name.value} cannot convert this pipeline "
                f"({type(error).__name__}: {_first_line(error)}); take "
                "--engine torch"
            ) from error

    def compare_with_torch(self, engine: Engine, forward: int) -> tuple[str | None, bool]:
        """What is to be told of how its answers compare with torch's in float32, and if they agree.

        Of a reduced precision, which is another classifier, nothing is asked.
        """
        same = isinstance(engine, TorchEngine) and engine.precision is Precision.FLOAT32
        if same or not self.pipeline.is_module:
            return None, True
        share, close = self._compare(engine, forward)
        if engine.precision is not Precision.FLOAT32:
            name = f"{engine.name.value} in {engine.precision.value}"
            return f"{name} gives {share:.0%} of noisy copies the label that float32 gives", True
        if close:
            return None, True
        far = f"its logits differ from torch's by more than {TOLERANCE:g} of the largest"
        return f"{engine.name.value}: {far}", False

    def _compare(self, engine: Engine, forward: int) -> tuple[float, bool]:
        """The share of equal labels, and whether the logits agree to within the tolerance."""
        other = self.noisy(2 * forward)[forward : 2 * forward]  # not those that were traced
        expected, answer = self._expected(other), engine.answer(other)
        labels = [a.argmax(1) if a.ndim == 2 else a for a in (answer, expected)]
        share = float((labels[0] == labels[1]).float().mean())
        # Neither like those: what takes a turn by the values that it sees was traced on one way.
        strange = (1 - other, other / 4)
        close = agrees(answer, expected, TOLERANCE) and all(
            agrees(engine.answer(copies), self._expected(copies), TOLERANCE) for copies in strange
        )
        return share, close

    def _expected(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        """Torch's answer in float32, in pieces, as that may not fit where less precision does."""
        torch_engine = TorchEngine(self._folded, self.request.device)
        pieces = torch.split(copies, COMPARED)
        return torch.cat([torch_engine.answer(piece) for piece in pieces])
