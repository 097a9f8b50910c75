"""The settings of a training, refused before it starts when they make no sense."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.errors import SettingError


class Objective(StrEnum):
    """The three trainings of Salman et al. 2020, section 3."""

    MSE = "mse"
    """Be close to the clean image; needs no classifier."""
    STABILITY = "stability"
    """Let the classifier answer as it does on the clean image."""
    HYBRID = "hybrid"
    """Mean squared error first, then stability."""


class Target(StrEnum):
    """What stability takes for the classifier's answer on the clean image."""

    LABEL = "label"
    """Its most probable class (Salman et al. 2020, section 3.1)."""
    SOFT = "soft"
    """All its probabilities."""
    TRUTH = "truth"
    """Not its answer but the label of the data, which needs one for every image."""


class Disagreement(StrEnum):
    """How stability measures that an answer is not the wanted one."""

    NATS = "nats"
    """Cross-entropy (Salman et al. 2020, equation 5): without bound, so that few copies on which
    the classifier is sure and wrong count most."""
    VOTES = "votes"
    """Probability of another class: at most 1, the expected number of lost votes."""


class Weighting(StrEnum):
    """How the squared errors of images with different sigma are weighed in mse."""

    EQUAL = "equal"
    """All alike, so that the strongest noise counts most."""
    VARIANCE = "variance"
    """By the inverse of the error that a linear denoiser would leave (Karras et al. 2022,
    section 5), so that every sigma counts alike."""


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides the result of a training, beside the data and the networks.

    Args:
        objective: mse, stability or hybrid.
        sigma: noise level on images in [0, 1]; with ``sigma_max`` the lower end of a range
            from which every image draws its own, uniformly in the logarithm.
        sigma_max: upper end of that range, or None for the one sigma.
        steps: optimiser steps.
        mse_steps: of a hybrid training, the first steps that use mse; None for half.
        target: what stability aims at.
        disagreement: how stability measures the distance to that.
        temperature: by which logits are divided first. Classifiers that never saw noise are
            very sure of wrong answers under it.
        copies: noisy copies of each image of a stability batch; they share its sigma.
        consistency: weight of the copies' agreement with their mean answer, from two copies on.
        entropy: weight of the entropy of that mean answer.
        anchor: weight of mse (equal or by ``weighting``) beside stability.
        adversary: L2 length of the shift, in pixel values in [0, 1], by which the images are
            attacked before stability is computed; 0 for none.
        adversary_steps: gradient steps of that attack.
        weighting: how mse weighs images with different sigma.
        batch_size: images a step and device.
        learning_rate: peak of AdamW's, reached after ``warmup`` steps and ending at 0 (cosine).
        weight_decay: AdamW's.
        ema: decay of the exponential moving average of the weights, which is the result; 0 takes
            the last weights.
        clip: largest norm of the gradient.
        epoch_steps: steps between validations and checkpoints.
        seed: of initial weights, order, augmentation and noise.

    Raises:
        SettingError: a value is out of its range.
    """

    objective: Objective = Objective.MSE
    sigma: float = 0.25
    sigma_max: float | None = None
    steps: int = 8000
    mse_steps: int | None = None
    target: Target = Target.SOFT
    disagreement: Disagreement = Disagreement.NATS
    temperature: float = 1.0
    copies: int = 1
    consistency: float = 0.0
    entropy: float = 0.0
    anchor: float = 0.0
    adversary: float = 0.0
    adversary_steps: int = 1
    weighting: Weighting = Weighting.EQUAL
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 300
    ema: float = 0.999
    clip: float = 1.0
    epoch_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if self.sigma_max is not None and check_sigma(self.sigma_max) < self.sigma:
            raise SettingError(
                f"the range of sigma ends below its start: {self.sigma} to {self.sigma_max}"
            )
        for name in ("steps", "batch_size", "epoch_steps", "copies", "adversary_steps"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise SettingError(f"the learning rate must be above 0, got {self.learning_rate}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise SettingError(f"the temperature must be above 0, got {self.temperature}")
        if not 0 <= self.ema < 1:
            raise SettingError(f"the decay of the average must be in [0, 1), got {self.ema}")
        for name in ("consistency", "entropy", "anchor", "adversary"):
            if not (0 <= getattr(self, name) < math.inf):
                raise SettingError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.copies == 1 and (self.consistency or self.entropy):
            raise SettingError(
                "consistency and entropy compare noisy copies of one image, got copies=1; "
                "take at least 2 copies"
            )
        if self.mse_steps is not None and not 0 <= self.mse_steps <= self.steps:
            raise SettingError(
                f"mse_steps must be between 0 and the {self.steps} steps, got {self.mse_steps}"
            )

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Smallest and largest sigma of the training."""
        return self.sigma, self.sigma if self.sigma_max is None else self.sigma_max

    def uses_stability(self, step: int) -> bool:
        """Whether the objective of this step is stability."""
        if self.objective is Objective.HYBRID:
            return step >= (self.steps // 2 if self.mse_steps is None else self.mse_steps)
        return self.objective is Objective.STABILITY

    def learning_rate_factor(self, step: int) -> float:
        """Share of the peak learning rate at a step: linear warm-up, then cosine to 0."""
        warmup = min(self.warmup, max(1, self.steps // 10))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in checkpoints and cards."""
        return {key: getattr(value, "value", value) for key, value in asdict(self).items()}
