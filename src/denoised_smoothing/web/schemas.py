"""Schemas of requests and answers; the OpenAPI description is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.plans import plan_from_options
from denoised_smoothing.certificates.radii import parse_length
from denoised_smoothing.web.job_store import State

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAARklEQVR4nAXBYRVAMBgAwHt7/vsiaGCaLIJGIqyC"
    "Bp4EI4E1III7lLYFaG99i0Gelh55T+LqbpI4GUm+WeQP01PqAdZW8QOg+BHxst8QXwAAAABJRU5ErkJggg=="
)
"""An image of 8x8 pixels, for the examples."""
Name = Annotated[str, StringConstraints(max_length=200)]
Length = Annotated[
    float, BeforeValidator(lambda value: parse_length(value) if isinstance(value, str) else value)
]
"""A sigma or a radius; as text also a fraction such as 64/255."""
Copies = Annotated[int, Field(ge=1, le=100_000_000)]


class ImageRequest(BaseModel):
    """The image, models and noise of a request. Names are those of ``/v1/models``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    image: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None, description="The image in base64: PNG, JPEG, BMP or WebP, 8 bits, opaque."
    )
    example: Name | None = Field(None, description="The name of an example, instead of an image.")
    classifier: Name | None = Field(None, description="Default: the first classifier served.")
    denoiser: Name | None = Field(
        None, description="Default: the first denoiser of the classifier, or none."
    )
    sigma: Length | None = Field(None, gt=0, description="Default: the largest sigma served.")
    alpha: float = Field(0.001, ge=1e-9, lt=0.5, description="Probability of a wrong answer.")
    pictures: bool = Field(False, description="Send pictures of noisy copies and of the radius.")


class PredictionRequest(ImageRequest):
    """An image, and the number of noisy copies that vote."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": PIXEL, "n": 1000}, {"example": "0"}]}
    )

    n: Copies = 1_000


class CertificateRequest(ImageRequest):
    """An image, and a sampling plan: the number of noisy copies, or when to stop."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"image": PIXEL, "sigma": 0.5, "n": 10000},
                {"example": "0", "plan": "anytime", "radii": [0.25, 0.5], "max_n": 10000},
            ]
        }
    )

    plan: Literal["fixed", "anytime", "radius"] = "fixed"
    n0: int | None = Field(
        None, ge=0, le=100_000_000, description="Copies that choose the candidate label."
    )
    n: Copies | None = Field(None, description="fixed: copies that bound its probability.")
    max_n: Copies | None = Field(None, description="anytime: maximum number of copies.")
    radii: list[Annotated[Length, Field(ge=0, le=1e6)]] | None = Field(
        None, max_length=20, description="anytime: radii to decide."
    )
    of_n: Copies | None = Field(None, description="radius: the fixed n to compare with.")
    share: float | None = Field(
        None, gt=0, le=1, description="radius: share of the radius of that fixed n to reach."
    )

    def sampling_plan(self) -> SamplingPlan:
        """Return the requested plan.

        Raises:
            SettingError: a number is out of range for the plan, or belongs to another kind.
        """
        given = self.model_dump(
            include={"n0", "n", "max_n", "radii", "of_n", "share"}, exclude_none=True
        )
        if "radii" in given:
            given["radii"] = tuple(sorted(given["radii"]))
        plan = plan_from_options(self.plan, given)
        plan.check_alpha(self.alpha)
        return plan


class AttackRequest(PredictionRequest):
    """An image, its label, and the maximum length of the change."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"example": "0", "label": 0, "epsilon": 0.5}]}
    )

    label: int = Field(ge=0, le=2**63 - 1, description="The label to change.")
    epsilon: Length = Field(gt=0, le=1e6, description="Maximum L2 length of the change.")
    steps: int = Field(20, ge=1, le=200, description="Gradient steps.")
    copies: int = Field(16, ge=1, le=256, description="Noisy copies for each gradient.")
    n: Copies = Field(1_000, description="Noisy copies of the prediction on the attacked image.")


class Vote(BaseModel):
    """Number of noisy copies with a label."""

    label: int
    name: str | None
    count: int


class Answer(BaseModel):
    """The part that all answers share: the request, the label and the votes."""

    job: str = Field(examples=["4f1c0a9b2d7e4c55"])
    kind: Literal["prediction", "certificate", "attack"]
    state: State
    label: int | None = Field(description="None: the classifier abstains.", examples=[3])
    label_name: str | None = Field(examples=["three"])
    sentence: str = Field(examples=["The answer is “3” (confidence 99.9 %)."])
    votes: list[Vote]
    counted: int = Field(description="Number of noisy copies that voted.", examples=[1000])
    image: dict[str, Any] = Field(
        description="The shape that was certified, and how the image was converted to it. Radii "
        "are in the pixels of that shape. With pictures, the converted image as a data URI."
    )
    calls: int = Field(description="Number of classifier calls.", examples=[1100])


class PredictionAnswer(Answer):
    """The label, without a radius."""

    prediction: dict[str, Any]


class CertificateAnswer(Answer):
    """The label, and the L2 radius within which it provably does not change."""

    radius: float = Field(description="In pixel values in [0, 1], rounded down.", examples=[0.4415])
    certificate: dict[str, Any] = Field(
        description="The certificate as Certificate.from_json reads it. Its seed draws the same "
        "counts again."
    )
    perturbation: dict[str, Any] | None = None


class AttackAnswer(PredictionAnswer):
    """The change that the attack found, and the label of the changed image on new noise."""

    attack: dict[str, Any]


class Job(BaseModel):
    """An accepted request."""

    job: str
    kind: str
    state: State
    created: str
    answer: dict[str, Any] | None = None


class Verification(BaseModel):
    """The verdicts on the certificates of a file, and those that do not hold."""

    kind: str = Field(examples=["certificate"])
    depth: Literal["arithmetic"]
    rows: int = Field(description="Number of certificates and refused images.", examples=[1])
    verdicts: dict[str, int] = Field(examples=[{"holds": 1}])
    failing: list[dict[str, Any]] = Field(description="The first that do not hold, and why.")
    failing_not_listed: int
    refused: int = Field(description="Images that could not be certified.")
    unfinished: int = Field(description="Always 0 here: exports hold finished images.")
    without_identity: int = Field(description="These do not name their model and image.")
    proves: str = Field(description="What this check says, and what it does not.")


class Problem(BaseModel):
    """Why a request was refused, and what to do."""

    detail: str = Field(
        examples=["The classifier 'x' is not served; expected one of digits, photo. Choose one."]
    )
