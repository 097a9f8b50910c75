"""The settings of a training, checked before it starts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.errors import SettingError


class Objective(StrEnum):
    """The three objectives of Salman et al. 2020, section 3."""

    MSE = "mse"
    """Mean squared error to the clean image. Needs no classifier."""
    STABILITY = "stability"
    """Cross-entropy to the classifier's answer on the clean image."""
    HYBRID = "hybrid"
    """Mean squared error first, then stability."""


class Target(StrEnum):
    """The answer that stability aims at."""

    LABEL = "label"
    """The classifier's most probable class of the clean image (Salman et al. 2020, section 3.1)."""
    SOFT = "soft"
    """The classifier's probabilities of the clean image."""
    TRUTH = "truth"
    """The label of the data, which every image must have."""
    FEATURES = "features"
    """The outputs of layers of the classifier for the clean image (Johnson et al. 2016, section
    3.2), at every position, so that few images and steps are needed."""


class Weighting(StrEnum):
    """The weights of squared errors under different sigma."""

    EQUAL = "equal"
    """Equal weights, so that the largest sigma counts most."""
    VARIANCE = "variance"
    """The inverse of the error that a linear denoiser would leave (Karras et al. 2022,
    section 5), so that every sigma counts equally."""


class Spacing(StrEnum):
    """How sigma is drawn from its range."""

    LOG = "log"
    """Uniformly in its logarithm, so that every factor counts equally."""
    LINEAR = "linear"
    """Uniformly, so that weak noise, which harms a classifier least, takes fewer steps."""


def check_at_least(bound: int, settings: object, *names: str) -> None:
    """Check that attributes are None, or finite and at least ``bound``.

    Raises:
        SettingError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not bound <= value < math.inf:
            raise SettingError(
                f"{name} must be at least {bound} and finite, got {value}. Use {bound} or more."
            )


def _option(default: Any, help: str, **more: Any) -> Any:
    """A field whose metadata are its ``help`` and ``more``, for the command line."""
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class TrainingConfig:
    """The settings that decide the result of a training, given the data and the networks.

    The command line takes the help of its options from the metadata of the fields.

    Raises:
        SettingError: a value is out of its range.
    """

    objective: Objective = _option(
        Objective.MSE, "Training objective; hybrid is mse first, then stability."
    )
    sigma: float = _option(
        0.25, "Standard deviation of the noise on pixel values in [0, 1].", length=True
    )
    sigma_max: float | None = _option(
        None,
        "Draw sigma from --sigma to this for each image.",
        length=True,
    )
    spacing: Spacing = _option(
        Spacing.LOG, "Draw sigma uniformly in its logarithm (log) or uniformly (linear)."
    )
    steps: int = _option(8000, "Number of optimiser steps.")
    mse_steps: int | None = _option(
        None, "Number of first steps of hybrid that use mse.", show_default="half"
    )
    target: Target = _option(
        Target.SOFT,
        "Stability: aim at the label, the probabilities (soft) or the features of the clean "
        "image, or at the label of the data (truth).",
    )
    layers: str = _option(
        "",
        "Target features: layers of the classifier, such as layer2,layer3.",
        show_default="the last of each of the three smallest sizes",
    )
    temperature: float = _option(
        1.0, "Stability: divide the classifier's logits by this number, above 0."
    )
    copies: int = _option(1, "Stability: number of noisy copies of each image.")
    consistency: float = _option(
        0.0, "Stability: weight of the divergence of the copies from their mean answer."
    )
    entropy: float = _option(0.0, "Stability: weight of the entropy of the copies' mean answer.")
    anchor: float = _option(0.0, "Stability: weight of mse, added to stability.")
    weighting: Weighting = _option(
        Weighting.EQUAL, "Mse: weights of images that have different sigma."
    )
    batch_size: int = _option(64, "Number of images in a step, for each device.")
    learning_rate: float = _option(
        2e-3, "Peak learning rate, reached after a warm-up. A cosine lowers it to 0."
    )
    weight_decay: float = _option(0.01, "Weight decay of AdamW.")
    warmup: int = _option(300, "Number of warm-up steps, at most a tenth of all steps.")
    ema: float = _option(
        0.999, "Decay of the moving average of the weights, in [0, 1); 0 takes the last weights."
    )
    clip: float = _option(1.0, "Maximum L2 norm of the gradient.")
    epoch_steps: int = _option(500, "Number of steps between validations and checkpoints.")
    seed: int = _option(
        0, "Seed of the initial weights, the order, the augmentation and the noise."
    )

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if self.sigma_max is not None and check_sigma(self.sigma_max) < self.sigma:
            raise SettingError(
                f"sigma_max must be at least sigma, got {self.sigma_max} and {self.sigma}. "
                "Swap them, or omit sigma_max to train for one sigma."
            )
        check_at_least(1, self, "steps", "batch_size", "epoch_steps", "copies")
        check_at_least(0, self, "consistency", "entropy", "anchor")
        for name in ("learning_rate", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(
                    f"{name} must be above 0 and finite, got {getattr(self, name)}. Omit it to use "
                    "the default."
                )
        if not 0 <= self.ema < 1:
            raise SettingError(
                f"ema must be in [0, 1), got {self.ema}. Use 0.999, or 0 for the last weights."
            )
        if self.copies == 1 and (self.consistency or self.entropy):
            raise SettingError(
                "consistency and entropy compare noisy copies of one image, got copies=1. "
                "Use at least 2 copies."
            )
        if self.layers and self.target is not Target.FEATURES:
            raise SettingError(
                f"layers are for target features, got target {self.target} and layers "
                f"{self.layers!r}. Use target features, or omit the layers."
            )
        if self.target is Target.FEATURES and (
            self.consistency or self.entropy or self.temperature != 1
        ):
            raise SettingError(
                "consistency, entropy and temperature are about answers, and target features has "
                "none. Omit them, or use target soft, label or truth."
            )
        if self.mse_steps is not None and not 0 <= self.mse_steps <= self.steps:
            raise SettingError(
                f"mse_steps must be in [0, {self.steps}], the number of steps, got "
                f"{self.mse_steps}. Omit it to use half of the steps."
            )

    @property
    def sigma_range(self) -> tuple[float, float]:
        """The smallest and the largest sigma of the training."""
        return self.sigma, self.sigma if self.sigma_max is None else self.sigma_max

    def uses_stability(self, step: int) -> bool:
        """Return whether this step trains stability."""
        if self.objective is Objective.HYBRID:
            return step >= (self.steps // 2 if self.mse_steps is None else self.mse_steps)
        return self.objective is Objective.STABILITY

    def learning_rate_factor(self, step: int) -> float:
        """Return the share of the peak learning rate: linear warm-up, then cosine to 0."""
        warmup = min(self.warmup, max(1, self.steps // 10))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as checkpoints and cards hold them."""
        return {key: getattr(value, "value", value) for key, value in asdict(self).items()}
