"""A request from its image to its answer: the copies that it needs, its progress, its result."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from denoised_smoothing.attacks import PGD, attack
from denoised_smoothing.attacks.pgd import distance
from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.prediction import PredictionBudget
from denoised_smoothing.errors import SettingError
from denoised_smoothing.images import digest, to_png
from denoised_smoothing.reporting import label_name
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.web import schemas, views
from denoised_smoothing.web.batching import Counts, PendingImage
from denoised_smoothing.web.events import EventStream
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.served import Model


@dataclass(eq=False)
class Job(ABC):
    """An accepted request, with the image [C, H, W] that it is about.

    The seed is fresh entropy: the client, who chose the image, does not know the noise.
    """

    request: Any
    client: str
    model: Model
    smoothed: SmoothedClassifier
    image: Float[np.ndarray, "c h w"]
    changes: list[str]
    """How the client's image was converted to the classifier's format."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    seed: int = field(default_factory=lambda: secrets.randbits(128))
    counts: Counts = field(default_factory=dict)
    events: EventStream = field(default_factory=EventStream)
    pending: PendingImage | None = None
    pictures: Future[None] | None = None
    began: float = field(default_factory=time.monotonic)
    reported: float = 0.0
    saved: float = 0.0
    cancelled: bool = False

    kind: ClassVar[str]
    schema: ClassVar[type[schemas.ImageRequest]]
    first: ClassVar[Stage]

    @property
    def image_id(self) -> str:
        """The digest of the image, by which its noise is keyed."""
        return digest(self.image)

    @cached_property
    def parameters(self) -> SmoothingParameters:
        """The smoothing parameters of the answer."""
        return self.smoothed.parameters(self.image, self.request.alpha, self.seed)

    @cached_property
    def png(self) -> bytes:
        """The image, as it is first asked for: before an attack."""
        return to_png(self.image)

    def cancel(self) -> None:
        """Draw no more copies than those in flight."""
        self.cancelled = True
        if self.pending is not None:
            self.pending.cancelled = True

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

    def prepare(self) -> None:  # noqa: B027
        """Do what comes before the copies."""

    @abstractmethod
    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        """Return the copies wanted in each stage, given the counts so far."""

    @abstractmethod
    def progress(self, counts: Counts) -> dict[str, Any]:
        """View the progress."""

    @abstractmethod
    def answer(self, counts: Counts) -> dict[str, Any]:
        """View the result of the finished counts."""

    def _common(self, counts: Counts) -> dict[str, Any]:
        image: dict[str, Any] = {"shape": list(self.image.shape), "changes": self.changes}
        if self.request.pictures:
            image["picture"] = views.picture(self.image)
        calls = sum(votes.n for votes in counts.values())
        return {"job": self.id, "kind": self.kind, "state": "done", "image": image, "calls": calls}


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

    def check(self, limits: Limits) -> None:
        self.plan.check_alpha(self.request.alpha)
        super().check(limits)

    def most_calls(self) -> int:
        return self.plan.most_calls()

    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        return self.plan.targets(counts, self.parameters)

    def progress(self, counts: Counts) -> dict[str, Any]:
        return views.certificate_progress(
            self.plan, self.parameters, counts, self.model.label_names
        )

    def answer(self, counts: Counts) -> dict[str, Any]:
        certificate = self.plan.certificate(counts, self.parameters)
        answer = {**self._common(counts), **views.result(certificate, self.model.label_names)}
        if self.request.pictures and certificate.label is not None:
            answer["perturbation"] = views.random_change(self.image, certificate.radius, self.seed)
        return answer


class PredictionJob(Job):
    """A request for a label."""

    request: schemas.PredictionRequest
    kind = "prediction"
    schema: ClassVar[type[schemas.ImageRequest]] = schemas.PredictionRequest
    first = Stage.PREDICTION

    @cached_property
    def plan(self) -> PredictionBudget:
        """The number of copies."""
        return PredictionBudget(self.request.n)

    def most_calls(self) -> int:
        return self.plan.n

    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        return self.plan.targets(counts, self.parameters)

    def progress(self, counts: Counts) -> dict[str, Any]:
        votes = counts[Stage.PREDICTION]
        return views.prediction_progress(self.plan.n, votes, self.model.label_names)

    def answer(self, counts: Counts) -> dict[str, Any]:
        prediction = self.plan.prediction(counts[Stage.PREDICTION], self.parameters)
        return {**self._common(counts), **views.result(prediction, self.model.label_names)}


class AttackJob(PredictionJob):
    """A request to find a change of a certain length that leads to another label.

    The verdict is a prediction on noise that the attack did not use.
    """

    request: schemas.AttackRequest
    kind = "attack"
    schema = schemas.AttackRequest

    def most_calls(self) -> int:
        return self.plan.n + self.request.steps * self.request.copies

    def prepare(self) -> None:
        """Attack the image until the job is cancelled, and replace it by the attacked one."""
        self._before = self.image
        self.image = attack(
            self.smoothed, self._before, self.request.label, self.request.epsilon,
            PGD(self.request.steps, self.request.copies), seed=self.seed,
            stopped=lambda: self.cancelled,
        )  # fmt: skip

    def answer(self, counts: Counts) -> dict[str, Any]:
        answer, label = super().answer(counts), self.request.label
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
