"""Which engine executes a pipeline, and in batches of which size."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from denoised_smoothing.engines.converted import OnnxRuntimeEngine, OpenVinoEngine
from denoised_smoothing.engines.engine import (
    Engine,
    cores,
    forward_size,
    limit_threads,
    processor,
)
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
class EngineChoice:
    """An engine, the copies of a forward pass, and notes for the user about the choice."""

    engine: Engine
    forward: int
    notes: tuple[str, ...] = ()


Noisy = Callable[[int], Float[Tensor, "b c h w"]]
"""N noisy copies, to convert, check and calibrate with; none of those of a certificate."""


def choose_engine(
    pipeline: Pipeline,
    noisy: Noisy,
    *,
    engine: EngineName,
    precision: Precision = Precision.FLOAT32,
    device: torch.device,
    forward: int | None = None,
) -> EngineChoice:
    """Return the engine of that name; for ``auto`` the fastest that reproduces torch's logits.

    ``auto`` measures for a moment which engine and which batch size is fastest, and remembers it
    for this machine and model. Where a model cannot be converted, or the converted one gives
    other answers, it uses torch and says why.

    Args:
        pipeline: denoiser and classifier, on the device.
        noisy: makes noisy copies.
        engine, precision, device: as requested.
        forward: copies of a forward pass; None for a rule, or for ``auto`` what is fastest.

    Raises:
        SettingError: the engine or the precision is not available on this device.
        MissingExtraError: the requested engine is not installed.
        ClassifierError: the model cannot be converted for the requested engine.
    """
    shape = tuple(noisy(1).shape[1:])
    seen = getattr(pipeline.classifier, "network_size", None) or (0, 0)
    # An adapter may enlarge the images, and then the large ones fill the memory.
    rule = forward_size(max(math.prod(shape[1:]), math.prod(seen)), device)
    candidates = _Candidates(pipeline, noisy, precision, device, shape, rule)
    notes: tuple[str, ...] = ()
    if engine is EngineName.AUTO:
        names, notes = candidates.names()
        if names != [EngineName.TORCH]:
            return candidates.fastest(names)
        engine = EngineName.TORCH
    made = candidates.make(engine, size := forward or rule)
    if forward is None and device.type != "cpu":
        size, fewer = largest_batch(made, size, noisy)
        notes += fewer
    if made is not candidates.reference and pipeline.is_module:
        remark, _ = candidates.compare_with_torch(made, size)
        notes += remark
    return EngineChoice(made, size, notes)


def largest_batch(engine: Engine, forward: int, noisy: Noisy) -> tuple[int, tuple[str, ...]]:
    """Return the copies of a forward pass that fit into memory, and a note where they are fewer.

    From ``forward`` by halves, before the first count: the shape is recorded and must not change.

    Raises:
        ClassifierError: memory does not hold a single copy.
    """
    size = forward
    while True:
        try:
            engine.answer(noisy(size)[:size])
        except torch.OutOfMemoryError as error:
            if engine.device.type == "cuda":
                torch.cuda.empty_cache()
            if size == 1:
                raise ClassifierError(
                    f"The memory of {engine.device} does not hold the pipeline with a single copy: "
                    f"{error}. Free memory, or use a device with more of it."
                ) from error
            size //= 2
        else:
            break
    if size == forward:
        return size, ()
    return size, (f"{size} copies a forward pass: memory does not hold {forward}",)


def throughput(engine: Engine, copies: Float[Tensor, "b c h w"], seconds: float) -> float:
    """Return the copies a second that the engine answers, with all workers busy."""
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


def _first_line(error: Exception) -> str:
    """Return the first line with a message; errors of OpenVINO begin with places in its source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    messages = [line for line in lines if not line.startswith("Exception from ")]
    return next(iter(messages or lines), "no message").strip()


def _here() -> tuple[object, ...]:
    """Return what a measured choice depends on besides the model: machine and packages."""
    engines = ("openvino", "nncf", "onnxruntime")
    return cores(), platform.node(), processor(), *map(_version, engines)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@dataclass
class _Candidates:
    """The engines that can execute one pipeline, for images of one shape [C, H, W].

    ``rule`` is the number of copies in a forward pass unless another one is faster.
    """

    pipeline: Pipeline
    noisy: Noisy
    precision: Precision
    device: torch.device
    shape: tuple[int, ...]
    rule: int

    @cached_property
    def reference(self) -> TorchEngine:
        """Torch in float32, with which the others are compared."""
        light = folded(self.pipeline, self.noisy(COMPARED)[:COMPARED])
        return TorchEngine(light, self.device)

    @cached_property
    def key(self) -> str:
        """A hash of the pipeline, the shape of the images and the arithmetic.

        The pipeline's answer is part of it: code that no fingerprint sees may change an answer.
        """
        pipeline = self.pipeline
        answer = self._expected(self.noisy(COMPARED)[:COMPARED]) if pipeline.is_module else None
        held = (pipeline.classifier, pipeline.denoiser, pipeline.sigma, answer)
        versions = (torch.__version__, _version("denoised-smoothing"))
        return cache_key(fingerprint(held), *self.shape, self.precision.value, *versions)

    def names(self) -> tuple[list[EngineName], tuple[str, ...]]:
        """Return the engines among which ``auto`` chooses, and why there are no more."""
        if self.device.type != "cpu":
            return [EngineName.TORCH], ()
        if self.precision is Precision.INT8:
            return [EngineName.OPENVINO], ()
        if not self.pipeline.is_module:
            return [EngineName.TORCH], (
                "engine torch: the classifier or the denoiser is no torch module, and cannot be "
                "converted for a faster engine",
            )
        fast = [EngineName.OPENVINO, EngineName.ONNXRUNTIME]
        if self.precision is not Precision.FLOAT32:
            fast = fast[:1]
        installed = [name for name in fast if find_spec(name.value) is not None]
        if not installed:
            return [EngineName.TORCH], (
                "engine torch: pip install 'denoised-smoothing[openvino]' installs a faster one",
            )
        return [installed[0], EngineName.TORCH], ()

    def fastest(self, names: list[EngineName]) -> EngineChoice:
        """Return the fastest of these engines, as measured now or remembered."""
        calibration = ""
        if self.precision is Precision.INT8:
            calibration = fingerprint(self.noisy(CALIBRATION_COPIES))
        key = cache_key("choice", self.key, calibration, names, self.rule, *_here())
        known = recall(key)
        if known is None:
            known, settled = self._measured(names)
            if settled:
                remember(key, known)
        forward = int(known["forward"])
        engine = self.make(EngineName(known["engine"]), forward)
        return EngineChoice(engine, forward, tuple(known["notes"]))

    def _measured(self, names: list[EngineName]) -> tuple[dict[str, Any], bool]:
        """Return the fastest engine and batch size, as plain values, and whether to remember them.

        An engine that failed may work next time: a full disk or a missing package passes.
        """
        notes: list[str] = []
        settled = True
        rates: dict[tuple[str, int], float] = {}
        sizes = {max(1, self.rule // 2), self.rule, 2 * self.rule}
        for name in names:
            measured = [self.rule] if name is EngineName.ONNXRUNTIME else sorted(sizes)
            try:
                for forward in measured:
                    engine = self.make(name, forward)
                    if forward == measured[0] and engine is not self.reference:
                        remark, agreed = self.compare_with_torch(engine, forward)
                        notes += remark
                        if not agreed:
                            break
                    copies = self.noisy(forward)[:forward]
                    rates[name.value, forward] = throughput(engine, copies, MEASURED_SECONDS)
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

    def make(self, name: EngineName, forward: int) -> Engine:
        """Return the engine of that name for batches of ``forward`` copies."""
        if name is EngineName.TORCH and self.precision is Precision.FLOAT32:
            return self.reference
        if name in (EngineName.TORCH, EngineName.TORCH_COMPILE):
            kind = TorchEngine if name is EngineName.TORCH else CompiledTorchEngine
            return kind(self.reference.pipeline, self.device, self.precision)
        if self.device.type != "cpu":
            raise SettingError(
                f"Engine {name.value} runs on a CPU, got device {self.device}. Use --engine torch "
                "or torch-compile, or --device cpu."
            )
        if not self.pipeline.is_module:
            raise ClassifierError(
                f"Engine {name.value} converts torch modules, and the classifier or the denoiser "
                "is another callable. Use --engine torch."
            )
        converter = OpenVinoEngine if name is EngineName.OPENVINO else OnnxRuntimeEngine
        return converter(self._convert(converter), (forward, *self.shape), self.precision)

    def _convert(self, kind: type[OpenVinoEngine | OnnxRuntimeEngine]) -> Path:
        """Return the folder with the converted model, from the cache if it is there."""
        kind.check(self.precision)
        calibration = None
        if self.precision is Precision.INT8:
            batches = -(-CALIBRATION_COPIES // self.rule)  # whole ones: the model takes no others
            copies = self.noisy(batches * self.rule)
            calibration = [part.numpy() for part in torch.split(copies, self.rule)]
        key = cache_key(
            kind.name.value, _version("nncf"), kind.version(), self.key, self.rule,
            fingerprint(calibration),
        )  # fmt: skip
        copies = self.noisy(self.rule)[: self.rule]
        try:
            with tracing(alone=True):
                return cached_folder(
                    key, lambda folder: kind.convert(self.pipeline, copies, folder, calibration)
                )
        except DenoisedSmoothingError:
            raise
        except Exception as error:
            raise ClassifierError(
                f"{kind.name.value} cannot convert this pipeline "
                f"({type(error).__name__}: {_first_line(error)}). Use --engine torch."
            ) from error

    def compare_with_torch(self, engine: Engine, forward: int) -> tuple[tuple[str, ...], bool]:
        """Return a note on how an engine's answers compare with the reference, and if they agree.

        A reduced precision is another classifier, and always agrees.
        """
        other = self.noisy(2 * forward)[forward : 2 * forward]  # not those that were traced
        expected, answer = self._expected(other), engine.answer(other)
        if engine.precision is not Precision.FLOAT32:
            labels = [a.argmax(1) if a.ndim == 2 else a for a in (answer, expected)]
            share = float((labels[0] == labels[1]).float().mean())
            name = f"{engine.name.value} in {engine.precision.value}"
            return (f"{name} gives {share:.0%} of noisy copies the label that float32 gives",), True
        # Neither like those: a branch that depends on the values was traced on one way only.
        unlike = (1 - other, other / 4)
        if agrees(answer, expected, TOLERANCE) and all(
            agrees(engine.answer(copies), self._expected(copies), TOLERANCE) for copies in unlike
        ):
            return (), True
        far = f"its logits differ from torch's by more than {TOLERANCE:g} of the largest"
        return (f"{engine.name.value}: {far}",), False

    def _expected(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        """Return the answer of the reference, in pieces, as float32 takes more memory."""
        return torch.cat([self.reference.answer(piece) for piece in torch.split(copies, COMPARED)])
