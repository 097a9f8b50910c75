"""Run a training to its end, or on from where it stopped, and write the weights file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.denoisers import (
    DenoiserNetwork,
    build_denoiser,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.errors import SettingError, TrainingError
from denoised_smoothing.training.config import TrainingConfig
from denoised_smoothing.training.data import (
    EpochSampler,
    Preparation,
    SampleStream,
    ValidationImages,
)
from denoised_smoothing.training.module import DenoiserTraining


@dataclass(frozen=True)
class TrainingJob:
    """A training and all that it needs.

    Args:
        config: the settings.
        architecture: name of the denoiser's architecture.
        dataset: images to train on.
        preparation: channels, size and augmentation of the samples.
        output: the safetensors file to write; checkpoints and logs go to ``output.training/``.
        validation: images for validation, or None for the training images without augmentation.
        validation_limit: how many of them.
        surrogates: classifiers that stability trains on, in turn.
        judges: classifiers that validation measures accuracy with, by name.
        start: a weights file of the same architecture to start from, or None.
        architecture_options: arguments of the architecture, such as ``{"width": 32}``.
        command: the command that was typed, for the card.
        workers: processes that decode images.
        trainer_flags: arguments of ``lightning.Trainer``: accelerator, devices, precision, ...
    """

    config: TrainingConfig
    architecture: str
    dataset: ImageDataset
    preparation: Preparation
    output: Path
    validation: ImageDataset | None = None
    validation_limit: int = 500
    surrogates: Sequence[nn.Module] = ()
    judges: Mapping[str, nn.Module] = field(default_factory=dict)
    start: Path | None = None
    architecture_options: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    workers: int = 0
    trainer_flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs are."""
        return self.output.with_name(self.output.name + ".training")

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on from its checkpoint."""
        return {
            **self.config.to_dict(),
            "architecture": self.architecture,
            **{f"architecture.{name}": value for name, value in self.architecture_options.items()},
            "data": self.dataset.name,
            "start": str(self.start),
        }


def train_denoiser(job: TrainingJob) -> Path:
    """Train a denoiser and write its weights and card; returns the file.

    Goes on from the last checkpoint in ``job.folder`` if there is one of the same settings.

    Raises:
        SettingError: stability without a surrogate, or the output exists already.
        TrainingError: a checkpoint of other settings is there, or the loss became NaN.
    """
    if job.output.exists():
        raise SettingError(f"{job.output} exists already; choose another output or remove it")
    if job.config.objective != "mse" and not job.surrogates:
        raise SettingError(
            f"objective {job.config.objective} needs at least one classifier to train on; "
            "name the classifier (white box) or surrogates (black box)"
        )
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = _checkpoint_to_resume(job)
    module = DenoiserTraining(_network(job), job.config, job.surrogates, dict(job.judges))
    trainer = _trainer(job)
    began = time.monotonic()
    trainer.fit(
        module,
        _training_loader(job, trainer),
        _validation_loader(job),
        ckpt_path=checkpoint,
        weights_only=True,
    )
    if module.global_step < job.config.steps:
        raise TrainingError(
            f"the training was interrupted at step {module.global_step} of {job.config.steps}; "
            "the same command continues it from the last checkpoint"
        )
    if trainer.is_global_zero:
        card = _card(job, trainer, seconds=time.monotonic() - began, resumed=checkpoint is not None)
        save_denoiser(job.output, module.averaged, job.architecture, card)
    return job.output


def _network(job: TrainingJob) -> DenoiserNetwork:
    if job.start is not None:
        return load_denoiser_file(job.start, job.architecture).train()
    with torch.random.fork_rng():
        torch.manual_seed(job.config.seed)
        return build_denoiser(
            job.architecture,
            image_channels=job.preparation.channels,
            **job.architecture_options,
        )


def _checkpoint_to_resume(job: TrainingJob) -> Path | None:
    """The last checkpoint, if its training had the same settings."""
    settings, checkpoint = job.folder / "settings.json", job.folder / "last.ckpt"
    identity = json.loads(json.dumps(job.identity()))
    if checkpoint.exists() and settings.exists():
        before = json.loads(settings.read_text())
        differs = [
            f"{name} ({before.get(name)} there, {identity.get(name)} asked)"
            for name in sorted(before.keys() | identity.keys())
            if before.get(name) != identity.get(name)
        ]
        if differs:
            raise TrainingError(
                f"{job.folder} holds a training with other settings: {', '.join(differs)}; "
                "choose another output, or remove that folder to start anew"
            )
        return checkpoint
    settings.write_text(json.dumps(identity, indent=1))
    return None


def _trainer(job: TrainingJob) -> lightning.Trainer:
    flags: dict[str, Any] = {
        "max_steps": job.config.steps,
        "gradient_clip_val": job.config.clip,
        "logger": [
            CSVLogger(job.folder, name=None, version="log"),
            TensorBoardLogger(job.folder, name=None, version="log"),
        ],
        "callbacks": [ModelCheckpoint(job.folder, save_last=True, save_on_train_epoch_end=True)],
        "log_every_n_steps": 20,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
        **job.trainer_flags,
    }
    return lightning.Trainer(**flags)


def _training_loader(job: TrainingJob, trainer: lightning.Trainer) -> DataLoader[Any]:
    world = trainer.world_size
    size = job.config.epoch_steps * job.config.batch_size * world
    return DataLoader(
        SampleStream(job.dataset, job.preparation, job.config.seed),
        batch_size=job.config.batch_size,
        sampler=EpochSampler(size, trainer.global_rank, world),
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )


def _validation_loader(job: TrainingJob) -> DataLoader[Any]:
    images = job.dataset if job.validation is None else job.validation
    return DataLoader(
        ValidationImages(images, job.preparation, job.validation_limit), batch_size=100
    )


def _card(
    job: TrainingJob, trainer: lightning.Trainer, seconds: float, resumed: bool
) -> dict[str, str]:
    quality = {
        name: round(float(value), 6)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(("validation_", "accuracy_"))
    }
    low, high = job.config.sigma_range
    return {
        "sigma_min": str(low),
        "sigma_max": str(high),
        "objective": job.config.objective.value,
        "image_channels": str(job.preparation.channels),
        "data": job.dataset.name,
        "data_fingerprint": job.dataset.fingerprint,
        "start": "" if job.start is None else job.start.name,
        "command": job.command,
        "seed": str(job.config.seed),
        "settings": json.dumps(job.config.to_dict()),
        "quality": json.dumps(quality),
        "validation": f"first {job.validation_limit} images of "
        f"{(job.validation or job.dataset).name}",
        "seconds": f"{seconds:.0f}{' since it was resumed' if resumed else ''}",
        "versions": json.dumps({"torch": torch.__version__, "lightning": lightning.__version__}),
    }
