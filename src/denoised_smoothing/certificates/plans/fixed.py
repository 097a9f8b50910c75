"""The fixed budget of Cohen et al. 2019, and what plans with a fixed n have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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


@dataclass(frozen=True)
class FixedBudget(SamplingPlan):
    """n0 copies choose the candidate class, n others bound its probability.

    CERTIFY of Cohen et al. 2019, section 3.2.2, the reference for other plans. The budget is
    fixed in advance and may not be extended afterwards: the Clopper-Pearson bound would no
    longer hold. Sampling ends early (looked at after every tenth of n) where the image will
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
        wanted = estimation_target(
            counts, self.n0, self.n, parameters.alpha, two_sided=self.two_sided
        )
        return {Stage.SELECTION: self.n0, Stage.ESTIMATION: wanted}

    def certificate(self, counts: Counts, parameters: SmoothingParameters) -> Certificate:
        return fixed_certificate(
            self, counts, (self.n0, self.n), parameters, two_sided=self.two_sided
        )

    def most_calls(self) -> int:
        return self.n0 + self.n

    def to_dict(self) -> dict[str, Any]:
        # Without the option as before there was one, so that older runs go on.
        return {k: v for k, v in super().to_dict().items() if k != "two_sided" or v}


@dataclass(frozen=True, slots=True)
class _Bounds:
    """On the candidate's probability (1 - failure from below), and on the runner-up's."""

    failure: float
    other: float | None

    @property
    def certified(self) -> bool:
        return self.failure <= 0.5 or (self.other is not None and 1.0 - self.failure > self.other)


def _bounds(successes: int, other: int, n: int, alpha: float, *, two_sided: bool) -> _Bounds:
    if not two_sided:
        return _Bounds(clopper_pearson_upper(n - successes, n, alpha), None)
    failure = clopper_pearson_upper(n - successes, n, alpha / 2)
    return _Bounds(failure, min(failure, clopper_pearson_upper(other, n, alpha / 2)))


def estimation_target(
    counts: Counts, n0: int, n: int, alpha: float, *, two_sided: bool = False
) -> int:
    """Copies of the estimation stage that are wanted: n, or fewer where it will abstain anyhow."""
    step = checkpoint_step(n)
    selection, estimation = counts.get(Stage.SELECTION), counts.get(Stage.ESTIMATION)
    had = 0 if estimation is None else estimation.n
    if had % step and had != n:
        return min(n, had + step - had % step)
    if selection is None or selection.n < n0:
        return max(had, step)
    if _abstains(selection, estimation, n, alpha, two_sided=two_sided):
        return had
    return min(n, had + step)


def _abstains(
    selection: LabelCounts,
    estimation: LabelCounts | None,
    n: int,
    alpha: float,
    *,
    two_sided: bool,
) -> bool:
    """Whether the image abstains even if all remaining copies are for the candidate."""
    candidate = selection.top()
    if candidate is None:
        return True
    if estimation is None:
        return False
    best = estimation.of(candidate) + n - estimation.n
    other = estimation.top_other(candidate) + estimation.failed
    return not _bounds(best, other, n, alpha, two_sided=two_sided).certified


def fixed_certificate(
    plan: SamplingPlan,
    counts: Counts,
    budget: tuple[int, int],
    parameters: SmoothingParameters,
    *,
    two_sided: bool = False,
) -> Certificate:
    """The certificate of n0 copies for selection and n for estimation.

    Fewer are enough for an abstention that the remaining ones could not have changed.

    Raises:
        CountsError: other numbers of copies, or stages of different images.
    """
    n0, n = budget
    selection, estimation = counts.get(Stage.SELECTION), counts.get(Stage.ESTIMATION)
    _check_number(selection, Stage.SELECTION, n0)
    assert selection is not None
    if (
        estimation is None
        or estimation.n >= n
        or not _abstains(selection, estimation, n, parameters.alpha, two_sided=two_sided)
    ):
        _check_number(estimation, Stage.ESTIMATION, n)
    assert estimation is not None
    check_independent(selection, estimation)
    candidate = selection.top()
    # Copies that were not drawn count as failures, of the candidate and of the bound on others.
    missing = n - estimation.n
    successes = 0 if candidate is None else estimation.of(candidate)
    other = estimation.top_other(-1 if candidate is None else candidate)
    bounds = _bounds(
        successes, other + estimation.failed + missing, n, parameters.alpha, two_sided=two_sided
    )
    certified = candidate is not None and bounds.certified
    if bounds.other is None:
        radius = gaussian_radius(parameters.sigma, bounds.failure, parameters.error)
    else:
        radius = two_sided_radius(parameters.sigma, bounds.failure, bounds.other, parameters.error)
    return Certificate(
        label=candidate if certified else None,
        radius=radius if certified else 0.0,
        lower_bound=1.0 - bounds.failure,
        plan=plan,
        parameters=parameters,
        selection=selection,
        counts=estimation,
        upper_bound=bounds.other,
    )


def _check_number(counts: LabelCounts | None, stage: Stage, target: int) -> None:
    had = 0 if counts is None else counts.n
    if had != target:
        raise CountsError(
            f"a fixed budget of {target} copies for {stage} cannot be certified from "
            f"{had}: the bound holds for exactly the number fixed in advance"
        )


def check_independent(selection: LabelCounts, estimation: LabelCounts) -> None:
    """Refuse to certify on the copies that chose the candidate, or across images or runs.

    Raises:
        CountsError: the stages are not selection and estimation of one image and run.
    """
    got = (selection.stage, estimation.stage)
    if got != (Stage.SELECTION, Stage.ESTIMATION):
        raise CountsError(f"expected counts of selection and of estimation, got {got}")
    if (selection.run, selection.image_id) != (estimation.run, estimation.image_id):
        raise CountsError(
            f"selection is of image {selection.image_id!r} in run {selection.run!r}, estimation "
            f"of {estimation.image_id!r} in {estimation.run!r}; they must be of one image and run"
        )
