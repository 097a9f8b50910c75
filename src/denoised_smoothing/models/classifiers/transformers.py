"""Image classifiers of transformers, with the work of their image processors on tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.errors import SettingError, WeightsError, first_line, raised_as
from denoised_smoothing.models.classifiers.base import ImageClassifier, check_channels
from denoised_smoothing.models.classifiers.fine_tuned import class_names
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize, Scaling
from denoised_smoothing.models.classifiers.timm import timm_classifier
from denoised_smoothing.models.hub import model_folder
from denoised_smoothing.models.specs import Spec

_INTERPOLATIONS = {
    0: Interpolation.NEAREST,
    1: Interpolation.BICUBIC,  # Lanczos does not exist for tensors; transformers does the same
    2: Interpolation.BILINEAR,
    3: Interpolation.BICUBIC,
}
_TOLERANCE = 2.5 / 255
"""Maximum difference to values of the processor, which rounds to 8 bits in between."""


def load_transformers(named: str, *, label_names: Sequence[str] | None = None) -> ImageClassifier:
    """Load an image classifier of transformers. Its resolution is that of its processor.

    Args:
        named: a folder that ``save_pretrained`` of model and processor wrote, or ``OWNER/NAME``
            on the hub, downloaded once.
        label_names: a name for each class, instead of those of the model.

    Raises:
        SpecError: the label names are not as many as the classes.
        WeightsError: the model is not available, has another task, or has no weights.
        SettingError: the model answers several labels at once or a number, needs other channels,
            or a processor that is not supported.
        ImportError: transformers is not installed.
    """
    import transformers

    folder = model_folder(named, holds="config.json")
    model = load_model(transformers.AutoModelForImageClassification, folder, named)
    config = model.config
    if config.problem_type not in (None, "single_label_classification") or config.num_labels < 2:
        raise SettingError(
            f"a classifier must answer one of several labels, got {named} with problem_type "
            f"{config.problem_type} and {config.num_labels} labels. Wrap it in a function of one "
            "of its labels, [1 - p, p]: python:MODULE:FACTORY."
        )
    names = class_names(label_names, [_label_names(config)], config.num_labels, f"hf:{named}")
    if config.model_type == "timm_wrapper":
        inner = model.timm_model
        inner.pretrained_cfg = inner.default_cfg = dict(config.pretrained_cfg or {})
        return timm_classifier(inner, f"hf:{named}", label_names, names)
    return with_processor(_Logits(model), config, folder, named, names)


def load_model(loader: Any, folder: Path, named: str) -> Any:
    """Load a model in float32 and evaluation mode.

    Raises:
        WeightsError: the model cannot be loaded, or weights are missing.
    """
    what = f"cannot load {named} as {loader.__name__.removeprefix('AutoModelFor')}"
    remedy = "Name a folder that save_pretrained of such a model wrote, without code of its own."
    with raised_as(WeightsError, what, remedy), _quiet():
        model, report = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{named} has no weights for {', '.join(missing[:3])}: it was saved without its "
            "classifying head. Train one, or name another model."
        )
    _forget_place(model)
    return model.eval()


def _forget_place(model: Any) -> None:
    """Remove the path of the model, so that fingerprints do not depend on the folder."""
    for module in model.modules():
        if isinstance(getattr(module, "name_or_path", None), str):
            module.name_or_path = ""
    model.config.name_or_path = ""


def with_processor(
    network: nn.Module,
    config: Any,
    folder: Path,
    named: str,
    label_names: Sequence[str] | None,
) -> ImageClassifier:
    """Return a network after the preprocessing of the image processor in the folder.

    One image goes through both, to check that they agree.

    Raises:
        WeightsError: there is no processor.
        SettingError: as :func:`load_transformers`.
    """
    vision = getattr(config, "vision_config", config)
    channels = check_channels(getattr(vision, "num_channels", 3), f"hf:{named}")
    processor = _processor(folder, named)
    what = f"the image processor of {named} is not supported"
    with raised_as(SettingError, what, "Wrap the model yourself: python:MODULE:FACTORY."):
        mean, std = _normalisation(processor, channels)
        resize = _resize(processor, named)
        side = getattr(vision, "image_size", None) if resize is None else resize.size[0]
        square = resize is None or resize.size[0] == resize.size[1]
        resolution = side if square and isinstance(side, int) else None
        classifier = ImageClassifier(network, mean, std, label_names, resolution, resize).eval()
        _check_processor(classifier, processor, named)
    return classifier


class _Logits(nn.Module):
    """A model of transformers that returns logits as a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        logits: Tensor = self.model(images).logits
        return logits


def _processor(folder: Path, named: str) -> Any:
    import transformers

    remedy = "Save the model's image processor to the same folder, with its save_pretrained."
    with raised_as(WeightsError, f"{named} has no image processor", remedy), _quiet():
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if not hasattr(processor, "do_rescale"):
        raise WeightsError(
            f"the image processor {type(processor).__name__} of {named} is not supported. Load a "
            f"model of timm as timm:{named}."
        )
    return processor


def _normalisation(processor: Any, channels: int) -> tuple[list[float], list[float]]:
    """Return mean and std for images in [0, 1], of rescaling and normalising together.

    The processor of EfficientNet also subtracts 1 (``rescale_offset``), and divides by std again
    (``include_top``).
    """
    factor = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    mean, std, deviation = [0.0] * channels, [1.0] * channels, [1.0] * channels
    if processor.image_std is not None:
        deviation = _for_each(processor.image_std, channels)
    if processor.do_normalize and processor.image_mean is not None:
        mean, std = _for_each(processor.image_mean, channels), deviation
    if processor.do_rescale and getattr(processor, "rescale_offset", False):
        mean = [value + 1 for value in mean]
    if getattr(processor, "include_top", False):
        std = [first * second for first, second in zip(std, deviation, strict=True)]
    return [value / factor for value in mean], [value / factor for value in std]


def _for_each(values: Any, channels: int) -> list[float]:
    """Return a number for each channel, of one number or of a list."""
    values = list(values) if isinstance(values, Sequence) else [values]
    return [float(value) for value in (values * channels if len(values) == 1 else values)][
        :channels
    ]


def _resize(processor: Any, named: str) -> Resize | None:
    """Return the processor's resizing, or None if it does not resize."""
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    if not processor.do_resize and crop is None:
        return None
    size, number = processor.size, 2 if processor.resample is None else int(processor.resample)
    interpolation = _INTERPOLATIONS.get(number)
    both = _sides(size)
    shortest: int | None = None if size is None else size.shortest_edge
    share = getattr(processor, "crop_pct", None)
    if processor.do_resize and interpolation is not None:
        if shortest and share is not None:
            return _shared(shortest, share, interpolation)
        if both and (crop is None or _sides(crop) == both):
            return Resize(both, interpolation=interpolation)
        if shortest and crop is None:
            return Resize((shortest, shortest), shortest, Scaling.SQUARE, interpolation)
        cut = _sides(crop)
        if cut and (shortest or (both and both[0] == both[1])):
            scaling = Scaling.SHORTER if shortest else Scaling.BOTH
            scaled = shortest or (both or cut)[0]
            return Resize(cut, scaled, scaling, interpolation, crop_rounds_down=True)
    raise SettingError(
        f"the image processor of {named} is not supported, got do_resize={processor.do_resize}, "
        f"size={size}, crop_size={crop} and resample={processor.resample}. Wrap the model "
        "yourself: python:MODULE:FACTORY."
    )


def _sides(size: Any) -> tuple[int, int] | None:
    """Return height and width of a size of transformers, if it has them."""
    return (size.height, size.width) if size and size.height and size.width else None


def _shared(shortest: int, share: float, interpolation: Interpolation) -> Resize:
    """Return the preprocessing of ConvNeXt: outputs below 384 pixels are cut from larger ones."""
    size = (shortest, shortest)
    if shortest >= 384:
        return Resize(size, interpolation=interpolation)
    scaled = int(shortest / share)
    return Resize(size, scaled, Scaling.SHORTER, interpolation, crop_rounds_down=True)


def _check_processor(classifier: ImageClassifier, processor: Any, named: str) -> None:
    """Check on one image that the processor agrees with the preprocessing on tensors."""
    height, width = _probe_size(classifier)
    down, across = torch.meshgrid(
        torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )
    waves = [0.5 + 0.4 * torch.sin(5 * down + (3 - i) * across + i) for i in range(3)]
    image = (torch.stack(waves[: classifier.channels]) * 255).round().to(torch.uint8)
    ours = image[None] / 255
    ours = ours if classifier.resize is None else classifier.resize(ours)
    ours = (ours - classifier.mean) / classifier.std
    try:
        theirs = processor(images=image, return_tensors="pt")["pixel_values"]
    except Exception as error:  # of any processor
        found = f"fails ({type(error).__name__}: {first_line(error)})"
    else:
        if theirs.shape == ours.shape:
            difference = float(((theirs - ours) * classifier.std).abs().max())
            if difference <= _TOLERANCE:
                return
            found = f"differs by {difference:.3f} of the range of values"
        else:
            found = f"returns shape {list(theirs.shape)} instead of {list(ours.shape)}"
    raise SettingError(
        f"the image processor of {named} ({type(processor).__name__}) must only resize, crop and "
        f"normalise, but on one image it {found}. Wrap model and processor yourself: "
        "python:MODULE:FACTORY."
    )


def _probe_size(classifier: ImageClassifier) -> tuple[int, int]:
    if classifier.resize is None:
        side = classifier.resolution or 32
        return side, side
    height, width = classifier.resize.size
    if classifier.resize.scaling is Scaling.SQUARE:
        return height + height // 4, height + height // 4
    return height + height // 4, width + width // 2


def _label_names(config: Any) -> list[str] | None:
    """Return the names of the labels, or None for the numbers that transformers fills in."""
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    return None if names == [f"LABEL_{index}" for index in range(len(names))] else names


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and warnings, but not errors."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_spec(spec: Spec) -> ImageClassifier:
    """Return the model of a spec."""
    return load_transformers(spec.rest, label_names=spec.names("labels"))
