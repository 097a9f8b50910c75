"""The training of a denoiser as a Lightning module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from denoised_smoothing.errors import TrainingError
from denoised_smoothing.models.classifiers import folded
from denoised_smoothing.models.denoisers import DenoiserNetwork
from denoised_smoothing.noise import derive_key, standard_normal
from denoised_smoothing.training.config import Target, TrainingConfig, Weighting
from denoised_smoothing.training.objectives import (
    answer_entropy,
    consistency,
    mse,
    psnr,
    stability,
    stability_target,
    variance_weights,
)

Batch = tuple[Tensor, Tensor, Tensor]


class DenoiserTraining(lightning.LightningModule):
    """Trains ``denoiser``; ``averaged`` follows its weights and is what will be used.

    Noise is keyed by seed, step and device, so that a resumed training repeats none of it.

    Args:
        denoiser: the network to train.
        config: the settings.
        surrogates: classifiers for stability, used in turn, never changed: the classifier
            itself (white box) or stand-ins for it (black box).
        judges: classifiers behind which validation measures accuracy under noise, by name.
    """

    distance = staticmethod(stability)
    """The distance between logits and the answers that stability aims at."""

    def __init__(
        self,
        denoiser: DenoiserNetwork,
        config: TrainingConfig,
        surrogates: Sequence[nn.Module] = (),
        judges: dict[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.averaged = copy.deepcopy(denoiser).requires_grad_(False).eval()
        self.config = config
        # In a plain holder, so that they are neither trained nor written into checkpoints.
        self._fixed = _Fixed(surrogates, judges or {})

    def on_fit_start(self) -> None:
        """Lay out all networks for convolutions, and bring the classifiers to the device."""
        self.to(memory_format=torch.channels_last)
        self._fixed.to(self.device)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with linear warm-up and cosine decay."""
        return optimizer_with_schedule(self.denoiser, self.config)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of one batch."""
        clean = _layout(batch[0])
        step = self.global_step
        if self.config.uses_stability(step):
            loss = self._stability(clean, batch[1], step)
        else:
            noisy, sigmas = self._corrupt(clean, "training", step, self.global_rank)
            loss = self._mse(self.denoiser(noisy, sigmas), clean, sigmas)
        check_loss(loss, step)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def _stability(self, clean: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return the loss of a step that trains through a surrogate, with all its terms."""
        config = self.config
        network = self._fixed.surrogates[step % len(self._fixed.surrogates)]

        def surrogate(images: Tensor) -> Tensor:
            logits: Tensor = network(images).float() / config.temperature
            return logits

        if config.target is Target.TRUTH:
            answer = labels
        else:
            with torch.no_grad():
                answer = stability_target(surrogate(clean), config.target)
        answers = answer.repeat(config.copies, *[1] * (answer.ndim - 1))
        noisy, sigmas = self._corrupt(clean, "training", step, self.global_rank, config.copies)
        return self.stability_of_copies(surrogate, clean, noisy, sigmas, answers)

    def stability_of_copies(
        self,
        surrogate: Callable[[Tensor], Tensor],
        clean: Tensor,
        noisy: Tensor,
        sigmas: Tensor,
        answers: Tensor,
    ) -> Tensor:
        """Return the stability of noisy copies, plus the weighted terms of the config.

        Args:
            surrogate: images to logits.
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
        """Move the average towards the weights; faster while the training is young."""
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
        """Error of the averaged denoiser, and accuracy of each classifier behind it."""
        clean, labels = _layout(batch[0]), batch[1]
        noisy, sigmas = self._corrupt(clean, "validation", batch_index, self.global_rank)
        denoised = self.averaged(noisy, sigmas)
        self._log_mean("validation_mse", mse(denoised, clean), len(clean))
        known = labels >= 0
        for name, judge in self._fixed.judges.items():
            if known.any():
                correct = judge(denoised[known]).argmax(dim=1) == labels[known]
                self._log_mean(f"accuracy_{name}", correct.float().mean(), int(known.sum()))

    def on_validation_epoch_end(self) -> None:
        """Derive the PSNR in dB from the mean squared error; refuse to go on from NaN weights."""
        error = self.trainer.callback_metrics["validation_mse"]
        check_finite("validation error", error, self.global_step)
        self.log("validation_psnr", psnr(error), prog_bar=True)

    def _log_mean(self, name: str, value: Tensor, count: int) -> None:
        self.log(name, value, on_epoch=True, batch_size=count, sync_dist=True, prog_bar=True)

    def _corrupt(
        self, clean: Tensor, purpose: str, step: int, rank: int, copies: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Noisy copies, all first ones, then all second ones, ..., and the sigma of each."""
        key = derive_key(self.config.seed, purpose, step, rank)
        low, high = (torch.tensor(end).log() for end in self.config.sigma_range)
        source = torch.Generator().manual_seed(key & (2**63 - 1))
        spread = torch.rand(len(clean), generator=source)
        sigmas = torch.exp(low + (high - low) * spread).repeat(copies)
        sigmas = sigmas.to(clean.device, non_blocking=True)
        repeated = _layout(clean.repeat(copies, 1, 1, 1))
        noise = standard_normal(key, repeated.shape, clean.device)
        return repeated + sigmas.reshape(-1, 1, 1, 1) * noise, sigmas


def optimizer_with_schedule(
    network: nn.Module, config: TrainingConfig
) -> OptimizerLRSchedulerConfig:
    """AdamW whose learning rate follows ``config.learning_rate_factor`` step by step."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.learning_rate_factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Fixed:
    """Classifiers that take part without being trained."""

    def __init__(self, surrogates: Sequence[nn.Module], judges: dict[str, nn.Module]) -> None:
        self.surrogates = [_frozen(surrogate) for surrogate in surrogates]
        self.judges = {name: _frozen(judge) for name, judge in judges.items()}

    def to(self, device: torch.device) -> None:
        for module in (*self.surrogates, *self.judges.values()):
            module.to(device).to(memory_format=torch.channels_last)


def _frozen(classifier: nn.Module) -> nn.Module:
    return folded(classifier.eval()).requires_grad_(False)


def check_loss(loss: Tensor, step: int) -> None:
    """:func:`check_finite`; on an accelerator at every 20th step, as looking waits for it.

    Between them nothing is kept: every validation looks, too, and checkpoints follow it.
    """
    if loss.device.type == "cpu" or step % 20 == 0:
        check_finite("loss", loss, step)


def check_finite(name: str, value: Tensor, step: int) -> None:
    """Abort a training whose loss or error is NaN or infinite.

    Raises:
        TrainingError: it is.
    """
    if not torch.isfinite(value):
        raise TrainingError(
            f"the {name} became {value.item()} at step {step}; the last checkpoint is kept. "
            "Lower the learning rate, or train in float32 if precision is reduced"
        )


def _layout(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
