"""A Lightning module that trains a denoiser."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from denoised_smoothing.errors import TrainingError
from denoised_smoothing.models.classifiers.cifar_resnet import folded
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.labels import LabelMatch
from denoised_smoothing.noise import derive_key, standard_normal
from denoised_smoothing.training.config import Spacing, Target, TrainingConfig, Weighting
from denoised_smoothing.training.features import Features
from denoised_smoothing.training.objectives import (
    answer_entropy,
    consistency,
    feature_distance,
    mse,
    psnr,
    stability,
    stability_target,
    variance_weights,
)

Batch = tuple[Tensor, Tensor, Tensor]
Answers = Tensor | list[Tensor]
"""Logits or probabilities or labels; or features, one tensor for each layer."""


class DenoiserTraining(lightning.LightningModule):
    """Trains ``denoiser``. The result is ``averaged``, the moving average of its weights.

    Noise is keyed by seed, step and device, so that a resumed training draws equal noise.

    Args:
        surrogates: classifiers for stability, used in turn and never changed: the classifier
            itself (white box) or others (black box).
        judges: classifiers whose accuracy after denoising validation measures, by name.
        target_labels: of the data as those of each surrogate; none if they are the same.
        validation_labels: of the validation data as those of a judge, by its name.
    """

    distance: Callable[[Any, Any], Tensor] = staticmethod(stability)
    """The distance between a classifier's answers and those that stability aims at."""

    def __init__(
        self,
        denoiser: DenoiserNetwork,
        config: TrainingConfig,
        surrogates: Sequence[nn.Module] = (),
        judges: dict[str, nn.Module] | None = None,
        *,
        target_labels: Sequence[LabelMatch] = (),
        validation_labels: Mapping[str, LabelMatch] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.averaged = copy.deepcopy(denoiser).requires_grad_(False).eval()
        self.config = config
        # In plain containers, so that they are neither trained nor written to checkpoints.
        self.surrogates = [_frozen(surrogate) for surrogate in surrogates]
        self.features: list[Features] = []
        if config.target is Target.FEATURES:
            names = [name.strip() for name in config.layers.split(",")] if config.layers else []
            self.features = [Features(surrogate, names) for surrogate in self.surrogates]
            self.distance = feature_distance
        self.judges = {name: _frozen(judge) for name, judge in (judges or {}).items()}
        self.target_labels = list(map(_table, target_labels))
        judged = (validation_labels or {}).items()
        self.validation_labels = {name: _table(match) for name, match in judged}

    def on_fit_start(self) -> None:
        """Move the classifiers to the device, and use the memory layout of convolutions."""
        self.to(memory_format=torch.channels_last)
        for classifier in (*self.surrogates, *self.judges.values()):
            classifier.to(self.device).to(memory_format=torch.channels_last)
        self.target_labels = [table.to(self.device) for table in self.target_labels]
        for name, table in self.validation_labels.items():
            self.validation_labels[name] = table.to(self.device)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return optimizer_with_schedule(self.denoiser, self.config)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        clean = _layout(batch[0])
        step = self.global_step
        if self.config.uses_stability(step):
            loss = self._stability(clean, batch[1], step)
        else:
            noisy, sigmas = self._corrupt(clean, "training", step)
            loss = self._mse(self.denoiser(noisy, sigmas), clean, sigmas)
        check_loss(loss, step)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def _stability(self, clean: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return the loss of a step that trains through a surrogate, with all its terms."""
        config, turn = self.config, step % len(self.surrogates)
        network = self.surrogates[turn]

        def surrogate(images: Tensor) -> Tensor:
            logits: Tensor = network(images).float() / config.temperature
            return logits

        noisy, sigmas = self._corrupt(clean, "training", step, config.copies)
        if config.target is Target.FEATURES:
            layers = self.features[turn]
            with torch.no_grad():
                wanted = [_repeated(features, config.copies) for features in layers(clean)]
            return self.stability_of_copies(layers, clean, noisy, sigmas, wanted)
        if config.target is Target.TRUTH:
            answer = self.target_labels[turn][labels] if self.target_labels else labels
        else:
            with torch.no_grad():
                answer = stability_target(surrogate(clean), config.target)
        answers = _repeated(answer, config.copies)
        return self.stability_of_copies(surrogate, clean, noisy, sigmas, answers)

    def stability_of_copies(
        self,
        surrogate: Callable[[Tensor], Any],
        clean: Tensor,
        noisy: Tensor,
        sigmas: Tensor,
        answers: Answers,
    ) -> Tensor:
        """Return the stability of noisy copies, plus the weighted terms of the config.

        Args:
            surrogate: images to logits, or to features.
            clean: B images.
            noisy: M copies of each, ordered as by ``clean.repeat(M, 1, 1, 1)``.
            sigmas, answers: one for each copy.
        """
        config = self.config
        denoised = self.denoiser(noisy, sigmas)
        logits = surrogate(denoised)
        loss = self.distance(logits, answers)
        if config.consistency or config.entropy:
            of_copies = logits.reshape(config.copies, len(clean), -1)
            loss = loss + config.consistency * consistency(of_copies)
            loss = loss + config.entropy * answer_entropy(of_copies)
        if config.anchor:
            target = clean.repeat(config.copies, 1, 1, 1)
            loss = loss + config.anchor * self._mse(denoised, target, sigmas)
        return loss

    def _mse(self, denoised: Tensor, clean: Tensor, sigmas: Tensor) -> Tensor:
        balanced = self.config.weighting is Weighting.VARIANCE
        return mse(denoised, clean, variance_weights(sigmas) if balanced else None)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Move the average towards the weights, faster in early steps."""
        decay = min(self.config.ema, self.global_step / (self.global_step + 9))
        with torch.no_grad():
            average, current = self.averaged.state_dict(), self.denoiser.state_dict()
            reals = [name for name, value in average.items() if value.is_floating_point()]
            get_ema_multi_avg_fn(decay)(  # type: ignore[no-untyped-call]
                [average.pop(name) for name in reals], [current[name] for name in reals], None
            )
            for name, value in average.items():
                value.copy_(current[name])

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the error of the averaged denoiser, and the accuracy of each classifier after it."""
        clean, labels = _layout(batch[0]), batch[1]
        noisy, sigmas = self._corrupt(clean, "validation", batch_index)
        denoised = self.averaged(noisy, sigmas)
        self._log_mean("validation_mse", mse(denoised, clean), len(clean))
        known = labels >= 0
        for name, judge in self.judges.items():
            if known.any():
                truth = labels[known]
                if name in self.validation_labels:
                    truth = self.validation_labels[name][truth]
                correct = judge(denoised[known]).argmax(dim=1) == truth
                self._log_mean(f"accuracy_{name}", correct.float().mean(), int(known.sum()))

    def on_validation_epoch_end(self) -> None:
        """Log the PSNR in dB, and end the training if the error is NaN."""
        error = self.trainer.callback_metrics["validation_mse"]
        check_finite("validation error", error, self.global_step)
        self.log("validation_psnr", psnr(error), prog_bar=True)

    def _log_mean(self, name: str, value: Tensor, count: int) -> None:
        self.log(name, value, on_epoch=True, batch_size=count, sync_dist=True, prog_bar=True)

    def _corrupt(
        self, clean: Tensor, purpose: str, step: int, copies: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return noisy copies, ordered as by ``repeat(copies, 1, 1, 1)``, and their sigmas."""
        key = derive_key(self.config.seed, purpose, step, self.global_rank)
        low, high = map(torch.tensor, self.config.sigma_range)
        source = torch.Generator().manual_seed(key & (2**63 - 1))
        spread = torch.rand(len(clean), generator=source)
        if self.config.spacing is Spacing.LINEAR:
            sigmas = low + (high - low) * spread
        else:
            sigmas = torch.exp(low.log() + (high.log() - low.log()) * spread)
        sigmas = sigmas.repeat(copies).to(clean.device, non_blocking=True)
        repeated = _layout(clean.repeat(copies, 1, 1, 1))
        noise = standard_normal(key, repeated.shape, clean.device)
        return repeated + sigmas.reshape(-1, 1, 1, 1) * noise, sigmas


def optimizer_with_schedule(
    network: nn.Module, config: TrainingConfig
) -> OptimizerLRSchedulerConfig:
    """Return AdamW with linear warm-up and cosine decay of the learning rate."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.learning_rate_factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _table(match: LabelMatch) -> Tensor:
    """Return the classifier's number of each label of the data; -1 for those that no image has."""
    table = torch.full((max(match.numbers, default=-1) + 1,), -1)
    for label, number in match.numbers.items():
        table[label] = number
    return table


def _frozen(classifier: nn.Module) -> nn.Module:
    return folded(classifier.eval()).requires_grad_(False)


def check_loss(loss: Tensor, step: int) -> None:
    """Check that a loss is finite; on an accelerator every 20th step, because reading is slow.

    Validation checks too, and checkpoints follow it, so that no NaN is stored.
    """
    if loss.device.type == "cpu" or step % 20 == 0:
        check_finite("loss", loss, step)


def check_finite(name: str, value: Tensor, step: int) -> None:
    """Check that a loss or error is finite.

    Raises:
        TrainingError: it is NaN or infinite.
    """
    if not torch.isfinite(value):
        raise TrainingError(
            f"the {name} became {value.item()} at step {step}. Lower the learning rate, or train "
            "in float32 if precision is reduced. The last checkpoint is stored."
        )


def _repeated(values: Tensor, copies: int) -> Tensor:
    return values.repeat(copies, *[1] * (values.ndim - 1))


def _layout(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
