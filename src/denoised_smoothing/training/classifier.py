"""Train a CIFAR ResNet on clean images: an ordinary classifier to make robust."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional

from denoised_smoothing.classifiers import CifarResNet, ImageClassifier, save_cifar_resnet
from denoised_smoothing.errors import DatasetError
from denoised_smoothing.training.config import TrainingConfig
from denoised_smoothing.training.job import Job
from denoised_smoothing.training.module import Batch, check_finite, optimizer_with_schedule


@dataclass(frozen=True, kw_only=True)
class ClassifierJob(Job):
    """The training of a classifier; arguments as :class:`Job` and ``depth``, 6n + 2 layers."""

    depth: int

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on from its checkpoint."""
        return {**super().identity(), "depth": self.depth}


class ClassifierTraining(lightning.LightningModule):
    """Cross-entropy with the labels; validation measures clean accuracy."""

    def __init__(self, classifier: ImageClassifier, config: TrainingConfig) -> None:
        super().__init__()
        self.classifier = classifier
        self.config = config

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with linear warm-up and cosine decay."""
        return optimizer_with_schedule(self.classifier, self.config)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of one batch."""
        loss = functional.cross_entropy(self.classifier(batch[0]), batch[1])
        check_finite("loss", loss, self.global_step)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Accuracy on clean images."""
        correct = (self.classifier(batch[0]).argmax(dim=1) == batch[1]).float().mean()
        self.log("accuracy_clean", correct, batch_size=len(batch[1]), sync_dist=True, prog_bar=True)


def train_resnet(job: ClassifierJob) -> Path:
    """Train a CIFAR ResNet and write its weights and card; returns the file.

    Goes on from the last checkpoint in ``job.folder`` if there is one of the same settings.

    Raises:
        SettingError: the depth is not 6n + 2, or the output exists already.
        DatasetError: an image has no label.
        TrainingError: as :meth:`Job.fit`.
    """
    known = [label for label in job.dataset.labels if label is not None]
    if len(known) < len(job.dataset):
        raise DatasetError(f"{job.dataset.name!r} has images without a label to train on")
    names, channels = job.dataset.label_names, job.preparation.channels
    classes = max(known) + 1 if names is None else len(names)
    first = job.preparation.clean(job.dataset[0])
    with torch.random.fork_rng():
        torch.manual_seed(job.config.seed)
        classifier = ImageClassifier(
            CifarResNet(job.depth, classes, channels),
            mean=[0.5] * channels,
            std=[0.25] * channels,
            label_names=names,
            resolution=job.preparation.centre(first).shape[1],
        )
    return job.fit(
        ClassifierTraining(classifier, job.config),
        partial(save_cifar_resnet, job.output, classifier),
    )
