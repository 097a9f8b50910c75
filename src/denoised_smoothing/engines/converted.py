"""Engines that hold the pipeline as a converted model: OpenVINO and ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.engines.engine import Engine, cores
from denoised_smoothing.engines.onnx_files import external_files
from denoised_smoothing.engines.pipeline import Pipeline, TraceablePipeline
from denoised_smoothing.errors import (
    ClassifierError,
    MissingExtraError,
    SettingError,
    WeightsError,
    raised_as,
)
from denoised_smoothing.models.cache import ModelFiles

_FIRST_USE = threading.Lock()

Batches = Sequence[np.ndarray]
_CPU = torch.device("cpu")


_TALKATIVE = ("nncf", "onnx_ir", "onnxscript", "openvino", "torch", "torch.export", "torch.onnx")
"""Loggers of the converters."""


class ConvertedEngine(Engine):
    """A converted model, compiled for batches of one shape; each thread has its own copy.

    Args:
        model: the files that ``convert`` wrote, which must be checked.
        shape: of a batch, [B, C, H, W].
        precision: one of ``precisions``.

    Raises:
        SettingError: the engine does not have this precision.
        MissingExtraError: its package is not installed.
    """

    precisions: ClassVar[tuple[Precision, ...]]

    def __init__(self, model: ModelFiles, shape: Sequence[int], precision: Precision) -> None:
        self.check(precision)
        self.device, self.precision = _CPU, precision
        self.folder, self.shape = model.folder, tuple(shape)
        self.model_digest = model.digest
        self.workers = cores() + 1  # one makes noise while the others compute
        self.threads = 1
        self._own = threading.local()
        self._compile(model.contents)

    def answer(self, copies: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        if tuple(copies.shape) != self.shape:
            raise ClassifierError(
                f"This model was converted for batches of shape {list(self.shape)}, got "
                f"{list(copies.shape)}. Use images of that size."
            )
        what = f"engine {self.name.value} cannot run the model"
        with raised_as(ClassifierError, what, "Use --engine torch, or convert the model again."):
            if not hasattr(self._own, "infer"):
                self._own.infer = self._worker()
            return torch.from_numpy(np.array(self._own.infer(copies.contiguous().numpy())))

    def identity(self) -> dict[str, str]:
        return {**super().identity(), "model_digest": self.model_digest}

    @classmethod
    def check(
        cls, precision: Precision, device: torch.device = _CPU, *, is_module: bool = True
    ) -> None:
        """Refuse what this engine cannot execute, before any work.

        Raises:
            SettingError: it does not have the precision, or does not run on the device.
            ClassifierError: the pipeline is not made of modules.
        """
        if device.type != "cpu":
            raise SettingError(
                f"Engine {cls.name.value} runs on a CPU, got device {device}. Use --engine torch "
                "or torch-compile, or --device cpu."
            )
        if not is_module:
            raise ClassifierError(
                f"Engine {cls.name.value} converts torch modules, and the classifier or the "
                "denoiser is another callable. Use --engine torch."
            )
        if precision not in cls.precisions:
            raise SettingError(
                f"Engine {cls.name.value} does not compute in {precision.value} on a CPU. Use "
                f"{' or '.join(cls.precisions)}, or another engine."
            )

    @classmethod
    def version(cls) -> str:
        return str(_package(cls.name.value).__version__)

    @classmethod
    @abstractmethod
    def convert(
        cls, pipeline: Pipeline, copies: Tensor, folder: Path, calibration: Batches | None = None
    ) -> None:
        """Write the pipeline for batches like ``copies`` [B, C, H, W] to a folder.

        With ``calibration``, batches of noisy copies that give the ranges, it is in int8
        (post-training quantisation by NNCF).
        """

    @abstractmethod
    def _compile(self, files: Mapping[str, bytes]) -> None:
        """Load the model from the contents of its files.

        Raises:
            WeightsError: it is no such model, or one for other images.
        """

    def _refuse(self, got: str) -> NoReturn:
        raise WeightsError(
            f"A model for {self.name.value} must take one batch of shape {list(self.shape)}, from "
            f"its own files, got {got} in {self.folder}. Convert or copy it again."
        )

    @abstractmethod
    def _worker(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that answers batches in one thread."""


class OpenVinoEngine(ConvertedEngine):
    """OpenVINO on a CPU, with one stream and one thread per core.

    One thread computes a batch, so its last bits do not depend on the number of threads.
    """

    name = EngineName.OPENVINO
    precisions = (Precision.FLOAT32, Precision.BFLOAT16, Precision.INT8)

    @classmethod
    def convert(
        cls, pipeline: Pipeline, copies: Tensor, folder: Path, calibration: Batches | None = None
    ) -> None:
        openvino = _package("openvino")
        with _quiet(), torch.no_grad():
            model = openvino.convert_model(TraceablePipeline(pipeline), example_input=copies)
            model.reshape(list(copies.shape))
            if calibration is not None:
                nncf = _package("nncf", "int8", "the precision int8")
                nncf.set_log_level(logging.ERROR)
                data = nncf.Dataset(list(calibration))
                model = nncf.quantize(model, data, subset_size=len(calibration))
            # Names of nodes count up in a process. By their place, the same pipeline is the same
            # file whenever and wherever it is converted.
            model.set_friendly_name("pipeline")
            for number, node in enumerate(model.get_ordered_ops()):
                node.set_friendly_name(f"{node.get_type_name()}_{number}")
            openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)

    def _compile(self, files: Mapping[str, bytes]) -> None:
        reduced = self.precision is Precision.BFLOAT16
        settings = {
            "NUM_STREAMS": cores(),
            "INFERENCE_NUM_THREADS": cores(),
            "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
            "ENABLE_CPU_PINNING": False,
        }
        openvino = _package("openvino")
        with _FIRST_USE:  # OpenVINO deadlocks if two threads meet numpy's types first at once
            openvino.Tensor(np.zeros(1, np.float32)).get_element_type().to_dtype()
        core = openvino.Core()
        if not files["model.xml"].startswith((b"<?xml", b"<net")):  # of any other kind of model
            self._refuse("no XML")
        model = core.read_model(files["model.xml"], files["model.bin"])
        if len(model.inputs) != 1:
            self._refuse(f"{len(model.inputs)} inputs")
        stated = [
            side.get_length() if side.is_static else None for side in model.inputs[0].partial_shape
        ]
        if not _fits(self.shape[1:], stated[1:]):  # it may be reshaped to other batches alone
            self._refuse(f"an input of shape {stated}")
        model.reshape(list(self.shape))
        self._model = core.compile_model(model, "CPU", settings)
        used = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if reduced and used != "bf16":
            raise SettingError(
                f"Engine openvino computes in {used} on this processor, not in bfloat16. Use "
                "float32 or int8."
            )

    def _worker(self) -> Callable[[np.ndarray], np.ndarray]:
        request = self._model.create_infer_request()
        return lambda copies: request.infer([copies], share_inputs=True)[0]


class OnnxRuntimeEngine(ConvertedEngine):
    """ONNX Runtime on a CPU, float32; a session runs in as many threads as call it."""

    name = EngineName.ONNXRUNTIME
    precisions = (Precision.FLOAT32,)

    @classmethod
    def convert(
        cls, pipeline: Pipeline, copies: Tensor, folder: Path, calibration: Batches | None = None
    ) -> None:
        _package("onnxscript", "onnxruntime", "the engine onnxruntime")
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                TraceablePipeline(pipeline), (copies,), folder / "model.onnx",
                dynamo=True, verbose=False, input_names=["copies"], output_names=["answer"],
                external_data=sum(p.nbytes for p in pipeline.parameters()) > 2**30,
            )  # fmt: skip

    def _compile(self, files: Mapping[str, bytes]) -> None:
        runtime = _package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        weights = {name: content for name, content in files.items() if name != "model.onnx"}
        if outside := sorted(external_files(files["model.onnx"]) - weights.keys()):
            self._refuse(f"weights in the file {outside[0][:200]!a}")
        if weights:
            sizes = [len(content) for content in weights.values()]
            options.add_external_initializers_from_files_in_memory(
                list(weights), list(weights.values()), sizes
            )
        self._session = runtime.InferenceSession(
            files["model.onnx"], options, providers=["CPUExecutionProvider"]
        )
        shapes = [given.shape for given in self._session.get_inputs()]  # a name for any length
        if len(shapes) != 1 or not _fits(self.shape, shapes[0]):
            self._refuse(f"inputs of shape {shapes}"[:200])

    def _worker(self) -> Callable[[np.ndarray], np.ndarray]:
        session, (copies,) = self._session, self._session.get_inputs()
        return lambda batch: session.run(None, {copies.name: batch})[0]


CONVERTED: dict[EngineName, type[ConvertedEngine]] = {
    EngineName.OPENVINO: OpenVinoEngine,
    EngineName.ONNXRUNTIME: OnnxRuntimeEngine,
}


def _fits(shape: Sequence[int], stated: Sequence[int | str | None]) -> bool:
    """Return whether a batch has the shape that a model states; any length fits a name."""
    return len(shape) == len(stated) and all(
        not isinstance(theirs, int) or theirs == ours
        for ours, theirs in zip(shape, stated, strict=True)
    )


def _package(name: str, extra: str | None = None, purpose: str | None = None) -> Any:
    # OpenVINO and NNCF report their use over the network unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return __import__(name)
    except ImportError as error:
        raise MissingExtraError(name, extra or name, purpose or f"the engine {name}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress and warnings of converters; torch only traces, so it gets one thread.

    Only their own loggers are silenced: meanwhile other threads may have something to say.
    """
    threads, root = torch.get_num_threads(), logging.root
    # OpenVINO leaves its own where a conversion fails, and then no warning is printed any more.
    kept = root.level, [*root.filters], [*root.handlers]
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    torch.set_num_threads(1)
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(kept[0])
        root.filters, root.handlers = kept[1:]
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        torch.set_num_threads(threads)
