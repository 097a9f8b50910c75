"""The anytime plan: sampling stops as soon as the question is answered, and may resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from denoised_smoothing.certificates.bounds import check_copies, clopper_pearson_upper
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.confidence_sequence import (
    MIXTURE_SHARE,
    NEAR_1,
    Boundary,
    boundary,
    check_anytime_alpha,
    mixture_failure_bound,
)
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.groups import Groups, check_nested, chosen_groups
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans.fixed import Counts, check_independent
from denoised_smoothing.certificates.plans.open_questions import sets_are_open
from denoised_smoothing.certificates.radii import (
    check_radii,
    failure_for_radius,
    gaussian_radius,
)
from denoised_smoothing.certificates.sampling_rule import SamplingRule
from denoised_smoothing.certificates.sets import check_sizes
from denoised_smoothing.errors import CountsError

RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""The radii of the tables of Cohen et al. 2019, except 0."""


@dataclass(frozen=True)
class Anytime(SamplingPlan):
    """Draws copies until it is known which of the radii an image is robust at.

    A bound that holds at all times at once (the truncated Krichevsky-Trofimov mixture of
    :mod:`~denoised_smoothing.certificates.confidence_sequence`) at 3/4 of alpha, and one
    Clopper-Pearson check at ``max_n`` copies at 1/4: together wrong with probability at most alpha.
    All radii are judged on one stream at no price in alpha, for their hypotheses are nested. It
    ends when all radii are certified, or when the smallest that is not certified is out of reach or
    improbable. The run may be extended (``more``) and stays valid; the check is not repeated.

    Args:
        radii: L2 radii to decide, in pixel values in [0, 1].
        max_n: the cap on copies of the estimation stage.
        n0: copies that choose the candidate class; 0 for none: the candidate is then the most
            frequent label so far, and alpha is halved for that (``docs/statistics.md``).
        every: copies between decisions.
        more: copies beyond ``max_n``, of a run that was extended.
        sets: sizes of sets of labels that are to be decided at the radii, too.
        groups: levels of groups that are to be decided too, from fine to coarse.

    Raises:
        SettingError: an argument is out of its range.
    """

    kind: ClassVar[str] = "anytime"
    radii: tuple[float, ...] = RADII
    max_n: int = 10_000
    n0: int = 50
    every: int = 100
    more: int = 0
    sets: tuple[int, ...] = ()
    groups: tuple[Groups, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "radii", check_radii(self.radii))
        check_copies("max_n", self.max_n)
        check_copies("every", self.every)
        for name, value in (("n0", self.n0), ("more", self.more)):
            if value != 0:
                check_copies(name, value)
        if self.sets:
            object.__setattr__(self, "sets", check_sizes(self.sets, "sets"))
        if self.groups:
            levels = (g if isinstance(g, Groups) else Groups.from_dict(g) for g in self.groups)
            object.__setattr__(self, "groups", check_nested(levels))
        if self.sets or self.groups:
            self.check_selects()

    def targets(self, counts: Counts, parameters: SmoothingParameters) -> dict[Stage, int]:
        selection = {Stage.SELECTION: self.n0} if self.n0 else {}
        boundaries = self.boundaries(parameters)
        if not boundaries:  # whatever the copies say, nothing can be certified
            return dict.fromkeys([*selection, Stage.ESTIMATION], 0)
        wanted = self._wanted(counts, boundaries, parameters)
        beyond = {Stage.CONTINUATION: wanted - self.max_n} if wanted > self.max_n else {}
        return {**selection, Stage.ESTIMATION: min(wanted, self.max_n), **beyond}

    def certificate(self, counts: Counts, parameters: SmoothingParameters) -> Certificate:
        estimation, later = counts.get(Stage.ESTIMATION), counts.get(Stage.CONTINUATION)
        if estimation is None:
            raise CountsError(
                "An anytime certificate needs counts of estimation, got none. Count some copies."
            )
        empty = LabelCounts(estimation.run, estimation.image_id, Stage.SELECTION)
        selection, more = counts.get(Stage.SELECTION, empty), 0 if later is None else later.n
        check_independent(selection, estimation)
        if selection.n > self.n0 or estimation.n > self.max_n or more > self.more:
            raise CountsError(
                f"The plan {self} allows fewer than {selection.n}, {estimation.n} and {more} "
                "copies for selection, estimation and continuation. Use the plan of the run."
            )
        if more and estimation.n < self.max_n:
            raise CountsError(
                f"Copies beyond the cap of {self.max_n} come after it is reached, got {more} "
                f"after {estimation.n}. Count the estimation first."
            )
        failure, label = self._failure_bound(counts, parameters)
        certified = label is not None and failure <= 0.5
        radius = gaussian_radius(parameters.sigma, failure, parameters.error)
        return Certificate(
            label=label if certified else None,
            radius=radius if certified else 0.0,
            lower_bound=1.0 - failure,
            plan=self,
            parameters=parameters,
            selection=selection,
            counts=estimation,
            continuation=later,
        )

    def event_bound(
        self,
        counts: Counts,
        occurred: Callable[[LabelCounts], int],
        alpha: float,
        parameters: SmoothingParameters,
    ) -> float:
        """Return the smallest of the bounds by the mixture and of the one check at the cap."""
        self.check_selects()
        estimation = counts[Stage.ESTIMATION]
        total = estimation.followed_by(counts.get(Stage.CONTINUATION))
        found = [
            mixture_failure_bound(votes.n - occurred(votes), votes.n, MIXTURE_SHARE * alpha, NEAR_1)
            for votes in dict.fromkeys((estimation, total))
            if votes.n
        ]
        if estimation.n == self.max_n:
            look = (1 - MIXTURE_SHARE) * alpha
            found.append(clopper_pearson_upper(occurred(estimation), self.max_n, look))
        return min(found, default=1.0)

    def most_calls(self) -> int:
        return self.n0 + self.max_n + self.more

    @property
    def selects(self) -> bool:
        return self.n0 > 0

    def check_alpha(self, alpha: float) -> None:
        check_anytime_alpha(alpha)

    def extended(self, more: int) -> Anytime:
        check_copies("more", more)
        return replace(self, more=self.more + more)

    def joined(self, other: SamplingRule) -> Anytime | None:
        """Return the plan itself, or extended to a larger cap, where nothing else differs.

        The cap it began with requests nothing new, whatever was added since; a smaller one is
        refused, as more may be drawn than it allows.
        """
        beyond = other.most_calls() - self.most_calls()
        if (
            not isinstance(other, Anytime)
            or replace(other, max_n=self.max_n, more=self.more) != self
            or (beyond < 0 and other.max_n != self.max_n)
        ):
            return None
        return self.extended(beyond) if beyond > 0 else self

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, without questions that are not asked."""
        values = {k: v for k, v in super().to_dict().items() if k not in ("sets", "groups")}
        sets = {"sets": self.sets} if self.sets else {}
        groups = {"groups": [level.to_dict() for level in self.groups]} if self.groups else {}
        return {**values, **sets, **groups}

    def boundaries(self, parameters: SmoothingParameters) -> list[tuple[float, Boundary]]:
        """Return the radii that can be reached, ascending, each with its decisions."""
        mixture, look = self._alphas(parameters)
        pairs = []
        for radius in self.radii:
            q0 = failure_for_radius(parameters.sigma, radius, parameters.error)
            if q0 > 0.0:
                found = boundary(q0, mixture, look, self.max_n, self.more, self.every)
                if found.reachable:
                    pairs.append((radius, found))
        return pairs

    def _alphas(self, parameters: SmoothingParameters) -> tuple[float, float]:
        """Return the levels of the mixture and of the check."""
        alpha = check_anytime_alpha(parameters.alpha) / (1 if self.n0 else 2)
        return MIXTURE_SHARE * alpha, (1 - MIXTURE_SHARE) * alpha

    def _wanted(
        self,
        counts: Counts,
        boundaries: list[tuple[float, Boundary]],
        parameters: SmoothingParameters,
    ) -> int:
        """Return the copies of estimation and continuation together, up to the next decision."""
        had = sum(counts[s].n for s in (Stage.ESTIMATION, Stage.CONTINUATION) if s in counts)
        selected = self._is_selected(counts)
        if selected and self.n0 and counts[Stage.SELECTION].top() is None:
            return had
        following = self._next_decision(counts, boundaries, had)
        if Stage.ESTIMATION not in counts or had not in boundaries[0][1].checkpoints:
            return following
        if not selected:
            return had
        if not self._decided(counts, boundaries, had):
            return following
        checkpoints = boundaries[0][1].checkpoints
        ahead = checkpoints[checkpoints > had]
        if not len(ahead) or not self._is_open(counts, boundaries, had, parameters):
            return had
        return int(ahead[0])

    def _is_open(
        self,
        counts: Counts,
        boundaries: list[tuple[float, Boundary]],
        had: int,
        parameters: SmoothingParameters,
    ) -> bool:
        """Return whether groups or sets are not decided."""
        chosen = chosen_groups(self.groups, counts[Stage.SELECTION]) if self.groups else []
        if any(not self._decided(counts, boundaries, had, labels) for _, labels in chosen):
            return True
        certificate = self.certificate(counts, parameters) if self.sets else None
        last = self.max_n + self.more
        return certificate is not None and sets_are_open(
            certificate, self.sets, self.radii, self.max_n, last
        )

    def _next_decision(
        self, counts: Counts, boundaries: list[tuple[float, Boundary]], had: int
    ) -> int:
        """Return the first checkpoint from which on a decision is possible.

        Copies between two decisions may all be in flight at once, and none of them is wasted;
        near a decision they become few.
        """
        checkpoints = boundaries[0][1].checkpoints
        ahead = checkpoints > had
        if had >= self.max_n or not ahead.any():
            return int(checkpoints[ahead].min(initial=checkpoints[-1]))
        least, most = 0, checkpoints
        if Stage.ESTIMATION in counts and self._is_selected(counts):
            _, least = self._candidate(counts, counts[Stage.ESTIMATION])
            most = least + checkpoints - had
        smaller, possible = np.zeros_like(checkpoints), checkpoints == self.max_n
        for _, judged in boundaries:  # certified up to here, and this radius given up
            low = np.maximum(least, smaller)
            possible |= low <= np.minimum(np.minimum(most, judged.give_up), judged.certify - 1)
            smaller = np.maximum(smaller, judged.certify)
        possible |= smaller <= most
        return int(checkpoints[ahead & possible].min(initial=self.max_n))

    def _decided(
        self,
        counts: Counts,
        boundaries: list[tuple[float, Boundary]],
        had: int,
        labels: tuple[int, ...] | None = None,
    ) -> bool:
        """Return whether the radii are decided for the candidate, or for labels together."""
        estimation = counts[Stage.ESTIMATION]
        total = estimation.followed_by(counts.get(Stage.CONTINUATION))
        successes, at_cap = (
            self._candidate(counts, votes)[1] if labels is None else sum(map(votes.of, labels))
            for votes in (total, estimation)
        )
        for _, judged in boundaries:
            k, cap = np.searchsorted(judged.checkpoints, (had, self.max_n))
            if successes < judged.certify[k] and (
                had <= self.max_n or at_cap < judged.certify[cap]
            ):
                return bool(successes <= judged.give_up[k])
        return True

    def _is_selected(self, counts: Counts) -> bool:
        """Return whether all copies that choose the candidate are counted."""
        selection = counts.get(Stage.SELECTION)
        return not self.n0 or (selection is not None and selection.n >= self.n0)

    def _candidate(self, counts: Counts, votes: LabelCounts) -> tuple[int | None, int]:
        """Return the candidate class, and its votes among ``votes``."""
        candidate = counts[Stage.SELECTION].top() if self.n0 else votes.top()
        return candidate, 0 if candidate is None else votes.of(candidate)

    def _failure_bound(
        self, counts: Counts, parameters: SmoothingParameters
    ) -> tuple[float, int | None]:
        """Return the smallest bound on q that holds, and the label that it is about.

        Of all copies; of those up to the cap, for what was certified there stays certified; and
        of the one check at the cap.
        """
        mixture, look = self._alphas(parameters)
        estimation = counts[Stage.ESTIMATION]
        found: list[tuple[float, int | None]] = [(1.0, None)]
        total = estimation.followed_by(counts.get(Stage.CONTINUATION))
        for votes in dict.fromkeys((estimation, total)):
            if (self.n0 and Stage.SELECTION not in counts) or not votes.n:
                continue
            candidate, successes = self._candidate(counts, votes)
            found.append((mixture_failure_bound(successes, votes.n, mixture), candidate))
            if votes.n == estimation.n == self.max_n:
                bound = clopper_pearson_upper(votes.n - successes, votes.n, look)
                found.append((bound, candidate))
        return min(found, key=lambda pair: pair[0])
