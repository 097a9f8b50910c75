"""The parameters of a certificate, apart from its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from denoised_smoothing.certificates.bounds import check_alpha
from denoised_smoothing.certificates.grid import grid_error
from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.errors import SettingError

_Name = TypeVar("_Name", bound=StrEnum)


class Noise(StrEnum):
    """The sampler of the noisy copies; a certificate names the one it rests on."""

    GRID = "grid"
    """x plus Gaussian noise, rounded to steps of 1/255, exact in integers: proven."""
    FLOAT = "float"
    """x + sigma * z in float32, as in Cohen et al. 2019: unproven below rounding errors."""

    @property
    def described(self) -> str:
        """The name for a reader; it states where certificates are unproven."""
        return "grid noise" if self is Noise.GRID else "float noise (unproven)"


class EngineName(StrEnum):
    """The engine that executes the pipeline."""

    AUTO = "auto"
    """The fastest that is installed, fits the device and agrees with torch."""
    TORCH = "torch"
    """PyTorch as it is: channels_last, batch normalisation folded into convolutions."""
    TORCH_COMPILE = "torch-compile"
    """The same through ``torch.compile``: minutes to start, then faster on a GPU."""
    OPENVINO = "openvino"
    """The pipeline converted to OpenVINO, for CPUs; the only one with int8."""
    ONNXRUNTIME = "onnxruntime"
    """The pipeline exported to ONNX and run by ONNX Runtime."""


class Precision(StrEnum):
    """The arithmetic of the pipeline. It is part of the classifier that is certified."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


class Contract(StrEnum):
    """What is known about the base classifier: whether its answers are a function of the copy.

    The theorem needs answers that depend on the copy alone (see docs/contract.md).
    """

    CHECKED = "checked"
    """Compared alone and with other copies, in another order, twice and in threads."""
    STOCHASTIC = "stochastic"
    """Random by intention; independence between copies was checked."""
    ASSUMED = "assumed"
    """A remote classifier: paid queries are never repeated, so nothing was checked."""
    UNKNOWN = "unknown"
    """Not recorded, by a version that did not check."""

    @property
    def described(self) -> str:
        """The words for a reader."""
        return {
            Contract.CHECKED: "checked classifier",
            Contract.STOCHASTIC: "stochastic classifier, counts do not repeat",
            Contract.ASSUMED: "remote classifier, assumed to be a function of the copy",
            Contract.UNKNOWN: "unchecked classifier",
        }[self]


FORMER = {"engine": "torch", "precision": "float32", "contract": "unknown"}
"""What holds for certificates and runs of earlier versions, which do not record it."""


def choose_by_name(kind: type[_Name], name: _Name | str, what: str) -> _Name:
    """Return the member of that name.

    Raises:
        SettingError: the name is unknown.
    """
    try:
        return kind(name)
    except ValueError as error:
        known = ", ".join(member.value for member in kind)
        raise SettingError(f"{what} must be one of {known}, got {name!r}") from error


@dataclass(frozen=True, slots=True)
class SmoothingParameters:
    """The parameters of a certificate, apart from its counts.

    Args:
        sigma: standard deviation of the noise on images in [0, 1], above 0.
        alpha: probability that a certificate is wrong, in (0, 1).
        dimension: pixel values of an image, C * H * W.
        noise: the sampler of the noisy copies.
        seed: the seed of the noise.
        engine, precision: what executed the base classifier, and in which arithmetic: both are
            part of the classifier that is certified. None where a remote classifier answered the
            noisy copies themselves.
        contract: what is known about the base classifier.
        notes: sentences that a reader of the certificate should know.

    Raises:
        SettingError: sigma or alpha is out of its range, or the seed is not a whole number.
    """

    sigma: float
    alpha: float
    dimension: int
    seed: int
    noise: Noise = Noise.GRID
    engine: EngineName | None = EngineName.TORCH
    precision: Precision | None = Precision.FLOAT32
    contract: Contract = Contract.UNKNOWN
    notes: tuple[str, ...] = ()
    error: float = field(init=False, repr=False, compare=False)
    """Bound on the total variation distance of the noise of a copy from Gaussian noise.

    That of one value times the dimension (a product measure); 0.0 for float noise, where nothing
    is proven.
    """

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SmoothingParameters:
        """Return the parameters in the plain values of a certificate, or in run settings."""
        values = {**FORMER, **values}
        engine, precision = values["engine"], values["precision"]
        return cls(
            sigma=values["sigma"],
            alpha=values["alpha"],
            dimension=values["dimension"],
            seed=int(values["seed"]),
            noise=Noise(values["noise"]),
            engine=None if engine is None else EngineName(engine),
            precision=None if precision is None else Precision(precision),
            contract=Contract(values["contract"]),
            notes=tuple(values.get("notes", ())),
        )

    @property
    def executed(self) -> str:
        """Engine and precision, for a reader."""
        return "no engine" if self.engine is None else f"{self.engine} {self.precision}"

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_alpha(self.alpha)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise SettingError(f"seed must be a whole number, got {self.seed!r}. Use one like 7.")
        on_grid = self.noise is Noise.GRID
        error = self.dimension * grid_error(self.sigma) if on_grid else 0.0
        object.__setattr__(self, "error", error)
