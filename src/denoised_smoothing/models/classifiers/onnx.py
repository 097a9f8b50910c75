"""Classifiers as ONNX files, executed by ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from denoised_smoothing.errors import ClassifierError, SettingError, WeightsError, first_line
from denoised_smoothing.files import sha256_of
from denoised_smoothing.models.classifiers.base import check_channels
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize
from denoised_smoothing.models.specs import Spec

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


class OnnxClassifier:
    """An ONNX model: [B, C, H, W] or [B, H, W, C] to logits [B, K] or labels [B].

    If the model has a fixed batch size, batches are split, and the last part is padded with
    zeros. If it has a fixed image size, images are resized after the noise. It runs on the
    device of the images if ONNX Runtime supports that, on one thread for each caller. It has no
    gradients, and the precision of the file.

    Args:
        mean, std: one number for each channel, or one for all, to subtract and divide by.
        scale: factor of pixel values before that: 255 for models of 8-bit values.
        interpolation: interpolation of resizing, for a model of a fixed image size.
        label_names: K names, or None.
        resolution: size of the data set's images, or None for the model's fixed size.
        output: name of the output, or None for the first.

    Raises:
        WeightsError: there is no such file, or ONNX Runtime cannot run it.
        SettingError: its input is not one batch of float images of 1 or 3 channels, or std or
            scale is not above 0.
        ImportError: onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        scale: float = 1.0,
        interpolation: Interpolation = Interpolation.BILINEAR,
        label_names: Sequence[str] | None = None,
        resolution: int | None = None,
        output: str | None = None,
    ) -> None:
        import onnxruntime

        if not all(value > 0 for value in (*std, scale)):
            raise SettingError(
                f"std and scale must be above 0, got std={tuple(std)} and scale={scale}. "
                "Correct them."
            )
        self._path = Path(path).expanduser()
        session = _opened(self._path)
        self._sessions, given = {"cpu": session}, session.get_inputs()
        digests = [sha256_of(path) for path in (self._path, *_data_files(self._path))]
        self.content = hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        if len(given) != 1 or given[0].type not in _TYPES or len(given[0].shape) != 4:
            inputs = ", ".join(f"{item.name}: {item.type}{item.shape}" for item in given)
            raise SettingError(
                f"the input of {path} must be one batch of float images, [B, C, H, W] or "
                f"[B, H, W, C], got {inputs}. Export it again without other inputs."
            )
        self._input = given[0].name
        self._type = _TYPES[given[0].type]
        self._batch, self._channels_last, size, self.channels = _layout(given[0].shape, str(path))
        self._resize = size and Resize(size, interpolation=interpolation)
        self._output = _output_name(session, output, str(path))
        self.label_names = None if label_names is None else tuple(label_names)
        square = size is not None and size[0] == size[1]
        self.resolution = size[0] if resolution is None and size and square else resolution
        self._scale, self._normalises = scale, any(mean) or set(std) != {1.0}
        self._mean = _per_channel(mean, self.channels, "mean")
        self._std = _per_channel(std, self.channels, "std")

    precision_is_fixed = True
    """The file determines the precision, whichever is requested."""
    may_be_shared = True
    """Several threads may call it."""

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Height and width of the model's input, or None for those of the images."""
        return None if self._resize is None else self._resize.size

    def fingerprint_parts(self) -> dict[str, object]:
        """Return the attributes without path and sessions; ``content`` is the files' digest."""
        return {name: v for name, v in vars(self).items() if name not in ("_path", "_sessions")}

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """Return logits [B, K] or labels [B] of images in [0, 1], on their device.

        Raises:
            ClassifierError: the output has another length.
        """
        prepared = self._prepared(images.detach().float())
        pieces = torch.split(prepared, self._batch or len(prepared))
        device = images.device.type
        if device not in self._sessions:
            self._sessions[device] = _opened(self._path, device)
        session = self._sessions[device]
        answers = np.concatenate([self._run(session, piece) for piece in pieces])
        answer = torch.from_numpy(answers).to(images.device)
        if answer.ndim > 2 and answer.shape[2:].numel() == 1:  # 1x1 features after a pooling
            answer = answer.flatten(1)
        return answer.float() if answer.is_floating_point() else answer

    def _prepared(self, images: Tensor) -> Tensor:
        if self._resize is not None:
            images = self._resize(images)
        if self._scale != 1:
            images = images * self._scale
        if self._normalises:
            images = (images - self._mean.to(images.device)) / self._std.to(images.device)
        return images.permute(0, 2, 3, 1) if self._channels_last else images

    def _run(self, session: Any, images: Tensor) -> Any:
        count = len(images)
        if self._batch is not None and count < self._batch:
            images = functional.pad(images, (0, 0) * 3 + (0, self._batch - count))
        values = images.contiguous().cpu().numpy().astype(self._type, copy=False)
        (answer,) = session.run([self._output], {self._input: values})
        if not isinstance(answer, np.ndarray) or len(answer) != len(values):
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
        raise WeightsError(
            f"ONNX Runtime cannot run {path} ({first_line(error)}). Export it again, for an opset "
            "that this version supports."
        ) from error


def _data_files(path: Path) -> list[Path]:
    """Return the files of external weights of a model, wherever it uses them, sorted."""
    import onnx

    tensors = _tensors(onnx.load(path, load_external_data=False), onnx.TensorProto)
    locations = {
        entry.value
        for tensor in tensors
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = (path.parent / location for location in locations)
    return sorted(file for file in files if file.is_file())


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
    if (height is None) != (width is None):
        raise SettingError(
            f"both sides of the input must be fixed or none, got {list(shape)} in {name}. Export "
            "it again."
        )
    size = None if height is None or width is None else (height, width)
    return batch, last, size, channels


def _output_name(session: Any, wanted: str | None, name: str) -> str:
    names = [item.name for item in session.get_outputs()]
    if wanted is None:
        return str(names[0])
    if wanted not in names:
        raise SettingError(f"{name} has no output {wanted!r}. Use {' or '.join(names)}.")
    return wanted


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
        (spec.numbers("scale") or (1.0,))[0],
        label_names=spec.names("labels"),
        resolution=spec.number("resolution", 1) if "resolution" in spec.options else None,
        output=spec.options.get("output"),
    )
