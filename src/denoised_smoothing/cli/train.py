"""train, train-classifier."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from denoised_smoothing.cli.options import (
    AsJson,
    Data,
    Sigma,
    command_line,
)
from denoised_smoothing.cli.output import err, print_card
from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.training.config import (
    Objective,
    Target,
    TrainingConfig,
    Weighting,
)

if TYPE_CHECKING:
    from torch import nn


def train(
    data: Data,
    output: Annotated[
        Path, typer.Option(help="The safetensors file to write; of diffusion, the folder.")
    ],
    sigma: Sigma,
    objective: Annotated[
        Objective, typer.Option(help="hybrid is mse first, then stability.")
    ] = Objective.MSE,
    architecture: Annotated[
        str, typer.Option(help="unet, dncnn, dncnn-wide, memnet or diffusion.")
    ] = "unet",
    option: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="Of the architecture: width=32.")
    ] = [],  # noqa: B006
    classifier: Annotated[
        list[str],
        typer.Option(metavar="SPEC", help="To train stability on; repeat for several surrogates."),
    ] = [],  # noqa: B006
    judge: Annotated[
        list[str], typer.Option(metavar="SPEC", help="To measure accuracy with in validation.")
    ] = [],  # noqa: B006
    start: Annotated[
        Path | None, typer.Option(help="Weights to start from; --option may enlarge them.")
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="To validate on.", show_default="the training images"),
    ] = None,
    validation_limit: Annotated[int, typer.Option(help="Images for validation.")] = 500,
    sigma_max: Annotated[
        float | None, typer.Option(help="Draw sigma from --sigma to this, for each image.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = TrainingConfig.steps,
    mse_steps: Annotated[
        int | None, typer.Option(help="Of hybrid: the first steps, by mse.", show_default="half")
    ] = None,
    target: Annotated[
        Target,
        typer.Option(help="Stability: the clean image's label, its probabilities, or the truth."),
    ] = Target.SOFT,
    temperature: Annotated[
        float, typer.Option(help="Stability: what logits are divided by.")
    ] = TrainingConfig.temperature,
    copies: Annotated[
        int, typer.Option(help="Stability: noisy copies of each image.")
    ] = TrainingConfig.copies,
    consistency: Annotated[
        float, typer.Option(help="Stability: weight of the copies' agreement.")
    ] = TrainingConfig.consistency,
    entropy: Annotated[
        float, typer.Option(help="Stability: weight of the entropy of their mean answer.")
    ] = TrainingConfig.entropy,
    anchor: Annotated[
        float, typer.Option(help="Stability: weight of mse beside it.")
    ] = TrainingConfig.anchor,
    weighting: Annotated[
        Weighting, typer.Option(help="Mse: how images with different sigma count.")
    ] = Weighting.EQUAL,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = TrainingConfig.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="The peak, after a warm-up and before a cosine decay.")
    ] = TrainingConfig.learning_rate,
    ema: Annotated[
        float, typer.Option(help="Decay of the average of the weights; 0 takes the last ones.")
    ] = TrainingConfig.ema,
    epoch_steps: Annotated[
        int, typer.Option(help="Steps between validations and checkpoints.")
    ] = TrainingConfig.epoch_steps,
    half: Annotated[bool, typer.Option(help="Write the weights in half precision.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and noise.")] = 0,
    resolution: Annotated[int | None, typer.Option(help="Resize images to this side.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of random crops.")] = None,
    pad: Annotated[int, typer.Option(help="Black border that shifts images.")] = 0,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    workers: Annotated[
        int, typer.Option(help="Processes that decode images; each keeps up to 1 GiB of them.")
    ] = 0,
    accelerator: Annotated[str, typer.Option(help="Lightning's flag.")] = "auto",
    devices: Annotated[str, typer.Option(help="Lightning's flag.")] = "auto",
    strategy: Annotated[str, typer.Option(help="Lightning's flag.")] = "auto",
    precision: Annotated[str, typer.Option(help="Lightning's flag: bf16-mixed.")] = "32-true",
    as_json: AsJson = False,
) -> None:
    """Train a denoiser; the same command goes on from its last checkpoint."""
    _require_lightning()
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.training.data import Preparation
    from denoised_smoothing.training.fit import TrainingJob, train_denoiser

    config = TrainingConfig(
        objective=objective,
        sigma=sigma,
        sigma_max=sigma_max,
        steps=steps,
        mse_steps=mse_steps,
        target=target,
        temperature=temperature,
        copies=copies,
        consistency=consistency,
        entropy=entropy,
        anchor=anchor,
        weighting=weighting,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema=ema,
        epoch_steps=epoch_steps,
        seed=seed,
    )
    dataset = load_dataset(data)
    surrogates = {spec: _network(spec) for spec in classifier}
    job = TrainingJob(
        config=config,
        architecture=architecture,
        dataset=dataset,
        preparation=Preparation(dataset[0].image.shape[0], resolution, crop, pad, flip),
        output=output,
        validation=None if validation is None else load_dataset(validation),
        validation_limit=validation_limit,
        surrogates=list(surrogates.values()),
        judges={Path(s).stem: m for s, m in (surrogates | {s: _network(s) for s in judge}).items()},
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


def train_classifier(
    data: Data,
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    depth: Annotated[int, typer.Option(help="Layers of the CIFAR ResNet: 6n + 2.")] = 20,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of Gaussian noise on its images; 0 for none.")
    ] = 0.0,
    validation: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="To validate on.", show_default="the training images"),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = TrainingConfig.steps,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = TrainingConfig.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="The peak, after a warm-up and before a cosine decay.")
    ] = TrainingConfig.learning_rate,
    epoch_steps: Annotated[
        int, typer.Option(help="Steps between validations and checkpoints.")
    ] = TrainingConfig.epoch_steps,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    pad: Annotated[int, typer.Option(help="Black border that shifts images.")] = 4,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    accelerator: Annotated[str, typer.Option(help="Lightning's flag.")] = "auto",
    precision: Annotated[str, typer.Option(help="Lightning's flag: bf16-mixed.")] = "32-true",
    as_json: AsJson = False,
) -> None:
    """Train a CIFAR ResNet, on clean or noisy images, for those who have no classifier yet."""
    _require_lightning()
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.training.classifier import ClassifierTrainingJob, train_resnet
    from denoised_smoothing.training.data import Preparation

    dataset = load_dataset(data)
    job = ClassifierTrainingJob(
        config=TrainingConfig(
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            epoch_steps=epoch_steps,
            seed=seed,
        ),
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
    """A classifier that gradients can pass through."""
    from torch import nn

    from denoised_smoothing.models.catalogue import load_classifier

    classifier = load_classifier(spec)
    if not isinstance(classifier, nn.Module):
        raise SettingError(f"{spec!r} is no torch module, so nothing can be trained through it")
    return classifier


def _require_lightning() -> None:
    for package in ("lightning", "tensorboard"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", "training")


def _options(pairs: Sequence[str]) -> dict[str, int | str]:
    """``["width=32", "residual=noise"]`` to ``{"width": 32, "residual": "noise"}``."""
    options: dict[str, int | str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        number = value.isdigit() and int(value)
        if not (name and (number or value.isalpha())):
            raise SettingError(
                "--option takes NAME=VALUE with a number above 0 or a word, such as width=32, "
                f"got {pair!r}"
            )
        options[name] = number or value
    return options


def _show_card(path: Path, as_json: bool) -> None:
    from denoised_smoothing.models.denoisers import load_card

    if os.environ.get("LOCAL_RANK", "0") != "0":  # on several devices, one of them tells
        return
    print_card(path, load_card(path), as_json=as_json)
