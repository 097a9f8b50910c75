"""What requests and answers look like; the OpenAPI description is made of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.web.job_store import State

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAARklEQVR4nAXBYRVAMBgAwHt7/vsiaGCaLIJGIqyC"
    "Bp4EI4E1III7lLYFaG99i0Gelh55T+LqbpI4GUm+WeQP01PqAdZW8QOg+BHxst8QXwAAAABJRU5ErkJggg=="
)
"""An image of 8x8 pixels, for the examples."""
Name = Annotated[str, StringConstraints(max_length=200)]
Copies = Annotated[int, Field(ge=1, le=100_000_000)]
Alpha = Annotated[
    float, Field(ge=1e-9, lt=0.5, description="Probability that the answer is wrong.")
]


PlanKind = Literal["fixed", "anytime", "radius"]


class ImageRequest(BaseModel):
    """What all requests say: which image, and who answers. Names are those of ``/v1/models``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    image: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None, description="The image in base64: PNG, JPEG, BMP or WebP, 8 bits, opaque."
    )
    example: Name | None = Field(None, description="The name of an example, instead of an image.")
    classifier: Name | None = Field(None, description="The first one offered, if left out.")
    denoiser: Name | None = Field(None, description="The classifier's first one, if left out.")
    sigma: float | None = Field(None, gt=0, description="The largest one offered, if left out.")
    alpha: Alpha = 0.001
    pictures: bool = Field(False, description="Send pictures of noisy copies and of the radius.")


class PredictionRequest(ImageRequest):
    """An image, and how many noisy copies shall vote."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": PIXEL, "n": 1000}, {"example": "0"}]}
    )

    n: Copies = 1_000


class CertificateRequest(ImageRequest):
    """An image, and how many noisy copies it gets: a fixed number, or as many as it takes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"image": PIXEL, "sigma": 0.5, "n": 10000},
                {"example": "0", "plan": "anytime", "radii": [0.25, 0.5], "max_n": 10000},
            ]
        }
    )

    plan: PlanKind = "fixed"
    n0: int | None = Field(None, ge=0, le=100_000_000, description="Copies that choose the label.")
    n: Copies | None = Field(None, description="fixed: copies that bound its probability.")
    max_n: Copies | None = Field(None, description="anytime: the most copies.")
    radii: list[Annotated[float, Field(ge=0, le=1e6)]] | None = Field(
        None, max_length=20, description="anytime: radii to decide about."
    )
    of_n: Copies | None = Field(None, description="radius: the fixed n to compare with.")
    share: float | None = Field(None, gt=0, le=1, description="radius: share of its radius.")

    def sampling_plan(self) -> SamplingPlan:
        """The plan that is asked for.

        Raises:
            SettingError: a number is out of range, or belongs to another kind of plan.
        """
        takes = {
            "fixed": {"n0", "n"},
            "anytime": {"n0", "max_n", "radii"},
            "radius": {"n0", "of_n", "share"},
        }[self.plan]
        numbers = {"n0", "n", "max_n", "radii", "of_n", "share"}
        given = {name: getattr(self, name) for name in numbers if getattr(self, name) is not None}
        if strange := sorted(set(given) - takes):
            raise ValueError(
                f"the plan {self.plan} takes no {', '.join(strange)}; it takes "
                f"{', '.join(sorted(takes))}"
            )
        plans: dict[PlanKind, type[SamplingPlan]] = {
            "fixed": FixedBudget,
            "anytime": Anytime,
            "radius": RadiusTarget,
        }
        if "radii" in given:
            given["radii"] = tuple(sorted(given["radii"]))
        return plans[self.plan](**given)


class AttackRequest(ImageRequest):
    """An image, its label, and how far the attack may move it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"example": "0", "label": 0, "epsilon": 0.5}]}
    )

    label: int = Field(ge=0, le=1_000_000, description="The label to lead away from.")
    epsilon: float = Field(gt=0, le=1e6, description="L2 length of the change.")
    steps: int = Field(20, ge=1, le=200)
    copies: int = Field(16, ge=1, le=256, description="Noisy copies of a gradient.")
    n: Copies = Field(1_000, description="Noisy copies of the verdict.")


class Vote(BaseModel):
    """How many noisy copies got a label."""

    label: int
    name: str | None
    count: int


class Answer(BaseModel):
    """Of every request: its name, what became of it, and what the copies say."""

    job: str = Field(examples=["4f1c0a9b2d7e4c55"])
    kind: Literal["prediction", "certificate", "attack"]
    state: State
    label: int | None = Field(description="None: nothing can be proven.", examples=[3])
    label_name: str | None = Field(examples=["three"])
    sentence: str = Field(examples=["The answer is “3” (confidence 99.9 %)."])
    votes: list[Vote]
    counted: int = Field(description="Noisy copies behind the votes.", examples=[1000])
    image: dict[str, Any] = Field(
        description="How the image was brought to the classifier's form; radii are in the pixels "
        "of that form. With pictures, that form as a data URI."
    )
    calls: int = Field(description="Classifier calls in all.", examples=[1100])


class PredictionAnswer(Answer):
    """The smoothed classifier's answer, without a radius."""

    prediction: dict[str, Any]


class CertificateAnswer(Answer):
    """The answer, and the L2 radius within which it provably does not change."""

    radius: float = Field(description="In pixel values in [0, 1], rounded down.", examples=[0.4415])
    certificate: dict[str, Any] = Field(
        description="All that the proof rests on; Certificate.from_json reads it. With its seed "
        "the same counts are drawn again."
    )
    perturbation: dict[str, Any] | None = None


class AttackAnswer(PredictionAnswer):
    """What the attack found, and whether the answer stands; judged on fresh noise."""

    attack: dict[str, Any]


class Job(BaseModel):
    """A request that was taken."""

    job: str
    kind: str
    state: State
    created: str
    answer: dict[str, Any] | None = None


class Problem(BaseModel):
    """Why a request was refused, and what to do."""

    detail: str = Field(examples=["no denoiser 'x' is offered; expected one of none, photo"])
