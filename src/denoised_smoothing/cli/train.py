"""The commands ``train`` and ``train-classifier``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from denoised_smoothing.cli.grouped import Take, command, option_group
from denoised_smoothing.cli.options import (
    LENGTH,
    AsJson,
    Data,
    File,
    Labels,
    command_line,
    option,
    read_labels,
    require,
)
from denoised_smoothing.cli.output import err, print_json, print_rows
from denoised_smoothing.errors import SettingError
from denoised_smoothing.training.config import TrainingConfig

if TYPE_CHECKING:
    from torch import nn

_data, _speed = option_group("Data and model"), option_group("Speed")


@dataclass(frozen=True)
class TrainOptions:
    """The options that both commands share, and below them those of ``train``."""

    validation: str | None = _data("Images to validate on.", metavar="DATA", show_default="DATA")
    pad: int = _data("Shift images by up to N pixels, with a black border.", default=0)
    flip: bool = _data("Mirror half of the images.", default=True)
    accelerator: str = _speed("Lightning's accelerator.", default="auto")
    precision: str = _speed("Lightning's precision, such as bf16-mixed.", default="32-true")
    architecture: str | None = _data(
        "unet, multiscale-unet, dncnn, dncnn-wide, memnet or diffusion.",
        show_default="that of --start, or unet",
    )
    option: list[str] = _data(
        "Option of the architecture: width=32. Repeat for several.",
        default=[],
        metavar="NAME=VALUE",
    )
    classifier: list[str] = _data(
        "Classifier to train stability through. Repeat for several.", default=[], metavar="SPEC"
    )
    judge: list[str] = _data(
        "Classifier to measure accuracy with. Repeat for several.", default=[], metavar="SPEC"
    )
    start: Path | None = _data("Weights to start from. --option may enlarge the network.")
    validation_limit: int = _data("Validate on at most N images.", default=500)
    resolution: int | None = _data("Side in pixels to which images are resized.")
    crop: int | None = _data("Side in pixels of random crops.")
    scale: float = _data("Smallest factor by which larger squares become crops.", default=1.0)
    colour: float = _data("Largest change of contrast, brightness and channels.", default=0.0)
    half: bool = option_group("Output")("Write the weights in half precision.", default=False)
    workers: int = _speed("Processes that decode images, with up to 1 GiB each.", default=0)
    devices: str = _speed("Lightning's devices.", default="auto")
    strategy: str = _speed("Lightning's strategy.", default="auto")


@command()
def train(
    data: Data,
    output: File,
    config: Annotated[
        TrainingConfig,
        Take(without=("weight_decay", "warmup", "clip"), required=("sigma",), panel="Training"),
    ],
    options: TrainOptions,
    labels: Labels = None,
    as_json: AsJson = False,
) -> None:
    """Train a denoiser. Resumes an interrupted training.

    Example: denoised-smoothing train digits:train --sigma 0.5 --output unet.safetensors

    Writes a safetensors file, or a folder for --architecture diffusion. docs/denoisers.md compares
    the objectives.
    """
    require("train", "training", "lightning", "tensorboard")
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.training.data import Preparation, channels_of
    from denoised_smoothing.training.fit import TrainingJob, train_denoiser

    dataset = load_dataset(data)
    surrogates = {spec: _network(spec) for spec in options.classifier}
    judges = surrogates | {spec: _network(spec) for spec in options.judge}
    preparation = Preparation(
        channels_of(dataset),
        options.resolution,
        options.crop,
        options.pad,
        options.flip,
        options.scale,
        options.colour,
    )
    job = TrainingJob(
        config=config,
        architecture=options.architecture or _architecture_of(options.start),
        dataset=dataset,
        preparation=preparation,
        output=output,
        validation=None if options.validation is None else load_dataset(options.validation),
        labels=read_labels(labels),
        validation_limit=options.validation_limit,
        surrogates=list(surrogates.values()),
        judges={Path(spec).stem: network for spec, network in judges.items()},
        start=options.start,
        half=options.half,
        architecture_options=_options(options.option),
        command=command_line(),
        workers=options.workers,
        trainer_flags=_flags(options, "accelerator", "devices", "strategy", "precision"),
    )
    _show_card(train_denoiser(job), as_json)


def _architecture_of(start: Path | None) -> str:
    """Return the architecture of the weights to start from; that of other files is unknown."""
    from denoised_smoothing.models.denoisers.files import load_card

    return "unet" if start is None else load_card(start).get("architecture", "unet")


@command()
def train_classifier(
    data: Data,
    output: File,
    config: Annotated[
        TrainingConfig,
        Take(("steps", "batch_size", "learning_rate", "epoch_steps", "seed"), panel="Training"),
    ],
    options: Annotated[
        TrainOptions,
        Take(("validation", "pad", "flip", "accelerator", "precision"), defaults={"pad": 4}),
    ],
    depth: Annotated[int, option("Data and model", "Layers of the CIFAR ResNet: 6n + 2.")] = 20,
    noise: Annotated[
        float,
        option(
            "Data and model",
            "Standard deviation of Gaussian noise on its images. 0 adds none.",
            **LENGTH,
        ),
    ] = 0.0,
    labels: Labels = None,
    as_json: AsJson = False,
) -> None:
    """Train a CIFAR ResNet on clean or noisy images.

    Example: denoised-smoothing train-classifier digits:train --output resnet20.safetensors

    Writes a safetensors file. Resumes an interrupted training.
    """
    require("train", "training", "lightning", "tensorboard")
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.training.classifier import ClassifierTrainingJob, train_resnet
    from denoised_smoothing.training.data import Preparation, channels_of

    dataset = load_dataset(data)
    job = ClassifierTrainingJob(
        config=config,
        depth=depth,
        noise=noise,
        dataset=dataset,
        preparation=Preparation(channels_of(dataset), pad=options.pad, flip=options.flip),
        output=output,
        validation=None if options.validation is None else load_dataset(options.validation),
        labels=read_labels(labels),
        command=command_line(),
        trainer_flags=_flags(options, "accelerator", "precision"),
    )
    _show_card(train_resnet(job), as_json)


def _flags(options: TrainOptions, *names: str) -> dict[str, Any]:
    """Return the flags of Lightning's trainer."""
    return {name: getattr(options, name) for name in names} | {
        "enable_progress_bar": err.is_terminal
    }


def _network(spec: str) -> nn.Module:
    """Load a classifier that gradients can pass through."""
    from torch import nn

    from denoised_smoothing.models.catalogue import load_classifier

    classifier = load_classifier(spec)
    if not isinstance(classifier, nn.Module):
        raise SettingError(
            f"{spec!r} is not a torch module, which training needs for gradients. "
            "Use a classifier that is one."
        )
    return classifier


def _options(pairs: Sequence[str]) -> dict[str, int | str | list[int]]:
    """Read ``["width=32", "residual=noise", "widths=24,64"]`` as numbers, words and lists."""
    options: dict[str, int | str | list[int]] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        numbers = value.split(",")
        if name and all(number.isdigit() and int(number) for number in numbers):
            options[name] = [int(number) for number in numbers] if "," in value else int(value)
        elif name and value.isalpha():
            options[name] = value
        else:
            raise SettingError(
                f"--option must be NAME=VALUE with numbers above 0 or a word, got {pair!r}. "
                "Write for example --option width=32 or --option widths=24,64,128."
            )
    return options


def _show_card(path: Path, as_json: bool) -> None:
    """Print the path of the weights and their card; of several processes, one prints."""
    from denoised_smoothing.models.denoisers.files import load_card

    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    card = load_card(path)
    if as_json:
        print_json({"output": str(path), **card})
    else:
        print_rows([{"card": name, str(path): value} for name, value in card.items()])
