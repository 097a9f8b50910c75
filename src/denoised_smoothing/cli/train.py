"""The commands ``train`` and ``train-classifier``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.options import AsJson, Data, command_line, in_data, in_output, in_speed
from denoised_smoothing.cli.output import err, print_card
from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.training.config import TrainingConfig

if TYPE_CHECKING:
    from torch import nn

Validation = Annotated[
    str | None,
    in_data("Images to validate on.", metavar="DATA", show_default="the training images"),
]
Pad = Annotated[int, in_data("Width in pixels of the black border by which images are shifted.")]
Flip = Annotated[bool, in_data("Mirror half of the images.")]
Accelerator = Annotated[str, in_speed("Lightning's accelerator.")]
TrainPrecision = Annotated[str, in_speed("Lightning's precision, such as bf16-mixed.")]


@command()
def train(
    data: Data,
    output: Annotated[
        Path, in_output("Safetensors file to write; a folder for --architecture diffusion.")
    ],
    config: Annotated[
        TrainingConfig,
        Take(without=("weight_decay", "warmup", "clip"), required=("sigma",), panel="Training"),
    ],
    architecture: Annotated[
        str, in_data("Architecture: unet, dncnn, dncnn-wide, memnet or diffusion.")
    ] = "unet",
    option: Annotated[
        list[str],
        in_data(
            "Option of the architecture, such as width=32. Repeat for several.",
            metavar="NAME=VALUE",
        ),
    ] = [],  # noqa: B006
    classifier: Annotated[
        list[str],
        in_data(
            "Classifier, or surrogate, to train stability through. Repeat for several.",
            metavar="SPEC",
        ),
    ] = [],  # noqa: B006
    judge: Annotated[
        list[str],
        in_data(
            "Classifier whose accuracy the validation measures. Repeat for several.", metavar="SPEC"
        ),
    ] = [],  # noqa: B006
    start: Annotated[
        Path | None, in_data("Weights to start from. --option may enlarge the network.")
    ] = None,
    validation: Validation = None,
    validation_limit: Annotated[int, in_data("Validate on at most N images.", metavar="N")] = 500,
    half: Annotated[bool, in_output("Write the weights in half precision.")] = False,
    resolution: Annotated[
        int | None, in_data("Side in pixels to which images are resized.")
    ] = None,
    crop: Annotated[int | None, in_data("Side in pixels of random crops.")] = None,
    pad: Pad = 0,
    flip: Flip = True,
    workers: Annotated[
        int, in_speed("Processes that decode images. Each needs up to 1 GiB of memory.")
    ] = 0,
    accelerator: Accelerator = "auto",
    devices: Annotated[str, in_speed("Lightning's devices.")] = "auto",
    strategy: Annotated[str, in_speed("Lightning's strategy.")] = "auto",
    precision: TrainPrecision = "32-true",
    as_json: AsJson = False,
) -> None:
    """Train a denoiser. Resumes an interrupted training.

    Example: denoised-smoothing train digits:train --sigma 0.5 --output unet.safetensors

    docs/denoisers.md compares the objectives.
    """
    _require_lightning()
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.training.data import Preparation
    from denoised_smoothing.training.fit import TrainingJob, train_denoiser

    dataset = load_dataset(data)
    surrogates = {spec: _network(spec) for spec in classifier}
    judges = surrogates | {spec: _network(spec) for spec in judge}
    job = TrainingJob(
        config=config,
        architecture=architecture,
        dataset=dataset,
        preparation=Preparation(dataset[0].image.shape[0], resolution, crop, pad, flip),
        output=output,
        validation=None if validation is None else load_dataset(validation),
        validation_limit=validation_limit,
        surrogates=list(surrogates.values()),
        judges={Path(spec).stem: network for spec, network in judges.items()},
        start=start,
        half=half,
        architecture_options=_options(option),
        command=command_line(),
        workers=workers,
        trainer_flags={
            "accelerator": accelerator,
            "devices": devices,
            "strategy": strategy,
            "precision": precision,
            "enable_progress_bar": err.is_terminal,
        },
    )
    _show_card(train_denoiser(job), as_json)


@command()
def train_classifier(
    data: Data,
    output: Annotated[Path, in_output("Safetensors file to write.")],
    config: Annotated[
        TrainingConfig,
        Take(("steps", "batch_size", "learning_rate", "epoch_steps", "seed"), panel="Training"),
    ],
    depth: Annotated[int, in_data("Layers of the CIFAR ResNet: 6n + 2.")] = 20,
    noise: Annotated[
        float, in_data("Standard deviation of Gaussian noise on its images. 0 adds none.")
    ] = 0.0,
    validation: Validation = None,
    pad: Pad = 4,
    flip: Flip = True,
    accelerator: Accelerator = "auto",
    precision: TrainPrecision = "32-true",
    as_json: AsJson = False,
) -> None:
    """Train a CIFAR ResNet on clean or noisy images.

    Example: denoised-smoothing train-classifier digits:train --output resnet20.safetensors

    Use it if you have no classifier yet. Resumes an interrupted training.
    """
    _require_lightning()
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.training.classifier import ClassifierTrainingJob, train_resnet
    from denoised_smoothing.training.data import Preparation

    dataset = load_dataset(data)
    job = ClassifierTrainingJob(
        config=config,
        depth=depth,
        noise=noise,
        dataset=dataset,
        preparation=Preparation(dataset[0].image.shape[0], pad=pad, flip=flip),
        output=output,
        validation=None if validation is None else load_dataset(validation),
        command=command_line(),
        trainer_flags={
            "accelerator": accelerator,
            "precision": precision,
            "enable_progress_bar": err.is_terminal,
        },
    )
    _show_card(train_resnet(job), as_json)


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


def _require_lightning() -> None:
    for package in ("lightning", "tensorboard"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", "training")


def _options(pairs: Sequence[str]) -> dict[str, int | str]:
    """Read ``["width=32", "residual=noise"]`` as ``{"width": 32, "residual": "noise"}``."""
    options: dict[str, int | str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        number = value.isdigit() and int(value)
        if not (name and (number or value.isalpha())):
            raise SettingError(
                f"--option must be NAME=VALUE with a number above 0 or a word, got {pair!r}. "
                "Write for example --option width=32."
            )
        options[name] = number or value
    return options


def _show_card(path: Path, as_json: bool) -> None:
    from denoised_smoothing.models.denoisers import load_card

    if os.environ.get("LOCAL_RANK", "0") != "0":  # one process of several prints
        return
    print_card(path, load_card(path), as_json=as_json)
