"""The range of sigma for which a denoiser was trained, and the note about a sigma outside of it."""

from __future__ import annotations

from functools import partial
from types import MethodType

from torch import nn

from denoised_smoothing.errors import SettingError

_TOLERANCE = 1e-6
"""Relative difference of a sigma that was written as text and read again, generously."""


def trained_range(denoiser: object) -> tuple[float, float] | None:
    """Return the smallest and the largest sigma for which a denoiser was trained.

    A denoiser states them as ``sigma_range``. For a module that does not, such as a mean or a
    wrapper, it is the range that its parts have in common: the first number is larger than the
    second if there is none. Of a method or a partial function, it is that of its object.

    Returns:
        Both numbers, or None if nothing states them.

    Raises:
        SettingError: a stated range is not two numbers.
    """
    while isinstance(denoiser, (partial, MethodType)):
        denoiser = denoiser.func if isinstance(denoiser, partial) else denoiser.__self__
    parts = [denoiser]
    if isinstance(denoiser, nn.Module) and getattr(denoiser, "sigma_range", None) is None:
        parts = list(denoiser.modules())
    ranges = [stated for part in parts if (stated := _stated(part)) is not None]
    if not ranges:
        return None
    return max(low for low, _ in ranges), min(high for _, high in ranges)


def _stated(part: object) -> tuple[float, float] | None:
    stated = getattr(part, "sigma_range", None)
    if stated is None:
        return None
    try:
        low, high = map(float, stated)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"sigma_range of the denoiser {type(part).__name__} must be two numbers, the smallest "
            f"and the largest sigma of its training, got {stated!r}. Correct or remove it."
        ) from error
    return low, high


def range_notes(denoiser: object, sigma: float) -> tuple[str, ...]:
    """Return a note if sigma is outside the range for which a denoiser was trained."""
    trained = trained_range(denoiser)
    if trained is None:
        return ()
    low, high = trained
    if low * (1 - _TOLERANCE) <= sigma <= high * (1 + _TOLERANCE):
        return ()
    known = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    if low > high:
        known = "none that all of its parts have in common"
    return (
        f"sigma {sigma:g} is outside the range for which the denoiser was trained ({known}). It "
        "may not restore the images, so that few or no certificates follow. Use a sigma in the "
        "range, or train a denoiser for this one: denoised-smoothing train DATA --sigma "
        f"{sigma:g} --output FILE",
    )
