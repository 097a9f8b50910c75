"""The base class of trainings: data, folder, checkpoints, logs, resuming, and the card."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import (
    DatasetError,
    ImageError,
    SettingError,
    TrainingError,
    TrainingInterruptedError,
    differences,
)
from denoised_smoothing.files import named, write_atomically
from denoised_smoothing.models.labels import GivenLabels, LabelMatch, match_labels, of_classes
from denoised_smoothing.training.config import TrainingConfig, check_at_least
from denoised_smoothing.training.data import (
    EpochSampler,
    Preparation,
    Sample,
    SampleStream,
    ValidationImages,
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training: its settings, data and output.

    Args:
        dataset: images to train on.
        preparation: channels, size and augmentation of the samples.
        output: the safetensors file to write. Checkpoints and logs go to ``output.training/``.
        validation: images for validation, or None for the training images without augmentation.
        validation_limit: maximum number of them.
        labels: from a class of the data to a label of a classifier, each by its name or number,
            where names do not settle it (see :mod:`denoised_smoothing.models.labels`). The images
            for training or those for validation must have each class.
        command: the command that the user typed, for the card.
        workers: processes that decode images. Each keeps up to :data:`KEPT` bytes of them.
        trainer_flags: arguments of ``lightning.Trainer``: accelerator, devices, precision, ...
    """

    config: TrainingConfig
    dataset: ImageDataset
    preparation: Preparation
    output: Path
    validation: ImageDataset | None = None
    validation_limit: int = 500
    labels: GivenLabels | None = None
    command: str = ""
    workers: int = 0
    trainer_flags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named(self.output)
        check_at_least(1, self, "validation_limit")
        check_at_least(0, self, "workers")
        unknown = [self._unknown(data) for data in (self.dataset, self.validation_images)]
        if missing := [error for name, error in unknown[0].items() if name in unknown[1]]:
            names = dict.fromkeys((self.dataset.name, self.validation_images.name))
            raise SettingError(f"{' and '.join(map(repr, names))}: {missing[0]}") from missing[0]

    @property
    def folder(self) -> Path:
        """The folder of checkpoints and logs."""
        return self.output.with_name(self.output.name + ".training")

    @property
    def validation_images(self) -> ImageDataset:
        """The images for validation."""
        return self.validation or self.dataset

    def match(self, dataset: ImageDataset, classifier: object) -> LabelMatch:
        """Match the classes of images for training or validation with a classifier's labels.

        Raises:
            DatasetError: a class matches no label or several.
            SettingError: ``labels`` names a label that does not exist, or two for a class.
        """
        names, unknown = getattr(classifier, "label_names", None), self._unknown(dataset)
        given = {name: to for name, to in (self.labels or {}).items() if name not in unknown}
        try:
            return match_labels(dataset.label_names, dataset.labels, names, given)
        except (DatasetError, SettingError) as error:
            raise type(error)(f"{dataset.name!r}: {error}") from error

    def _unknown(self, dataset: ImageDataset) -> dict[Any, SettingError]:
        """Return the classes of ``labels`` that a data set does not have, each with its error."""
        present, unknown = {label for label in dataset.labels if label is not None}, {}
        for name, label in (self.labels or {}).items():
            try:
                of_classes({name: label}, dataset.label_names, present)
            except SettingError as error:
                unknown[name] = error
        return unknown

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be equal to resume from a checkpoint."""
        return {
            **self.config.to_dict(),
            **{f"preparation.{name}": value for name, value in asdict(self.preparation).items()},
            "data": f"{self.dataset.name} {self.dataset.fingerprint[:12]}",
        }

    def fit(
        self, module: lightning.LightningModule, save: Callable[[dict[str, str]], None]
    ) -> Path:
        """Train ``module``, from the last checkpoint if there is one, and return the output.

        Args:
            save: writes the output, given the card: data, command, seed, settings, measured
                quality, time and versions. Called once, on one of the devices.

        Raises:
            SettingError: the output exists already or cannot be written, or Lightning refuses
                the flags.
            ImageError: images have different sizes.
            TrainingError: the folder holds a training with other settings, or damaged ones; the
                disk is full; or the loss became NaN.
            TrainingInterruptedError: the training was interrupted (Ctrl-C).
        """
        if self.output.exists():
            raise SettingError(
                f"the output {self.output} exists already. Choose another output, or delete it."
            )
        began = time.monotonic()
        with _without_advice():
            trainer = self._trainer()
            checkpoint = self._checkpoint_to_resume()
            with self._explained(trainer):
                trainer.fit(
                    module,
                    self._training_loader(trainer),
                    self._validation_loader(),
                    ckpt_path=checkpoint,
                    weights_only=True,
                )
                # The last step may be in the middle of an epoch.
                trainer.validate(module, self._validation_loader(), verbose=False)
        seconds = f"{time.monotonic() - began:.0f}{' since it was resumed' if checkpoint else ''}"
        if trainer.is_global_zero:
            save(self._card(trainer, seconds))
        trainer.strategy.barrier()
        return self.output

    @contextmanager
    def _explained(self, trainer: lightning.Trainer) -> Iterator[None]:
        """Raise an error of this package for an interruption, and for a disk that is full."""
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        try:
            yield
        except (SystemExit, KeyboardInterrupt) as error:  # Lightning ends for Ctrl-C
            signal.signal(signal.SIGINT, on_ctrl_c)  # which it also disables
            raise TrainingInterruptedError(
                f"the training was interrupted at step {trainer.global_step} of "
                f"{self.config.steps}. {self._advice()}"
            ) from error
        except OSError as error:
            raise TrainingError(
                f"the training stopped at step {trainer.global_step} of {self.config.steps} "
                f"({error}). Make sure that {self.folder} can be written and has space left. "
                f"{self._advice()}"
            ) from error

    def _advice(self) -> str:
        """Return how to resume."""
        if self._checkpoint.exists():
            return "Repeat the command to resume from the last checkpoint, which is kept."
        return "Repeat the command to start again. No checkpoint was written yet."

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "last.ckpt"

    def _checkpoint_to_resume(self) -> Path | None:
        """Return the last checkpoint, if its training had the same settings."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(
                f"cannot write checkpoints to {self.folder} ({error}). Choose another output."
            ) from error
        settings, checkpoint = self.folder / "settings.json", self._checkpoint
        identity = json.loads(json.dumps(self.identity()))
        if checkpoint.exists() and settings.exists():
            try:
                before = json.loads(settings.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise TrainingError(
                    f"{settings} cannot be read ({error}), so it is not known whether the "
                    f"checkpoint has the same settings. Delete {self.folder} to start again, or "
                    "choose another output."
                ) from error
            if differs := differences(before, identity, where=("there", "requested")):
                raise TrainingError(
                    f"{self.folder} holds a training with other settings ({'; '.join(differs)}). "
                    "Choose another output, or delete that folder to start again."
                )
            return checkpoint
        write_atomically(settings, json.dumps(identity, indent=1).encode())
        return None

    def _trainer(self) -> lightning.Trainer:
        flags: dict[str, Any] = {
            "max_steps": self.config.steps,
            "max_epochs": math.ceil(self.config.steps / self.config.epoch_steps),
            "gradient_clip_val": self.config.clip,
            "logger": [
                CSVLogger(self.folder, name=None, version="log"),
                TensorBoardLogger(self.folder, name=None, version="log"),
            ],
            "callbacks": [
                # After validation, because Lightning 2.6 resumes one epoch late from its end.
                ModelCheckpoint(
                    self.folder, "last", save_on_train_epoch_end=False, enable_version_counter=False
                )
            ],
            "log_every_n_steps": 20,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "benchmark": True,
            "enable_model_summary": False,
            **self.trainer_flags,
        }
        try:
            return lightning.Trainer(**flags)
        except (ValueError, MisconfigurationException) as error:
            raise SettingError(
                f"Lightning refuses {dict(self.trainer_flags)}: {error}. Correct the flags of its "
                "Trainer."
            ) from error

    def _training_loader(self, trainer: lightning.Trainer) -> DataLoader[Any]:
        world = trainer.world_size
        size = self.config.epoch_steps * self.config.batch_size * world
        return DataLoader(
            SampleStream(self.dataset, self.preparation, self.config.seed),
            batch_size=self.config.batch_size,
            sampler=EpochSampler(size, trainer.global_rank, world),
            num_workers=self.workers,
            collate_fn=_stack,
            persistent_workers=self.workers > 0,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )

    def _validation_loader(self) -> DataLoader[Any]:
        images = ValidationImages(self.validation_images, self.preparation, self.validation_limit)
        return DataLoader(images, batch_size=100, collate_fn=_stack)

    def _card(self, trainer: lightning.Trainer, seconds: str) -> dict[str, str]:
        images, crop = self.validation_images, self.preparation.crop
        quality = {
            name: round(float(value), 6)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("validation_", "accuracy_"))
        }
        return {
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "command": self.command,
            "seed": str(self.config.seed),
            "settings": json.dumps(self.config.to_dict()),
            "quality": json.dumps(quality),
            "validation": f"first {min(self.validation_limit, len(images))} images of "
            f"{images.name}{f', centre crops of {crop} pixels' if crop else ''}",
            "seconds": seconds,
            "versions": json.dumps(
                {"torch": torch.__version__, "lightning": lightning.__version__}
            ),
        }


def _stack(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch: images [B, C, H, W], labels [B], numbers [B]."""
    images, labels, numbers = zip(*samples, strict=True)
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise ImageError(
            f"images must have equal sizes, got {', '.join(map(str, sorted(sizes)[:3]))}. Set a "
            "resolution, or a size of crops."
        )
    return torch.stack(images), torch.tensor(labels), torch.tensor(numbers)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Suppress Lightning's advice on workers, folders and its other products."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        logger.setLevel(level)
