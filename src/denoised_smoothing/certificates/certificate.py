"""What the counts prove: sampling plans, certificates and predictions."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

from denoised_smoothing.certificates.bounds import (
    binomial_test,
    check_alpha,
    clopper_pearson_lower,
)
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.radii import (
    check_sigma,
    format_down,
    gaussian_radius,
    l1_radius,
    linf_radius,
    round_down,
)
from denoised_smoothing.errors import CountsError, SettingError


class Noise(StrEnum):
    """Which sampler the noisy copies come from; a certificate says which one it rests on."""

    FLOAT = "float"
    """x + sigma * z in float32, as in Cohen et al. 2019: unproven below rounding errors."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a certificate rests on beside the counts.

    Args:
        sigma: standard deviation of the noise on images in [0, 1], above 0.
        alpha: probability that a certificate is wrong, in (0, 1).
        dimension: pixel values of an image, C * H * W.
        noise: the sampler of the noisy copies.
        seed: the seed of the noise.

    Raises:
        SettingError: sigma or alpha is out of its range, or the seed no whole number.
    """

    sigma: float
    alpha: float
    dimension: int
    seed: int
    noise: Noise = Noise.FLOAT

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_alpha(self.alpha)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise SettingError(f"the seed of the noise is a whole number, got {self.seed!r}")


@dataclass(frozen=True)
class SamplingPlan(ABC):
    """How many noisy copies an image gets, and what may be concluded from them.

    The stopping rule belongs to the plan: the scheduling loop asks :meth:`targets` after each
    finished chunk and ends the image when every target is reached.
    """

    kind: ClassVar[str]

    @abstractmethod
    def targets(self, counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
        """Copies wanted in each stage, given the counts so far; each only ever grows."""

    @abstractmethod
    def certificate(self, counts: Mapping[Stage, LabelCounts], setting: Setting) -> Certificate:
        """The certificate that the finished counts prove."""

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, the inverse of :func:`plan_from_dict`."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class FixedBudget(SamplingPlan):
    """n0 copies choose the candidate class, n others bound its probability.

    CERTIFY of Cohen et al. 2019, section 3.2.2. The budget is fixed in advance and may not be
    extended afterwards: the Clopper-Pearson bound would no longer hold.

    Raises:
        SettingError: n0 or n is below 1.
    """

    kind: ClassVar[str] = "fixed"
    n0: int = 100
    n: int = 10_000

    def __post_init__(self) -> None:
        _check_copies("n0", self.n0)
        _check_copies("n", self.n)

    def targets(self, counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
        return {Stage.SELECTION: self.n0, Stage.ESTIMATION: self.n}

    def certificate(self, counts: Mapping[Stage, LabelCounts], setting: Setting) -> Certificate:
        for stage, target in self.targets(counts).items():
            had = counts[stage].n if stage in counts else 0
            if had != target:
                raise CountsError(
                    f"a fixed budget of {target} copies for {stage} cannot be certified from "
                    f"{had}: the bound holds for exactly the number fixed in advance"
                )
        selection, estimation = counts[Stage.SELECTION], counts[Stage.ESTIMATION]
        _check_independent(selection, estimation)
        candidate = selection.top()
        successes = 0 if candidate is None else estimation.of(candidate)
        lower = clopper_pearson_lower(successes, estimation.n, setting.alpha)
        certified = candidate is not None and lower >= 0.5
        return Certificate(
            label=candidate if certified else None,
            radius=gaussian_radius(setting.sigma, lower) if certified else 0.0,
            lower_bound=lower,
            plan=self,
            setting=setting,
            selection=selection,
            counts=estimation,
        )


def _check_independent(selection: LabelCounts, estimation: LabelCounts) -> None:
    """Refuse to certify on the copies that chose the candidate, or across images or runs."""
    got = (selection.stage, estimation.stage)
    if got != (Stage.SELECTION, Stage.ESTIMATION):
        raise CountsError(f"expected counts of selection and of estimation, got {got}")
    if (selection.run, selection.image_id) != (estimation.run, estimation.image_id):
        raise CountsError(
            f"selection is of image {selection.image_id!r} in run {selection.run!r}, estimation "
            f"of {estimation.image_id!r} in {estimation.run!r}; they must be of one image and run"
        )


@dataclass(frozen=True)
class PredictionBudget:
    """The n copies of ``predict``; not a sampling plan, as nothing is certified.

    Raises:
        SettingError: n is below 1.
    """

    n: int = 1_000

    def __post_init__(self) -> None:
        _check_copies("n", self.n)

    def targets(self, counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
        """All n at once."""
        return {Stage.PREDICTION: self.n}


def _check_copies(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingError(
            f"{name} is a number of noisy copies and must be a whole number of at least 1, "
            f"got {value!r}"
        )


def plan_from_dict(values: Mapping[str, Any]) -> SamplingPlan:
    """The plan that :meth:`SamplingPlan.to_dict` wrote.

    Raises:
        SettingError: of a kind that this version does not know.
    """
    known: dict[str, type[SamplingPlan]] = {FixedBudget.kind: FixedBudget}
    kind = values.get("kind", "")
    if kind not in known:
        raise SettingError(f"unknown sampling plan {kind!r}; this version knows {sorted(known)}")
    return known[kind](**{name: value for name, value in values.items() if name != "kind"})


@dataclass(frozen=True)
class Certificate:
    """The proof that the smoothed classifier answers ``label`` within ``radius``.

    With probability at least 1 - alpha over the noise, the smoothed classifier gives ``label``
    to every image closer than ``radius`` in L2 (Cohen et al. 2019, Theorem 1 and
    Proposition 2). ``label is None`` means that it abstains: nothing is proven.

    ``radius`` is the computed number in units of pixel values in [0, 1]; wherever it leaves
    the program (text, JSON, tables) it is rounded down. ``lower_bound`` is the lower
    confidence bound on the probability of the candidate class.
    """

    label: int | None
    radius: float
    lower_bound: float
    plan: SamplingPlan
    setting: Setting
    selection: LabelCounts
    counts: LabelCounts

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return self.setting.sigma

    @property
    def alpha(self) -> float:
        """Probability, over the noise, that the certificate is wrong."""
        return self.setting.alpha

    @property
    def seed(self) -> int:
        """The seed of the noise, with which the same counts are drawn again."""
        return self.setting.seed

    @property
    def noise(self) -> Noise:
        """The sampler that the certificate rests on."""
        return self.setting.noise

    @property
    def calls(self) -> int:
        """How many classifier calls (noisy copies) it took."""
        return self.selection.n + self.counts.n

    @property
    def radius_l1(self) -> float:
        """The radius in L1 that the L2 radius implies."""
        return l1_radius(self.radius)

    @cached_property
    def radius_linf(self) -> float:
        """The radius in Linf that the L2 radius implies: radius / sqrt(C * H * W)."""
        return linf_radius(self.radius, self.setting.dimension)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, radii and the bound rounded down to 6 decimals."""
        return {
            "label": self.label,
            "radius": round_down(self.radius, 6),
            "radius_l1": round_down(self.radius_l1, 6),
            "radius_linf": round_down(self.radius_linf, 6),
            "lower_bound": round_down(self.lower_bound, 6),
            "sigma": self.sigma,
            "alpha": self.alpha,
            "plan": self.plan.to_dict(),
            "calls": self.calls,
            "noise": self.noise.value,
            "dimension": self.setting.dimension,
            "seed": str(self.seed),
            "run": self.counts.run,
            "image_id": self.counts.image_id,
            "selection": {"counts": list(self.selection.counts), "failed": self.selection.failed},
            "estimation": {"counts": list(self.counts.counts), "failed": self.counts.failed},
        }

    def to_json(self) -> str:
        """The certificate as one JSON object, the inverse of :meth:`from_json`."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read :meth:`to_json` back; label and radius are derived anew from the counts.

        Raises:
            CountsError, SettingError: the counts do not fit the plan, or a value is out of range.
        """
        values = json.loads(text)
        counts = {
            stage: LabelCounts(
                values["run"],
                values["image_id"],
                stage,
                tuple(values[stage.value]["counts"]),
                values[stage.value]["failed"],
            )
            for stage in (Stage.SELECTION, Stage.ESTIMATION)
        }
        setting = Setting(
            sigma=values["sigma"],
            alpha=values["alpha"],
            dimension=values["dimension"],
            seed=int(values["seed"]),
            noise=Noise(values["noise"]),
        )
        return plan_from_dict(values["plan"]).certificate(counts, setting)

    def __str__(self) -> str:
        bound = f"lower bound {format_down(self.lower_bound)} at alpha {self.alpha:g}"
        rest = f"sigma {self.sigma:g}, {self.calls:,} classifier calls, {self.noise} noise"
        if self.label is None:
            return f"abstains: nothing certified ({bound}, {rest})"
        return (
            f"label {self.label} within L2 radius {format_down(self.radius)} "
            f"(L1 {format_down(self.radius_l1)}, Linf {format_down(self.radius_linf, 5)}; "
            f"{bound}, {rest})"
        )

    def _repr_html_(self) -> str:
        answer = "abstains" if self.label is None else str(self.label)
        rows = {
            "label": answer,
            "L2 radius": format_down(self.radius),
            "L1 radius": format_down(self.radius_l1),
            "Linf radius": format_down(self.radius_linf, 5),
            "lower bound": format_down(self.lower_bound),
            "sigma": f"{self.sigma:g}",
            "alpha": f"{self.alpha:g}",
            "classifier calls": f"{self.calls:,}",
            "noise": self.noise.value,
        }
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table>{cells}</table>"


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
