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

from denoised_smoothing.certificates.bounds import check_copies
from denoised_smoothing.errors import ClassifierError, DenoisedSmoothingError, SettingError
from denoised_smoothing.images import as_image, to_grid
from denoised_smoothing.models.denoisers import logits_after_denoising
from denoised_smoothing.noise import derive_key, standard_normal
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

_LEVELS = 255
_STEEPEST = 2.0**20
"""A change is scaled by at most this much to use up its length."""


@dataclass(frozen=True, slots=True)
class PGD:
    """How hard to attack: gradient steps, noisy copies in each, length of a step.

    Args:
        steps: at least 1.
        copies: noisy copies over which each gradient is taken, at least 1.
        step: length of a step as a share of epsilon, above 0.

    Raises:
        SettingError: one of them is out of its range.
    """

    steps: int = 50
    copies: int = 32
    step: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise SettingError(
                f"steps is a whole number of gradient steps, at least 1, got {self.steps!r}"
            )
        check_copies("copies", self.copies)
        check_length("the step of an attack, as a share of epsilon,", self.step)


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
    """An image closer than ``epsilon`` to which the smoothed classifier may not give ``label``.

    Maximises J(x) = -log mean_i softmax(F(x + noise_i))[label] over the ball, F being denoiser
    and classifier: SmoothAdv of Salman, Li et al. 2019, section 2.2, with its gradient by plain
    Monte Carlo. Each step draws fresh noise: the ascent is then on the expectation, and cannot
    adapt itself to a few copies that the verdict will never see.

    Args:
        smoothed: whose gradients are followed: the one to attack or, where that has none, a
            surrogate for it.
        image: [C, H, W] in [0, 1]; values off the 8-bit grid are rounded to it first.
        label: the class to lead away from.
        epsilon: in L2, in pixel values in [0, 1], above 0.
        pgd: how hard to try; 50 steps of 32 copies by default.
        seed: of the noise of the attack; None for fresh entropy.
        stopped: asked before each step; no more are taken once it is true.

    Returns:
        [C, H, W] on the 8-bit grid, strictly closer than ``epsilon``.

    Raises:
        SettingError: epsilon is not above 0, or there is no gradient to follow: labels alone,
            or no class ``label``.
        ClassifierError: the gradient is not finite.
    """
    check_length("epsilon", epsilon)
    pgd = pgd or PGD()
    seed = secrets.randbits(128) if seed is None else seed
    start = to_grid(as_image(image))
    origin = torch.tensor(start, device=smoothed.device)
    size, point = smoothed.forward_size(start), origin
    for step in range(pgd.steps):
        if stopped():
            break
        noise = standard_normal(
            derive_key(seed, "attack", step), (pgd.copies, *origin.shape), origin.device
        )
        uphill = _gradient(smoothed, point, torch.split(noise * smoothed.sigma, size), label)
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
        SettingError: there is none, or no class ``label``; says to name a surrogate.
        ClassifierError: the gradient is not finite.
    """
    point = torch.tensor(image, device=smoothed.device)
    _gradient(smoothed, point, [torch.zeros_like(point)[None]], label)


def to_grid_within(
    image: Float[np.ndarray, "*shape"], moved: Float[np.ndarray, "*shape"], epsilon: float
) -> Float[np.ndarray, "*shape"]:
    """The change from ``image`` to ``moved``, rounded to the 8-bit grid strictly within epsilon.

    Rounding alone may add sqrt(d / 12) / 255 to the length, 0.06 at 3x32x32, and takes away
    every change below half a level. So the change is scaled as far as its rounded form stays
    inside, and what is left is spent on the pixels that would be next. Lengths are compared as
    exact integers.

    Args:
        image: on the 8-bit grid.
        moved: where the change leads; only its direction counts.
        epsilon: in L2, in pixel values in [0, 1].
    """
    levels = np.rint(image.astype(np.float64) * _LEVELS).astype(np.int64)
    change: npt.NDArray[np.float64] = (moved.astype(np.float64) - image) * _LEVELS
    bound = math.ceil((Fraction(epsilon) * _LEVELS) ** 2)  # squares stay below, as integers

    def rounded(scale: float) -> npt.NDArray[np.int64]:
        return np.rint(np.clip(levels + scale * change, 0, _LEVELS)).astype(np.int64) - levels

    inside, outside = 0.0, 1.0
    while outside < _STEEPEST and _square(rounded(outside)) < bound:
        inside, outside = outside, 2 * outside
    while True:  # the rounded change only grows with the scale
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        inside, outside = (
            (middle, outside) if _square(rounded(middle)) < bound else (inside, middle)
        )
    levels += _spend(rounded(inside), rounded(outside), np.abs(change), bound)
    return levels.astype(np.float32) / np.float32(_LEVELS)


def _spend(
    change: Int[np.ndarray, "*shape"],
    further: Int[np.ndarray, "*shape"],
    weight: Float[np.ndarray, "*shape"],
    bound: int,
) -> Int[np.ndarray, "*shape"]:
    """Go ``further`` at the pixels with the largest weights, as long as the length allows."""
    if _square(further) < bound:
        return further
    order = np.argsort(-weight, axis=None, kind="stable")
    cost = (further**2 - change**2).ravel()[order]
    chosen = order[_square(change) + np.cumsum(cost) < bound]
    final = change.ravel().copy()
    final[chosen] = further.ravel()[chosen]
    return final.reshape(change.shape)


def distance(image: Float[np.ndarray, "*shape"], other: Float[np.ndarray, "*shape"]) -> float:
    """The L2 distance of two images on the 8-bit grid, from exact integers."""
    difference = np.rint(image.astype(np.float64) * _LEVELS) - np.rint(
        other.astype(np.float64) * _LEVELS
    )
    return math.sqrt(_square(difference.astype(np.int64))) / _LEVELS


def check_length(name: str, value: float) -> None:
    """Refuse a length that is not above 0 and finite.

    Raises:
        SettingError: naming it.
    """
    if not 0.0 < value < math.inf:
        raise SettingError(f"{name} is a length and must be above 0 and finite, got {value!r}")


def _square(change: Int[np.ndarray, "*shape"]) -> int:
    return int((change * change).sum())


def _gradient(
    smoothed: SmoothedClassifier,
    point: Float[Tensor, "c h w"],
    parts: Sequence[Tensor],
    label: int,
) -> Float[Tensor, "c h w"]:
    """The gradient of J at a point, from noise [n, C, H, W] in parts that go through at once.

    That of -log of a mean of probabilities is the mean of the gradients of -log of each part's
    sum, weighted by these sums.
    """
    logs, gradients = [], []
    for part in parts:
        leaf = point.detach().clone().requires_grad_()
        log = _log_probability(smoothed, leaf + part, label)
        logs.append(log.detach())
        gradients.append(_derivative(log, leaf))
    weights = torch.softmax(torch.stack(logs), dim=0)
    gradient = -torch.einsum("p,pchw->chw", weights, torch.stack(gradients))
    if not gradient.isfinite().all():
        raise ClassifierError(
            "the gradient through denoiser and classifier is not finite; name a surrogate, "
            "another classifier whose gradients are followed instead"
        )
    return gradient


def _log_probability(
    smoothed: SmoothedClassifier, copies: Float[Tensor, "n c h w"], label: int
) -> Float[Tensor, ""]:
    """Log of the sum of the copies' probabilities of a label."""
    copies = copies.contiguous(memory_format=torch.channels_last)
    try:
        logits = logits_after_denoising(
            smoothed.denoiser, smoothed.classifier, smoothed.sigma, copies
        )
    except DenoisedSmoothingError:
        raise
    except Exception as error:  # of any callable
        raise _no_gradient(f"failed with {type(error).__name__}: {error}") from error
    if logits.ndim != 2 or not logits.is_floating_point() or not logits.requires_grad:
        what = "labels" if logits.ndim == 1 else "numbers that do not depend on the image"
        raise _no_gradient(f"gave {what}")
    if not 0 <= label < logits.shape[1]:
        raise SettingError(
            f"the classifier whose gradients are followed has {logits.shape[1]} classes, and none "
            f"is the certified label {label}; name a surrogate with the same labels"
        )
    return torch.log_softmax(logits.float(), dim=1)[:, label].logsumexp(dim=0)


def _derivative(value: Float[Tensor, ""], leaf: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    try:
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    except RuntimeError as error:
        raise _no_gradient(f"failed with {type(error).__name__}: {error}") from error
    if gradient is None:
        raise _no_gradient("gave numbers that do not depend on the image")
    return gradient


def _no_gradient(what: str) -> SettingError:
    return SettingError(
        f"no gradient can be taken through denoiser and classifier: asked for one, they {what}; "
        "name a surrogate, a differentiable classifier with the same labels whose gradients are "
        "followed instead"
    )
