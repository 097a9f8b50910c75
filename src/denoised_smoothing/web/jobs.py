"""A request from its image to its answer: the copies that it needs, its progress, its result."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from denoised_smoothing.attacks import PGD, attack
from denoised_smoothing.attacks.pgd import distance
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.prediction import Prediction, PredictionBudget
from denoised_smoothing.errors import SettingError
from denoised_smoothing.images import to_png
from denoised_smoothing.reporting.results import label_name
from denoised_smoothing.smoothing import votes
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.web import schemas, views
from denoised_smoothing.web.batching import Counts, PendingImage
from denoised_smoothing.web.events import EventStream
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.served import Model

COPIES_IN_EVENT = 4
"""Number of noisy copies sent together."""


@dataclass(eq=False, kw_only=True)
class Job(PendingImage):
    """An accepted request.

    Args:
        request: its parameters, with the names of the models.
        client: the address of the client.
        changes: how the client's image was converted to the classifier's format.
    """

    request: Any
    client: str
    model: Model
    smoothed: SmoothedClassifier
    changes: list[str]
    events: EventStream = field(default_factory=EventStream)
    pictures: Future[None] | None = None
    began: float = field(default_factory=time.monotonic)
    reported: float = 0.0
    saved: float = 0.0
    finished: bool = False

    kind: ClassVar[str]
    schema: ClassVar[type[schemas.ImageRequest]]

    @cached_property
    def parameters(self) -> SmoothingParameters:
        """The smoothing parameters of the answer."""
        return self.smoothed.parameters(self.image, self.request.alpha, self.seed)

    @cached_property
    def png(self) -> bytes:
        """The image as it was accepted, before an attack."""
        return to_png(self.image)

    @property
    def calls(self) -> int:
        """Number of copies counted."""
        return sum(stage.n for stage in self.counts.values())

    def check(self, limits: Limits) -> None:
        """Refuse a request that is out of range, before any work.

        Raises:
            SettingError: it needs more copies than the operator allows, or its plan is invalid.
        """
        if self.most_calls() > limits.copies:
            raise SettingError(
                f"The request needs up to {self.most_calls():,} noisy copies; at most "
                f"{limits.copies:,} are allowed. Use fewer copies."
            )

    @abstractmethod
    def most_calls(self) -> int:
        """Return the maximum number of classifier calls."""

    def show(self) -> None:
        """Publish pictures of noisy copies."""

    @abstractmethod
    def progress(self) -> dict[str, Any]:
        """View the progress."""

    @abstractmethod
    def conclude(self) -> Certificate | Prediction:
        """Return what the finished counts prove."""

    def answer(self) -> dict[str, Any]:
        """View the result of the finished counts."""
        image: dict[str, Any] = {"shape": list(self.image.shape), "changes": self.changes}
        if self.request.pictures:
            image["picture"] = views.picture(self.image)
        return {
            "job": self.id,
            "kind": self.kind,
            "state": "done",
            "image": image,
            "calls": self.calls,
            **views.result(self.conclude(), self.model.label_names),
        }


class CertificateJob(Job):
    """A request for a label and a radius."""

    request: schemas.CertificateRequest
    kind = "certificate"
    schema = schemas.CertificateRequest
    first = Stage.SELECTION

    @cached_property
    def plan(self) -> SamplingPlan:
        """The sampling plan of the request."""
        return self.request.sampling_plan()

    def most_calls(self) -> int:
        return self.plan.most_calls()

    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        return self.plan.targets(counts, self.parameters)

    def show(self) -> None:
        count = 24 if max(self.image.shape[1:]) <= 64 else 8
        first = (self.smoothed.prepared, self.image, self.image_id, self.seed, count)
        noisy, denoised = votes.shown_copies(*first)
        copies = [
            {
                "noisy": views.picture(noisy[i]),
                "denoised": None if self.smoothed.denoiser is None else views.picture(denoised[i]),
                "label": label,
                "name": label_name(label, self.model.label_names),
            }
            for i, label in enumerate(votes.shown_labels(*first))
        ]
        for start in range(0, count, COPIES_IN_EVENT):
            shown = copies[start : start + COPIES_IN_EVENT]
            self.events.publish("copies", {"first": start, "of": count, "copies": shown})

    def progress(self) -> dict[str, Any]:
        return views.certificate_progress(
            self.plan, self.parameters, self.counts, self.model.label_names
        )

    def conclude(self) -> Certificate | Prediction:
        identity = self.smoothed.identity(self.image, self.image_id)
        found = self.plan.certificate(self.counts, self.parameters)
        return found.about(identity, self.model.label_names)

    def answer(self) -> dict[str, Any]:
        answer = super().answer()
        if self.request.pictures and answer["label"] is not None:
            answer["perturbation"] = views.random_change(self.image, answer["radius"], self.seed)
        return answer


class PredictionJob(Job):
    """A request for a label."""

    request: schemas.PredictionRequest
    kind = "prediction"
    schema: ClassVar[type[schemas.ImageRequest]] = schemas.PredictionRequest
    first = Stage.PREDICTION

    @cached_property
    def budget(self) -> PredictionBudget:
        """The number of copies."""
        return PredictionBudget(self.request.n)

    def most_calls(self) -> int:
        return self.budget.n

    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        return self.budget.targets(counts, self.parameters)

    def progress(self) -> dict[str, Any]:
        counts = self.counts[Stage.PREDICTION]
        return views.prediction_progress(self.budget.n, counts, self.model.label_names)

    def conclude(self) -> Certificate | Prediction:
        return self.budget.prediction(self.counts[Stage.PREDICTION], self.parameters)


class AttackJob(PredictionJob):
    """A request to find a change of a certain length that leads to another label.

    The verdict is a prediction on noise that the attack did not use.
    """

    request: schemas.AttackRequest
    kind = "attack"
    schema = schemas.AttackRequest
    prepared: bool = False

    def most_calls(self) -> int:
        return self.budget.n + self.request.steps * self.request.copies

    def prepare(self) -> None:
        """Replace the image by an attacked one; stop early if the job is cancelled."""
        self._before = self.image
        self.image = attack(
            self.smoothed, self._before, self.request.label, self.request.epsilon,
            PGD(self.request.steps, self.request.copies), seed=self.seed,
            stopped=lambda: self.cancelled,
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        answer, label = super().answer(), self.request.label
        outcome = "open" if answer["label"] is None else "falls"
        answer["attack"] = {
            "epsilon": self.request.epsilon,
            "norm": round(distance(self._before, self.image), 6),
            "outcome": "stands" if answer["label"] == label else outcome,
            "from": label,
            "from_name": label_name(label, self.model.label_names),
        }
        if self.request.pictures:
            answer["attack"]["change"] = views.picture(0.5 + (self.image - self._before) / 2)
        return answer


KINDS = {kind.kind: kind for kind in (CertificateJob, PredictionJob, AttackJob)}
