"""Projected gradient descent on the smoothed classifier, in L2, ending on the 8-bit grid."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from denoised_smoothing.attacks.soft_votes import SoftVotes
from denoised_smoothing.certificates.bounds import check_copies
from denoised_smoothing.errors import ClassifierError, DenoisedSmoothingError, SettingError
from denoised_smoothing.images import as_image, is_on_grid, to_grid
from denoised_smoothing.noise import derive_key, standard_normal
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

_LEVELS = 255
_STEEPEST = 2.0**20
"""Maximum factor by which a change is scaled to use its length."""


@dataclass(frozen=True, slots=True)
class PGD:
    """The effort of an attack.

    Args:
        steps: gradient steps, at least 1.
        copies: noisy copies over which each gradient is taken, at least 1.
        step: length of a step as a share of epsilon, above 0.

    Raises:
        SettingError: an argument is out of range.
    """

    steps: int = 50
    copies: int = 32
    step: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise SettingError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        check_copies("copies", self.copies)
        check_length("step", self.step)


def attack(
    smoothed: SmoothedClassifier,
    image: Float[np.ndarray, "c h w"],
    label: int,
    epsilon: float,
    pgd: PGD | None = None,
    *,
    seed: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Float[np.ndarray, "c h w"]:
    """Find an image closer than ``epsilon`` that may get another label than ``label``.

    Maximises J(x) = -log mean_i softmax(F(x + noise_i))[label] over the ball, F being denoiser
    and classifier: SmoothAdv of Salman, Li et al. 2019, section 2.2, with its gradient by plain
    Monte Carlo. Each step draws fresh noise, so that the ascent is on the expectation and does
    not adapt to the noise of a few copies.

    Args:
        smoothed: the classifier to attack or, where that has no gradients, a surrogate for it.
        image: [C, H, W] in [0, 1], on the 8-bit grid or not.
        label: the class to lead away from.
        epsilon: in L2, in pixel values in [0, 1], above 0.
        pgd: the effort; None for 50 steps of 32 copies.
        seed: of the noise of the attack; None for fresh entropy.
        stopped: called before each step; the attack ends once it returns true.

    Returns:
        [C, H, W] on the 8-bit grid, strictly closer than ``epsilon``.

    Raises:
        SettingError: epsilon is not above 0 or reaches no 8-bit image, there is no gradient, or
            no class ``label``.
        ClassifierError: the gradient is not finite.
    """
    check_length("epsilon", epsilon)
    pgd = pgd or PGD()
    seed = secrets.randbits(128) if seed is None else seed
    image = as_image(image)
    start = to_grid(image)
    # The attack starts at the nearest 8-bit image; its way there is a part of epsilon.
    fractions = image.astype(np.float64) * _LEVELS - _levels(start)
    length = float(np.linalg.norm(fractions)) / _LEVELS
    rounding = 0.0 if is_on_grid(image) else length * (1 + 1e-9)
    if rounding >= epsilon:
        raise SettingError(
            f"epsilon is {epsilon:g}, but the nearest 8-bit image, where the attack starts, is "
            f"{rounding:g} away. Use a larger epsilon or an 8-bit image."
        )
    epsilon -= rounding
    origin = torch.tensor(start, device=smoothed.device)
    size = smoothed.prepared.engine_for(start).forward
    point, votes = origin, SoftVotes(smoothed)
    for step in range(pgd.steps):
        if stopped():
            break
        key = derive_key(seed, "attack", step)
        noise = standard_normal(key, (pgd.copies, *origin.shape), origin.device) * smoothed.sigma
        uphill = _gradient(votes, point, torch.split(noise, size), label)
        length = uphill.norm()
        if length > 0:  # it vanishes where all probabilities are 0 or 1 in float32
            point = point + pgd.step * epsilon / length * uphill
        change = point - origin
        point = (origin + change * (epsilon / change.norm().clamp_min(epsilon))).clamp(0, 1)
    return to_grid_within(start, point.cpu().numpy(), epsilon)


def check_differentiable(
    smoothed: SmoothedClassifier, image: Float[np.ndarray, "c h w"], label: int
) -> None:
    """Refuse a classifier or denoiser without gradients, before any work.

    Raises:
        SettingError: there is no gradient, or no class ``label``; says to name a surrogate.
        ClassifierError: the gradient is not finite.
    """
    point = torch.tensor(image, device=smoothed.device)
    _gradient(SoftVotes(smoothed), point, [torch.zeros_like(point)[None]], label)


def to_grid_within(
    image: Float[np.ndarray, "*shape"], moved: Float[np.ndarray, "*shape"], epsilon: float
) -> Float[np.ndarray, "*shape"]:
    """Return ``image`` moved towards ``moved`` on the 8-bit grid, strictly within epsilon.

    Rounding alone may add sqrt(d / 12) / 255 to the length, 0.06 at 3x32x32, and removes every
    change below half a level. So the change is scaled as far as its rounded form stays inside,
    and the remaining length is used for the pixels that would change next. Lengths are compared
    as exact integers.

    Args:
        image: on the 8-bit grid.
        moved: where the change leads; only its direction counts.
        epsilon: in L2, in pixel values in [0, 1].
    """
    levels = _levels(image)
    change: npt.NDArray[np.float64] = (moved.astype(np.float64) - image) * _LEVELS
    bound = math.ceil((Fraction(epsilon) * _LEVELS) ** 2)  # squares stay below, as integers

    def rounded(scale: float) -> npt.NDArray[np.int64]:
        return np.rint(np.clip(levels + scale * change, 0, _LEVELS)).astype(np.int64) - levels

    inside, outside = 0.0, 1.0
    while outside < _STEEPEST and _square(rounded(outside)) < bound:
        inside, outside = outside, 2 * outside
    while (middle := (inside + outside) / 2) not in (inside, outside):
        if _square(rounded(middle)) < bound:  # the rounded change only grows with the scale
            inside = middle
        else:
            outside = middle
    levels += _filled(rounded(inside), rounded(outside), np.abs(change), bound)
    return levels.astype(np.float32) / np.float32(_LEVELS)


def _filled(
    change: Int[np.ndarray, "*shape"],
    further: Int[np.ndarray, "*shape"],
    weight: Float[np.ndarray, "*shape"],
    bound: int,
) -> Int[np.ndarray, "*shape"]:
    """Use the change ``further`` at the pixels with the largest weights, within the length."""
    if _square(further) < bound:
        return further
    order = np.argsort(-weight, axis=None, kind="stable")
    cost = (further**2 - change**2).ravel()[order]
    chosen = order[_square(change) + np.cumsum(cost) < bound]
    final = change.ravel().copy()
    final[chosen] = further.ravel()[chosen]
    return final.reshape(change.shape)


def distance(image: Float[np.ndarray, "*shape"], other: Float[np.ndarray, "*shape"]) -> float:
    """Return the L2 distance of two images on the 8-bit grid, from exact integers."""
    return math.sqrt(_square(_levels(image) - _levels(other))) / _LEVELS


def check_length(name: str, value: float) -> None:
    """Refuse a length that is not above 0 and finite.

    Raises:
        SettingError: names it.
    """
    if not 0.0 < value < math.inf:
        raise SettingError(f"{name} must be above 0 and finite, got {value!r}")


def _levels(image: Float[np.ndarray, "*shape"]) -> npt.NDArray[np.int64]:
    return np.rint(image.astype(np.float64) * _LEVELS).astype(np.int64)


def _square(change: Int[np.ndarray, "*shape"]) -> int:
    return int((change * change).sum())


def _gradient(
    votes: SoftVotes, point: Float[Tensor, "c h w"], parts: Sequence[Tensor], label: int
) -> Float[Tensor, "c h w"]:
    """Return the gradient of J at a point, from noise in parts [n, C, H, W] that pass at once.

    That of -log of a mean of probabilities is the mean of the gradients of -log of each part's
    sum, weighted by these sums.
    """
    logs, gradients = [], []
    for noise in parts:
        leaf = point.detach().clone().requires_grad_()
        try:
            sums = votes.log_sums(leaf[None], noise)[0]
            if not 0 <= label < len(sums):
                raise SettingError(
                    f"The classifier whose gradients are followed has {len(sums)} classes, and "
                    f"none is the label {label}. Name a surrogate with the same labels."
                )
            (gradient,) = torch.autograd.grad(sums[label], leaf)
        except DenoisedSmoothingError:
            raise
        except Exception as error:  # of any callable
            raise SettingError(
                f"No gradient passes through denoiser and classifier ({error}). Name a surrogate: "
                "a differentiable classifier with the same labels."
            ) from error
        logs.append(sums[label].detach())
        gradients.append(gradient)
    weights = torch.softmax(torch.stack(logs), dim=0)
    total = -torch.einsum("p,pchw->chw", weights, torch.stack(gradients))
    if not total.isfinite().all():
        raise ClassifierError(
            "The gradient through denoiser and classifier is not finite. Name a surrogate: a "
            "differentiable classifier with the same labels."
        )
    return total
