"""The fixed budget of Cohen et al. 2019."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from denoised_smoothing.certificates.bounds import (
    check_copies,
    checkpoint_step,
    clopper_pearson_upper,
)
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.radii import gaussian_radius, two_sided_radius
from denoised_smoothing.errors import CountsError

Counts = Mapping[Stage, LabelCounts]


class _Bounds(NamedTuple):
    """Upper bounds on the failures of the candidate, and on the runner-up where two-sided."""

    candidate: int | None
    failure: float
    other: float | None
    certified: bool


@dataclass(frozen=True)
class FixedBudget(SamplingPlan):
    """n0 copies choose the candidate class, n others bound its probability.

    CERTIFY of Cohen et al. 2019, section 3.2.2, the reference for other plans. The budget is
    fixed in advance and may not be extended afterwards: the Clopper-Pearson bound would no
    longer hold. Sampling ends early (checked after every tenth of n) where the image will
    abstain whatever the remaining copies are; that changes no label and no radius.

    Args:
        n0: copies that choose the candidate class.
        n: copies that bound its probability.
        two_sided: bound the runner-up as well, each at alpha / 2; of many classes it certifies
            where none has a majority (Cohen et al. 2019, Theorem 1).

    Raises:
        SettingError: n0 or n is below 1.
    """

    kind: ClassVar[str] = "fixed"
    n0: int = 100
    n: int = 10_000
    two_sided: bool = False

    def __post_init__(self) -> None:
        check_copies("n0", self.n0)
        check_copies("n", self.n)

    def targets(self, counts: Counts, parameters: SmoothingParameters) -> dict[Stage, int]:
        selection, estimation = counts.get(Stage.SELECTION), counts.get(Stage.ESTIMATION)
        step, had = checkpoint_step(self.n), 0 if estimation is None else estimation.n
        wanted = min(self.n, had - had % step + step)
        if had % step == 0 or had == self.n:
            if selection is None or selection.n < self.n0:
                wanted = max(had, step)
            elif (
                selection.top() is None
                if had == 0
                else not self._bounds(counts, parameters.alpha, best_case=True).certified
            ):
                wanted = had
        return {Stage.SELECTION: self.n0, Stage.ESTIMATION: wanted}

    def certificate(self, counts: Counts, parameters: SmoothingParameters) -> Certificate:
        for stage, target in ((Stage.SELECTION, self.n0), (Stage.ESTIMATION, self.n)):
            had = counts[stage].n if stage in counts else 0
            ended_early = (
                stage is Stage.ESTIMATION
                and stage in counts
                and had < target
                and not self._bounds(counts, parameters.alpha, best_case=True).certified
            )
            if had != target and not ended_early:
                raise CountsError(
                    f"A fixed budget needs {target} copies for {stage}, got {had}: the bound "
                    "holds for exactly the number fixed in advance. Resume the run to draw them."
                )
        selection, estimation = counts[Stage.SELECTION], counts[Stage.ESTIMATION]
        check_independent(selection, estimation)
        candidate, failure, other, certified = self._bounds(counts, parameters.alpha)
        if other is None:
            radius = gaussian_radius(parameters.sigma, failure, parameters.error)
        else:
            radius = two_sided_radius(parameters.sigma, failure, other, parameters.error)
        return Certificate(
            label=candidate if certified else None,
            radius=radius if certified else 0.0,
            lower_bound=1.0 - failure,
            plan=self,
            parameters=parameters,
            selection=selection,
            counts=estimation,
            upper_bound=other,
        )

    def _bounds(self, counts: Counts, alpha: float, *, best_case: bool = False) -> _Bounds:
        """Bound candidate and runner-up; copies that were not drawn fail.

        In the best case they vote for the candidate.
        """
        candidate, estimation = counts[Stage.SELECTION].top(), counts[Stage.ESTIMATION]
        votes, missing = dict(estimation.votes), self.n - estimation.n
        successes = votes.pop(-1 if candidate is None else candidate, 0) + missing * best_case
        level = alpha / 2 if self.two_sided else alpha
        failure, other = clopper_pearson_upper(self.n - successes, self.n, level), None
        if self.two_sided:
            others = max(votes.values(), default=0) + estimation.failed + missing * (not best_case)
            other = min(failure, clopper_pearson_upper(others, self.n, level))
        above = failure <= 0.5 or (other is not None and 1.0 - failure > other)
        return _Bounds(candidate, failure, other, candidate is not None and above)

    def event_bound(
        self,
        counts: Counts,
        occurred: Callable[[LabelCounts], int],
        alpha: float,
        parameters: SmoothingParameters,
    ) -> float:
        """Return the Clopper-Pearson bound; copies that were not drawn count as occurred."""
        estimation = counts[Stage.ESTIMATION]
        missing = self.n - estimation.n
        return clopper_pearson_upper(occurred(estimation) + missing, self.n, alpha)

    def most_calls(self) -> int:
        return self.n0 + self.n

    def to_dict(self) -> dict[str, Any]:
        # Without the option where it is off: runs of before there was one can be resumed.
        return {k: v for k, v in super().to_dict().items() if k != "two_sided" or v}


def check_independent(selection: LabelCounts, estimation: LabelCounts) -> None:
    """Refuse to certify on the copies that chose the candidate, or across images or runs.

    Raises:
        CountsError: the stages are not selection and estimation of one image and run.
    """
    got = (selection.stage, estimation.stage)
    if got != (Stage.SELECTION, Stage.ESTIMATION):
        raise CountsError(
            f"A certificate needs counts of selection and of estimation, got {got}. Count each "
            "stage with its own copies."
        )
    if (selection.run, selection.image_id) != (estimation.run, estimation.image_id):
        raise CountsError(
            f"Selection is of image {selection.image_id!r} in run {selection.run!r}, estimation "
            f"of {estimation.image_id!r} in {estimation.run!r}. Use counts of one image and run."
        )
