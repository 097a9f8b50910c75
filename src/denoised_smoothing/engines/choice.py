"""The choice of engine and batch size for a pipeline."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.engines.comparison import KnownAnswers
from denoised_smoothing.engines.converted import CONVERTED, ConvertedEngine
from denoised_smoothing.engines.engine import Engine, cores, forward_size, processor
from denoised_smoothing.engines.locks import tracing
from denoised_smoothing.engines.pipeline import Pipeline, agrees, folded
from denoised_smoothing.engines.torch_engine import TorchEngine
from denoised_smoothing.errors import (
    ClassifierError,
    DenoisedSmoothingError,
    MissingExtraError,
    SettingError,
)
from denoised_smoothing.models.answers import labels_of
from denoised_smoothing.models.cache import Cache, ModelFiles, cache_key
from denoised_smoothing.models.fingerprints import fingerprint

TOLERANCE = 1e-3
"""``auto`` takes an engine whose float32 logits differ from torch's by at most this share of the
largest; labels must be the same."""
MEASURED_SECONDS = 0.4
"""How long each candidate is measured."""
COMPARED = 8
"""Noisy copies on which folding is checked: few, as they must fit into memory."""
REFERENCE = (EngineName.TORCH, Precision.FLOAT32)
"""The engine and precision with which others are compared."""
CALIBRATION_COPIES = 300
"""Noisy copies, at least, from which the ranges of int8 are taken."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, the copies of a forward pass, and notes for the user about the choice.

    ``known`` are copies that it answered before the count, to be compared during it.
    """

    engine: Engine
    forward: int
    notes: tuple[str, ...] = ()
    known: KnownAnswers | None = None


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
        forward: copies of a forward pass; None for a rule, or for ``auto`` what is fastest.

    Raises:
        SettingError: the engine or the precision is not available on this device.
        MissingExtraError: the requested engine is not installed.
        ClassifierError: the model cannot be converted for the requested engine.
    """
    notes: tuple[str, ...] = ()
    names = [engine]
    if engine is EngineName.AUTO:
        names, notes = _fast_engines(pipeline, precision, device)
    if names[0] in CONVERTED and len(names) == 1:
        CONVERTED[names[0]].check(precision, device, is_module=pipeline.is_module)
    shape = tuple(noisy(1).shape[1:])
    seen = getattr(pipeline.classifier, "network_size", None) or (0, 0)
    # An adapter may enlarge the images, and then the large ones fill the memory.
    rule = forward_size(max(math.prod(shape[1:]), math.prod(seen)), device)
    reference = TorchEngine(folded(pipeline, noisy(COMPARED)[:COMPARED]), device)
    candidates = _Candidates(pipeline, reference, noisy, precision, shape, rule)
    if engine is EngineName.AUTO and names != [EngineName.TORCH]:
        return candidates.fastest(names)
    made: Engine = reference
    size = forward or rule
    if (names[0], precision) != REFERENCE:
        made = candidates.make(names[0], size)
    if forward is None and device.type != "cpu":
        size = largest_batch(made, rule, noisy)
        if size < rule:
            notes += (f"{size} copies a forward pass: memory does not hold {rule}",)
    if made is not reference and pipeline.is_module:
        notes += candidates.compare_with_torch(made, size)
    return EngineChoice(made, size, notes)


def largest_batch(engine: Engine, forward: int, noisy: Noisy) -> int:
    """Return the copies of a forward pass that fit into memory, ``forward`` or less by halves.

    It is found before the first count, since the shape is recorded and must not change.

    Raises:
        ClassifierError: memory does not hold a single copy.
    """
    while True:
        try:
            engine.answer(noisy(forward)[:forward])
            return forward
        except torch.OutOfMemoryError as error:
            if engine.device.type == "cuda":
                torch.cuda.empty_cache()
            if forward == 1:
                raise ClassifierError(
                    f"The memory of {engine.device} does not hold the pipeline with a single copy: "
                    f"{error}. Free memory, or use a device with more of it."
                ) from error
            forward //= 2


def throughput(engine: Engine, copies: Float[Tensor, "b c h w"], seconds: float) -> float:
    """Return the copies a second that the engine answers, with all workers busy."""
    stop = 0.0

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() < stop:
            engine.answer(copies)
            done += len(copies)
        return done

    threads = engine.threads or torch.get_num_threads()
    with ThreadPoolExecutor(
        engine.workers, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        list(pool.map(lambda _: engine.answer(copies), range(engine.workers)))  # to warm up
        began = time.perf_counter()
        stop = began + seconds
        done = sum(pool.map(work, range(engine.workers)))
        return done / (time.perf_counter() - began)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _fast_engines(
    pipeline: Pipeline, precision: Precision, device: torch.device
) -> tuple[list[EngineName], tuple[str, ...]]:
    """Return the engines among which ``auto`` chooses, and why there are no more."""
    if device.type != "cpu":
        return [EngineName.TORCH], ()
    if precision is Precision.INT8:
        return [EngineName.OPENVINO], ()
    if not pipeline.is_module:
        return [EngineName.TORCH], (
            "engine torch: the classifier or the denoiser is no torch module, and cannot be "
            "converted for a faster engine",
        )
    fast = [EngineName.OPENVINO]
    if precision is Precision.FLOAT32:
        fast.append(EngineName.ONNXRUNTIME)
    installed = [name for name in fast if find_spec(name.value) is not None]
    if not installed:
        return [EngineName.TORCH], (
            "engine torch: pip install 'denoised-smoothing[openvino]' installs a faster one",
        )
    return [installed[0], EngineName.TORCH], ()


@dataclass
class _Candidates:
    """The engines that can execute one pipeline, for images of one shape [C, H, W].

    ``reference`` is torch in float32, with which the others are compared. ``rule`` is the number
    of copies in a forward pass unless another one is faster.
    """

    pipeline: Pipeline
    reference: TorchEngine
    noisy: Noisy
    precision: Precision
    shape: tuple[int, ...]
    rule: int

    @cached_property
    def key(self) -> str:
        """A hash of the pipeline, the shape of the images and the arithmetic.

        The pipeline's answer is part of it: code that no fingerprint sees may change an answer.
        """
        pipeline = self.pipeline
        answer = self._expected(self.noisy(COMPARED)[:COMPARED])
        held = (pipeline.classifier, pipeline.denoiser, pipeline.sigma, answer)
        versions = (torch.__version__, _version("denoised-smoothing"))
        return cache_key(fingerprint(held), *self.shape, self.precision.value, *versions)

    def fastest(self, names: list[EngineName]) -> EngineChoice:
        """Return the fastest of these engines, as measured now or remembered."""
        calibration = ""
        if self.precision is Precision.INT8:
            calibration = fingerprint(self.noisy(CALIBRATION_COPIES))
        versions = map(_version, ("openvino", "nncf", "onnxruntime"))
        here = cores(), platform.node(), processor(), *versions
        key = cache_key("choice", self.key, calibration, names, self.rule, *here)
        cache = Cache()
        known = cache.recall(key)
        if known is None:
            known = self._measured(names)
            # An engine that failed may work next time: a full disk or a missing package passes.
            if known.pop("settled"):
                cache.remember(key, known)
        forward = int(known["forward"])
        engine = self.make(EngineName(known["engine"]), forward)
        return EngineChoice(engine, forward, tuple(known["notes"]))

    def _measured(self, names: list[EngineName]) -> dict[str, Any]:
        """Return the fastest engine and batch size, and whether all engines worked."""
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
                        notes += (remark := self.compare_with_torch(engine, forward))
                        if remark and engine.precision is Precision.FLOAT32:
                            break
                    copies = self.noisy(forward)[:forward]
                    rates[name.value, forward] = throughput(engine, copies, MEASURED_SECONDS)
            except (ClassifierError, MissingExtraError, SettingError) as error:
                notes.append(f"not {name.value}: {error}")
                settled = False
        if not rates:
            raise ClassifierError("; ".join(notes))
        engine_name, forward = max(rates, key=lambda pair: rates[pair])
        return {"engine": engine_name, "forward": forward, "notes": notes, "settled": settled}

    def make(self, name: EngineName, forward: int) -> Engine:
        """Return the engine of that name for batches of ``forward`` copies."""
        if name in CONVERTED:
            kind = CONVERTED[name]
            return kind(self._convert(kind), (forward, *self.shape), self.precision)
        if (name, self.precision) == REFERENCE:
            return self.reference
        return TorchEngine(
            self.reference.pipeline, self.reference.device, self.precision,
            compiled=name is EngineName.TORCH_COMPILE,
        )  # fmt: skip

    def _convert(self, kind: type[ConvertedEngine]) -> ModelFiles:
        """Return the converted model, from the cache if it is there and intact."""
        kind.check(self.precision)
        calibration = None
        if self.precision is Precision.INT8:
            batches = -(-CALIBRATION_COPIES // self.rule)  # whole ones: the model takes no others
            copies = self.noisy(batches * self.rule)
            calibration = [part.numpy() for part in torch.split(copies, self.rule)]
        versions = (_version("nncf"), kind.version())
        key = cache_key(kind.name.value, *versions, self.key, self.rule, fingerprint(calibration))
        copies = self.noisy(self.rule)[: self.rule]
        try:
            with tracing(alone=True):
                return Cache().model(
                    key, lambda folder: kind.convert(self.pipeline, copies, folder, calibration)
                )
        except DenoisedSmoothingError:
            raise
        except Exception as error:
            # Errors of OpenVINO begin with places in its source.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            messages = [line for line in lines if not line.startswith("Exception from ")]
            raise ClassifierError(
                f"{kind.name.value} cannot convert this pipeline ({type(error).__name__}: "
                f"{next(iter(messages or lines), 'no message')}). Use --engine torch."
            ) from error

    def compare_with_torch(self, engine: Engine, forward: int) -> tuple[str, ...]:
        """Return a note if an engine's answers differ from those of the reference.

        A reduced precision is another classifier: the note says how often the labels are equal.

        Raises:
            ClassifierError: the engine cannot hold the labels.
        """
        other = self.noisy(2 * forward)[forward : 2 * forward]  # not those that were traced
        expected, answer = self._expected(other), engine.answer(other)
        if engine.name is EngineName.OPENVINO and expected.ndim == 1 and expected.max() >= 2**31:
            raise ClassifierError(
                f"Engine openvino computes labels in 32 bits, got label {int(expected.max())}. Use "
                "--engine torch or onnxruntime."
            )
        if engine.precision is not Precision.FLOAT32:
            share = float((labels_of(answer) == labels_of(expected)).float().mean())
            name = f"{engine.name.value} in {engine.precision.value}"
            return (f"{name} gives {share:.0%} of noisy copies the label that float32 gives",)
        # Neither like those: a branch that depends on the values was traced on one way only.
        unlike = (1 - other, other / 4)
        if agrees(answer, expected, TOLERANCE) and all(
            agrees(engine.answer(copies), self._expected(copies), TOLERANCE) for copies in unlike
        ):
            return ()
        far = f"its logits differ from torch's by more than {TOLERANCE:g} of the largest"
        return (f"{engine.name.value}: {far}",)

    def _expected(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        """Return the answer of the reference, in pieces, as float32 takes more memory."""
        return torch.cat([self.reference.answer(piece) for piece in torch.split(copies, COMPARED)])
