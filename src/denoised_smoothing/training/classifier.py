"""Training of CIFAR ResNets, on clean or noisy images."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional

from denoised_smoothing.errors import DatasetError, SettingError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet, save_cifar_resnet
from denoised_smoothing.noise import derive_key, standard_normal
from denoised_smoothing.training.config import TrainingConfig, check_at_least
from denoised_smoothing.training.job import Training
from denoised_smoothing.training.lightning import (
    Batch,
    check_finite,
    check_loss,
    optimizer_with_schedule,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClassifierTrainingJob(Training):
    """The training of a classifier.

    Args:
        depth: number of layers, 6n + 2.
        noise: standard deviation of Gaussian noise on the images in [0, 1] (Cohen et al. 2019,
            section 3.3); 0 for clean images.
    """

    depth: int
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "noise")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "depth": self.depth, "noise": self.noise}


class ClassifierTraining(lightning.LightningModule):
    """Trains by cross-entropy with the labels, and validates accuracy on clean and noisy images."""

    def __init__(
        self, classifier: ImageClassifier, config: TrainingConfig, noise: float = 0.0
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.config = config
        self.noise = noise

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return optimizer_with_schedule(self.classifier, self.config)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images = self._noisy(batch[0], "classifier", self.global_step)
        loss = functional.cross_entropy(self.classifier(images), batch[1])
        check_loss(loss, self.global_step)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the accuracy on clean images and, if it is trained on them, on noisy images."""
        self._log_accuracy("accuracy_clean", batch[0], batch[1])
        if self.noise:
            noisy = self._noisy(batch[0], "classifier validation", batch_index)
            self._log_accuracy("accuracy_noisy", noisy, batch[1])

    def _log_accuracy(self, name: str, images: Tensor, labels: Tensor) -> None:
        logits = self.classifier(images)
        check_finite("sum of logits", logits.sum(), self.global_step)
        correct = (logits.argmax(dim=1) == labels).float().mean()
        self.log(name, correct, batch_size=len(labels), sync_dist=True, prog_bar=True)

    def _noisy(self, images: Tensor, purpose: str, step: int) -> Tensor:
        if not self.noise:
            return images
        key = derive_key(self.config.seed, purpose, step, self.global_rank)
        return images + self.noise * standard_normal(key, images.shape, images.device)


def train_resnet(job: ClassifierTrainingJob) -> Path:
    """Train a CIFAR ResNet, write its weights and card, and return the file.

    Resumes from the last checkpoint in ``job.folder`` if it has the same settings. The labels of
    the validation images are matched with those of the training images.

    Raises:
        SettingError: the depth is not 6n + 2, labels are given without validation images, or as
            :meth:`Training.fit`.
        DatasetError: an image has no label, or a class of the validation images matches no label.
        TrainingError: as :meth:`Training.fit`.
    """
    if job.labels and job.validation is None:
        raise SettingError(
            f"labels (--labels) are for the classes of validation images, got {len(job.labels)} "
            "and no such images. Name the images (--validation), or omit the labels."
        )
    known = [label for label in job.dataset.labels if label is not None]
    if len(known) < len(job.dataset):
        raise DatasetError(
            f"every image needs a label, got {len(job.dataset) - len(known)} without in "
            f"{job.dataset.name!r}. Label them, or remove them."
        )
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
    return _numbered_as(job, classifier).fit(
        ClassifierTraining(classifier, job.config, job.noise),
        partial(save_cifar_resnet, job.output, classifier),
    )


def _numbered_as(job: ClassifierTrainingJob, classifier: ImageClassifier) -> ClassifierTrainingJob:
    """Return the job, whose validation images have the labels of the classifier."""
    if job.validation is None or (
        not job.labels and job.validation.label_names == classifier.label_names
    ):
        return job
    match = replace(job, dataset=job.validation).match(job.validation, classifier)
    if match.note:
        _log.warning("note: %s", match.note)
    labels = match.labels(job.validation.labels)
    numbered = replace(job.validation, labels=labels, label_names=match.names)
    return replace(job, validation=numbered, labels=None)
