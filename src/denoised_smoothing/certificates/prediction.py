"""The smoothed classifier's answer without a radius, and the copies it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

from denoised_smoothing.certificates.bounds import binomial_test, check_copies, checkpoint_step
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.errors import CountsError


@dataclass(frozen=True)
class PredictionBudget:
    """The n copies of ``predict``; not a sampling plan, as nothing is certified.

    Raises:
        SettingError: n is below 1.
    """

    n: int = 1_000

    def __post_init__(self) -> None:
        check_copies("n", self.n)

    def targets(
        self, counts: Mapping[Stage, LabelCounts], parameters: SmoothingParameters
    ) -> dict[Stage, int]:
        """Return n, or fewer where the rest cannot change the answer (checked every tenth)."""
        step, counted = checkpoint_step(self.n), counts.get(Stage.PREDICTION)
        had = 0 if counted is None else counted.n
        wanted = min(self.n, had - had % step + step)
        if (
            counted is not None
            and (had % step == 0 or had == self.n)
            and self._decided(counted, parameters.alpha) is not None
        ):
            wanted = had
        return {Stage.PREDICTION: wanted}

    def prediction(self, counts: LabelCounts, parameters: SmoothingParameters) -> Prediction:
        """Return the answer that all n copies give, from as many as decide it.

        Raises:
            CountsError: more copies than n, or fewer than decide it.
        """
        p_value = self._decided(counts, parameters.alpha) if counts.n <= self.n else None
        if p_value is None:
            raise CountsError(
                f"A prediction needs {self.n} copies, or as many as decide it, got {counts.n}. "
                "Count the rest."
            )
        label = counts.top() if p_value <= parameters.alpha else None
        return Prediction(label, p_value, parameters, counts)

    def _decided(self, counts: LabelCounts, alpha: float) -> float | None:
        """Return the p-value that the rest can only move away from alpha, or None.

        It falls with the first label's votes and rises with the second's: the rest can raise
        it most by going to the second, and lower it most by going to the first.
        """
        rest = self.n - counts.n
        first, second, *_ = [*nlargest(2, counts.votes.values()), 0, 0]
        highest = binomial_test(first, second + rest) if first >= second + rest else 1.0
        lowest = binomial_test(first + rest, second)
        if highest <= alpha:
            return highest
        return lowest if lowest > alpha else None


@dataclass(frozen=True)
class Prediction:
    """The smoothed classifier's answer, without a radius.

    PREDICT of Cohen et al. 2019, section 3.2.1: ``label`` is the most probable class with
    probability at least 1 - alpha, or None where the two-sided binomial test (Hung & Fithian
    2019) on the two most frequent labels has a p-value above alpha. Where fewer than all copies
    decided, ``p_value`` is the one nearest to alpha that all of them could have given.
    """

    label: int | None
    p_value: float
    parameters: SmoothingParameters
    counts: LabelCounts

    @property
    def alpha(self) -> float:
        """Probability, over the noise, that another class is the most probable one."""
        return self.parameters.alpha

    @property
    def calls(self) -> int:
        """Number of classifier calls (noisy copies)."""
        return self.counts.n

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "label": self.label,
            "p_value": self.p_value,
            "sigma": self.parameters.sigma,
            "alpha": self.alpha,
            "calls": self.calls,
            "noise": self.parameters.noise.value,
            "engine": self.parameters.engine and self.parameters.engine.value,
            "precision": self.parameters.precision and self.parameters.precision.value,
            "notes": list(self.parameters.notes),
            "seed": str(self.parameters.seed),
            **self.counts.to_dict(),
        }

    def __str__(self) -> str:
        answer = "abstains" if self.label is None else f"label {self.label}"
        return f"{answer} (p-value {self.p_value:.2g}, {self.calls:,} classifier calls)"
