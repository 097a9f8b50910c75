"""Classifiers as ONNX files, executed by ONNX Runtime."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from denoised_smoothing.errors import (
    ClassifierError,
    SettingError,
    WeightsError,
    first_line,
    raised_as,
)
from denoised_smoothing.files import expand_home, sha256_of
from denoised_smoothing.models.classifiers.base import check_channels
from denoised_smoothing.models.classifiers.onnx_outputs import Answer, choose
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize
from denoised_smoothing.models.specs import Spec

_RUN_REMEDY = "Check that it takes images of this size and number of channels."
_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


class ChannelOrder(StrEnum):
    """The order of a model's colour channels."""

    RGB = "rgb"
    BGR = "bgr"


class OnnxClassifier:
    """An ONNX model: [B, C, H, W] or [B, H, W, C] to logits [B, K] or labels [B].

    If the model has a fixed batch size, batches are split, and the last part is padded with
    zeros. If a side of its images is fixed, images are resized after the noise. A model of bytes
    gets values rounded to 0 to 255. It runs on the device of the images if ONNX Runtime supports
    that, on one thread for each caller. It has no gradients, and the precision of the file.

    Args:
        mean, std: one number for each channel of the model, or one for all, to subtract and
            divide by.
        scale: factor of pixel values before that; None for 255 for models of bytes and where a
            mean or std is above 1, and for 1 otherwise.
        interpolation: interpolation of resizing, for a model of a fixed image size.
        label_names: K names, or None for those in the file.
        resolution: size of the data set's images, or None for the model's fixed size.
        output: name of the output, or None for the only one that is an answer by its shape (see
            :func:`.choose`).
        order: the order of the model's channels.

    Raises:
        WeightsError: there is no such file, or ONNX Runtime cannot run it.
        SettingError: its input is not one batch of images of 1 or 3 channels, several outputs may
            be the answer, or std or scale is not above 0.
        SpecError: the label names are not as many as the classes that the file states.
        ImportError: onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        scale: float | None = None,
        interpolation: Interpolation = Interpolation.BILINEAR,
        label_names: Sequence[str] | None = None,
        resolution: int | None = None,
        output: str | None = None,
        order: ChannelOrder = ChannelOrder.RGB,
    ) -> None:
        import onnx
        import onnxruntime

        self._path = expand_home(path)
        session = _opened(self._path)
        self._sessions, given = {"cpu": session}, session.get_inputs()
        if len(given) != 1 or given[0].type not in _TYPES or len(given[0].shape) != 4:
            inputs = ", ".join(f"{item.name}: {item.type}{item.shape}" for item in given)
            raise SettingError(
                f"the input of {path} must be one batch of float or uint8 images, [B, C, H, W] or "
                f"[B, H, W, C], got {inputs}. Export it again without other inputs."
            )
        chosen = choose(session.get_outputs(), output, str(path))
        with raised_as(WeightsError, f"cannot read {path}", "Export it again."):
            model = onnx.load(self._path, load_external_data=False)
            digests = [sha256_of(path) for path in (self._path, *_data_files(self._path, model))]
            self._answer = Answer(model, chosen, label_names, str(path))
        self.content = hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._input = given[0].name
        self._type = _TYPES[given[0].type]
        self._batch, self._channels_last, size, self.channels = _layout(given[0].shape, str(path))
        self._resize = size and Resize(size, interpolation=interpolation)
        square = size is not None and size[0] == size[1]
        self.resolution = size[0] if resolution is None and size and square else resolution
        self._normalises = any(mean) or set(std) != {1.0}
        if scale is None:
            scale = 255.0 if max(*mean, *std) > 1 or self._type is np.uint8 else 1.0
        _check_preparation(mean, std, scale, self._normalises and self._type is np.uint8)
        self._scale, self._flips = scale, order is ChannelOrder.BGR
        self._mean = _per_channel(mean, self.channels, "mean")
        self._std = _per_channel(std, self.channels, "std")

    precision_is_fixed = True
    """The file determines the precision, whichever is requested."""
    may_be_shared = True
    """Several threads may call it."""

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes, if known."""
        return self._answer.label_names

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Height and width of the model's input, or None for those of the images."""
        return None if self._resize is None else self._resize.size

    def fingerprint_parts(self) -> dict[str, object]:
        """Return the attributes without path and sessions; ``content`` is the files' digest."""
        left_out = ("_path", "_sessions", "_answer")
        parts = {name: value for name, value in vars(self).items() if name not in left_out}
        return parts | vars(self._answer)

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """Return logits [B, K] or labels [B] of images in [0, 1], on their device.

        Raises:
            ClassifierError: the output has another length, or other classes than label names.
        """
        prepared = self._prepared(images.detach().float())
        pieces = torch.split(prepared, self._batch or len(prepared))
        device = images.device.type
        if device not in self._sessions:
            self._sessions[device] = _opened(self._path, device)
        session = self._sessions[device]
        answers = np.concatenate([self._run(session, piece) for piece in pieces])
        answer = torch.from_numpy(answers).to(images.device)
        return answer.float() if answer.is_floating_point() else answer

    def _prepared(self, images: Tensor) -> Tensor:
        if self._resize is not None:
            images = self._resize(images)
        if self._flips:
            images = images.flip(1)
        if self._scale != 1:
            images = images * self._scale
        if self._normalises:
            images = (images - self._mean.to(images.device)) / self._std.to(images.device)
        return images.permute(0, 2, 3, 1) if self._channels_last else images

    def _run(self, session: Any, images: Tensor) -> Any:
        count = len(images)
        if self._batch is not None and count < self._batch:
            images = functional.pad(images, (0, 0) * 3 + (0, self._batch - count))
        if self._type is np.uint8:
            images = images.round().clamp(0, 255)
        values = images.contiguous().cpu().numpy().astype(self._type, copy=False)
        with raised_as(ClassifierError, f"ONNX Runtime fails on {self._path}", _RUN_REMEDY):
            answer = self._answer.decode(session.run([self._answer.name], {self._input: values})[0])
        if answer.ndim == 0 or len(answer) != len(values):
            raise ClassifierError(
                f"{self._path} must return logits [B, K], got shape {np.shape(answer)} for "
                f"{len(values)} images. Name another output: onnx:FILE?output=NAME."
            )
        return answer[:count]


def _opened(path: Path, device: str = "cpu") -> Any:
    """Return a session that computes on the caller's thread."""
    import onnxruntime

    if not path.is_file():
        raise WeightsError(f"there is no ONNX file {path}. Check the path in the spec.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    wanted = ["CUDAExecutionProvider"] if device == "cuda" else []
    there = onnxruntime.get_available_providers()
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # its errors have no common base
        if missing := _missing_data(path):
            raise WeightsError(
                f"{path} keeps weights in the file {missing}, which is not there. Put it where it "
                "was exported to, next to the model and under its old name."
            ) from error
        raise WeightsError(
            f"ONNX Runtime cannot run {path} ({first_line(error)}). Export it again, for an opset "
            "that this version supports."
        ) from error


def _missing_data(path: Path) -> Path | None:
    """Return a file of external weights that is missing."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        return next((file for file in _locations(path, model) if not file.is_file()), None)
    except Exception:  # damaged; the error of ONNX Runtime says so
        return None


def _data_files(path: Path, model: Any) -> list[Path]:
    """Return the files of external weights of a model, wherever it uses them, sorted."""
    return [file for file in _locations(path, model) if file.is_file()]


def _locations(path: Path, model: Any) -> list[Path]:
    import onnx

    locations = {
        entry.value
        for tensor in _tensors(model, onnx.TensorProto)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(path.parent / location for location in locations)


def _tensors(message: Any, kind: type) -> Iterator[Any]:
    """Yield the tensors of a protobuf message: of initializers, attributes and subgraphs alike."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part, kind)


def _layout(
    shape: Sequence[Any], name: str
) -> tuple[int | None, bool, tuple[int, int] | None, int | None]:
    """Return batch size, whether channels come last, image size and channels; None for any."""
    batch, *rest = (side if isinstance(side, int) and side > 0 else None for side in shape)
    last = rest[0] not in (1, 3) and rest[2] in (1, 3)
    channels, height, width = (rest[2], *rest[:2]) if last else rest
    if channels is not None:
        check_channels(channels, name)
    fixed = height or width  # one fixed side stands for both
    size = None if fixed is None else (height or fixed, width or fixed)
    return batch, last, size, channels


def _check_preparation(
    mean: Sequence[float], std: Sequence[float], scale: float, normalises_bytes: bool
) -> None:
    if min(*std, scale) <= 0 or not all(map(math.isfinite, (*mean, *std, scale))):
        raise SettingError(
            f"std and scale must be above 0, got std={tuple(std)} and scale={scale}. Correct them."
        )
    if normalises_bytes:
        raise SettingError(
            f"a model of uint8 images normalises them itself, got mean={tuple(mean)} and "
            f"std={tuple(std)}. Omit both."
        )


def _per_channel(values: Sequence[float], channels: int | None, name: str) -> Tensor:
    if len(values) not in {1, channels or len(values)}:
        raise SettingError(
            f"{name} must be one number, or one for each of {channels} channels, got {values}. "
            "Correct it."
        )
    return torch.tensor(values).reshape(1, -1, 1, 1)


def load_spec(spec: Spec) -> OnnxClassifier:
    """Return the model of a spec."""
    return OnnxClassifier(
        spec.rest,
        spec.numbers("mean") or (0.0,),
        spec.numbers("std") or (1.0,),
        (spec.numbers("scale") or (None,))[0],
        label_names=spec.names("labels"),
        resolution=spec.number("resolution", 1) if "resolution" in spec.options else None,
        output=spec.options.get("output"),
        order=spec.given(channels=ChannelOrder).get("channels", ChannelOrder.RGB),
    )
