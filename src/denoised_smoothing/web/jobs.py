"""A request from its image to its answer: what is counted for it, what is told of it."""

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
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.prediction import PredictionBudget
from denoised_smoothing.errors import SettingError
from denoised_smoothing.images import digest, to_png
from denoised_smoothing.noise import derive_key
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.web import views as story
from denoised_smoothing.web.batching import PendingImage
from denoised_smoothing.web.events import EventStream
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.schemas import (
    AttackRequest,
    CertificateRequest,
    PredictionRequest,
)
from denoised_smoothing.web.served import Model

Counts = Mapping[Stage, LabelCounts]


@dataclass(eq=False)
class Job(ABC):
    """A request that was taken, with the image [C, H, W] as it is answered.

    The seed is fresh entropy: whoever chose the image does not know the noise.
    """

    request: Any
    client: str
    model: Model
    smoothed: SmoothedClassifier
    image: Float[np.ndarray, "c h w"]
    changes: list[str]
    names: tuple[str, ...] | None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    seed: int = field(default_factory=lambda: secrets.randbits(128))
    counts: Counts = field(default_factory=dict)
    feed: EventStream = field(default_factory=EventStream)
    ticket: PendingImage | None = None
    shown: Future[None] | None = None
    began: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    kind: ClassVar[str]
    first: ClassVar[Stage]

    @cached_property
    def image_id(self) -> str:
        """What the image shows, by which its noise is keyed."""
        return digest(self.image)

    @cached_property
    def parameters(self) -> SmoothingParameters:
        """What the answer rests on beside the counts."""
        return self.smoothed.parameters(self.image, self.request.alpha, self.seed)

    @cached_property
    def png(self) -> bytes:
        """The image as it was taken."""
        return to_png(self.image)

    def cancel(self) -> None:
        """Want no more copies than are on their way."""
        self.cancelled = True
        if self.ticket is not None:
            self.ticket.cancelled = True

    @abstractmethod
    def check(self, limits: Limits) -> None:
        """Refuse what is out of range, before any work.

        Raises:
            SettingError: it is.
        """

    @abstractmethod
    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        """Copies wanted in each stage, given the counts so far."""

    @abstractmethod
    def progress(self, counts: Counts) -> dict[str, Any]:
        """How far it is."""

    @abstractmethod
    def answer(self, counts: Counts) -> dict[str, Any]:
        """What the finished counts say."""

    def prepare(self) -> None:  # noqa: B027
        """Work before the copies are counted."""

    def common(self, counts: Counts) -> dict[str, Any]:
        """What every answer says."""
        image: dict[str, Any] = {"shape": list(self.image.shape), "changes": self.changes}
        if self.request.pictures:
            image["picture"] = story.picture(self.image)
        return {
            "job": self.id,
            "kind": self.kind,
            "state": "done",
            "image": image,
            "calls": sum(votes.n for votes in counts.values()),
        }


class CertificateJob(Job):
    """Asks for a label and a radius."""

    request: CertificateRequest
    kind = "certificate"
    first = Stage.SELECTION

    @cached_property
    def plan(self) -> SamplingPlan:
        """How many copies, and what may be concluded from them."""
        try:
            return self.request.sampling_plan()
        except SettingError:
            raise
        except ValueError as error:
            raise SettingError(str(error)) from error

    def check(self, limits: Limits) -> None:
        self.plan.check_alpha(self.request.alpha)
        check_budget(self.plan.most_calls(), limits)

    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        return self.plan.targets(counts, self.parameters)

    def progress(self, counts: Counts) -> dict[str, Any]:
        return story.certifying(self.plan, self.parameters, counts, self.names)

    def answer(self, counts: Counts) -> dict[str, Any]:
        certificate = self.plan.certificate(counts, self.parameters)
        answer = {**self.common(counts), **story.certified(certificate, self.names)}
        if self.request.pictures and certificate.label is not None:
            key = derive_key(self.seed, "perturbation")
            answer["perturbation"] = story.perturbed(self.image, certificate.radius, key)
        return answer


class PredictionJob(Job):
    """Asks for a label."""

    request: PredictionRequest
    kind = "prediction"
    first = Stage.PREDICTION

    @cached_property
    def budget(self) -> PredictionBudget:
        """How many copies."""
        return PredictionBudget(self.request.n)

    def check(self, limits: Limits) -> None:
        check_budget(self.budget.n, limits)

    def targets(self, counts: Counts) -> Mapping[Stage, int]:
        return self.budget.targets(counts, self.parameters)

    def progress(self, counts: Counts) -> dict[str, Any]:
        return story.predicting(self.budget.n, counts, self.names)

    def answer(self, counts: Counts) -> dict[str, Any]:
        prediction = self.budget.prediction(counts[Stage.PREDICTION], self.parameters)
        return {**self.common(counts), **story.predicted(prediction, self.names)}


class AttackJob(PredictionJob):
    """Asks whether a change of a certain length leads to another label.

    The verdict is a prediction on noise that the attack never saw.
    """

    request: AttackRequest  # type: ignore[assignment]
    kind = "attack"

    def check(self, limits: Limits) -> None:
        check_budget(self.request.steps * self.request.copies + self.budget.n, limits)

    def prepare(self) -> None:
        """Move the image, until it is cancelled; from here on it is the attacked one."""
        self._before = self.image
        self.image = attack(
            self.smoothed, self._before, self.request.label, self.request.epsilon,
            PGD(self.request.steps, self.request.copies), seed=derive_key(self.seed, "attack"),
            stopped=lambda: self.cancelled,
        )  # fmt: skip
        self.__dict__.pop("image_id", None)

    def answer(self, counts: Counts) -> dict[str, Any]:
        answer, change = super().answer(counts), self.image - self._before
        stands = answer["label"] == self.request.label
        outcome = "stands" if stands else "open" if answer["label"] is None else "falls"
        answer["attack"] = {
            "epsilon": self.request.epsilon,
            "norm": round(distance(self._before, self.image), 6),
            "outcome": outcome,
            "from": self.request.label,
            "from_name": story.name_of(self.request.label, self.names),
        }
        if self.request.pictures:
            answer["attack"]["change"] = story.picture(0.5 + change / 2)
        return answer


KINDS: dict[str, tuple[type[Job], type[Any]]] = {
    "certificate": (CertificateJob, CertificateRequest),
    "prediction": (PredictionJob, PredictionRequest),
    "attack": (AttackJob, AttackRequest),
}


def check_budget(calls: int, limits: Limits) -> None:
    """Refuse more copies than the operator allows.

    Raises:
        SettingError: more are asked for.
    """
    if calls > limits.copies:
        raise SettingError(
            f"this asks for up to {calls:,} noisy copies, and at most {limits.copies:,} are "
            "allowed here; ask for fewer"
        )
