"""The smoothed classifier's answer without a radius, and the copies it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from denoised_smoothing.certificates.bounds import binomial_test, check_copies
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.setting import Setting


@dataclass(frozen=True)
class PredictionBudget:
    """The n copies of ``predict``; not a sampling plan, as nothing is certified.

    Raises:
        SettingError: n is below 1.
    """

    n: int = 1_000

    def __post_init__(self) -> None:
        check_copies("n", self.n)

    def targets(self, counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
        """All n at once."""
        return {Stage.PREDICTION: self.n}


@dataclass(frozen=True)
class Prediction:
    """The smoothed classifier's answer, without a radius.

    PREDICT of Cohen et al. 2019, section 3.2.1: ``label`` is the most probable class with
    probability at least 1 - alpha, or None where the two-sided binomial test (Hung & Fithian
    2019) on the two most frequent labels has a p-value above alpha.
    """

    label: int | None
    p_value: float
    setting: Setting
    counts: LabelCounts

    @classmethod
    def from_counts(cls, counts: LabelCounts, setting: Setting) -> Prediction:
        """Apply the test to the counts of stage ``prediction``."""
        top = counts.top()
        votes = [*sorted(counts.counts, reverse=True), 0, 0]
        p_value = binomial_test(votes[0], votes[1])
        label = top if p_value <= setting.alpha else None
        return cls(label, p_value, setting, counts)

    @property
    def alpha(self) -> float:
        """Probability, over the noise, that another class is the most probable one."""
        return self.setting.alpha

    @property
    def calls(self) -> int:
        """How many classifier calls (noisy copies) it took."""
        return self.counts.n

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "label": self.label,
            "p_value": self.p_value,
            "sigma": self.setting.sigma,
            "alpha": self.alpha,
            "calls": self.calls,
            "noise": self.setting.noise.value,
            "seed": str(self.setting.seed),
            "counts": list(self.counts.counts),
            "failed": self.counts.failed,
        }

    def __str__(self) -> str:
        answer = "abstains" if self.label is None else f"label {self.label}"
        return f"{answer} (p-value {self.p_value:.2g}, {self.calls:,} classifier calls)"
