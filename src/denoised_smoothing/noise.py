"""Noisy copies from keyed streams: which noise a copy gets depends on its key alone.

The key of a chunk of copies is (seed, image id, stage, chunk index), so counts do not depend
on batch size, on the order of work, or on having been interrupted.

The theorem of Cohen et al. 2019 needs noise whose law does not depend on the image. In floating
point fl(x + sigma * z) has no such noise: it lies on a lattice whose step is set by the exponent
of x, so the low bits of the copy depend on x, and a classifier that reads them gets
certificates that are false (Voráček & Hein, "(Sound) Randomized Smoothing in Floating-Point
Arithmetics", ICLR 2023). ``Noise.FLOAT`` is that sampler.

``Noise.GRID`` samples on the 8-bit grid instead. Let 255x = m + f with m an integer and
|f| <= 1/2; on the grid f is 0. Then

    round(255 (x + eta)) = m + round(f + 255 eta)    for any real eta.

With K of the law of round(f + 255 eta), eta exactly Gaussian, m + K has the law of the Gaussian
copy x + eta after rounding to the grid, and the classifier sees a function of m + K alone. So it
votes as "round, then classify" does on exact Gaussian noise, and that is a classifier like any
other: the theorem holds for it, between all real images. K comes from uniform integers and
integer thresholds (:mod:`denoised_smoothing.certificates.grid`), and how far its law is from the
exact one is known (:func:`~denoised_smoothing.certificates.grid.grid_error`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int16, Int64
from torch import Tensor

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.grid import BITS, grid_thresholds, threshold_at
from denoised_smoothing.certificates.parameters import Noise

CHUNK = 50
"""Copies of a chunk, the unit in which noise is drawn, of images up to 32x32."""

_LOW_BITS = BITS - 16
_AMBIGUOUS = np.iinfo(np.int16).min
"""The mark of top 16 bits that do not decide. No noise has this value."""
_STEP_BITS = 14
"""Fixed-point numbers count 2^-14 of a level, so that levels of 16 bits fit into int32."""
_DOUBT = 2.0**-32
"""Relative distance from a threshold below which erfc of float64 does not decide."""

Levels = tuple[Int16[Tensor, "c h w"], Float64[Tensor, "c h w"] | None]
"""An image in steps of 1/255: whole levels and the fractions, see :func:`levels_of`."""


def chunk_size(shape: Sequence[int]) -> int:
    """Return the copies of a chunk for images [C, H, W]: fewer for larger ones."""
    return max(4, min(CHUNK, CHUNK * 32 * 32 // (shape[1] * shape[2])))


def stream_of(device: torch.device, noise: Noise) -> str:
    """Return the type of the device that draws the noise: numbers of a key depend on it."""
    return "cpu" if noise is Noise.GRID and device.type != "cuda" else device.type


def derive_key(*parts: object) -> int:
    """Return a 128-bit hash of ``parts``; different parts give independent streams."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def standard_normal(key: int, shape: Sequence[int], device: torch.device) -> Float[Tensor, "..."]:
    """Draw standard normal numbers in float32 by the key, the shape and the device type.

    On the CPU from Philox with the whole 128-bit key; on an accelerator from its own generator,
    seeded with 63 bits of it, so that nothing is copied over.
    """
    if device.type == "cpu":
        generator = np.random.Generator(np.random.Philox(key=key))
        return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
    return torch.randn(tuple(shape), generator=_generator(key, device), device=device)


def grid_noise(
    key: int,
    shape: Sequence[int],
    sigma: float,
    device: torch.device,
    fraction: Float64[Tensor, "..."] | None = None,
) -> Int16[Tensor, "..."]:
    """Draw Gaussian noise rounded to the 8-bit grid, in steps of 1/255: P(K <= j) = T_j / 2^62.

    Depends on the key, the shape, sigma, the fractions and the device type. A CUDA device draws
    its own, from a generator seeded with 63 bits of the key; for any other the CPU draws.

    Args:
        key: 128 bits, from :func:`derive_key`.
        shape: with ``fraction``, that of the image after the number of copies.
        sigma: standard deviation of the noise on images in [0, 1].
        fraction: of the image, on the CPU: P(K <= j) = T_j(f) / 2^62. None on the 8-bit grid.

    Raises:
        SettingError: sigma is not above 0, or too large for 16 bits.
    """
    if device.type == "cuda":
        return _grid_noise_of(_generator(key, device), shape, sigma, fraction)
    stream, size = np.random.Philox(key=key), math.prod(shape)
    words = stream.random_raw(-(-size // 4)).astype("<u8", copy=False).view("<u2")[:size]
    if fraction is None:
        noise = _by_top_bits(sigma).take(words)
        (open_cells,) = np.nonzero(noise == _AMBIGUOUS)
    else:
        # K = floor(G + f + 1/2) with G = 255 sigma Phi^-1(u), whose top bits bound it.
        moved = ((fraction.numpy() + 0.5) * 2**_STEP_BITS).astype(np.int32).ravel()
        least, most = (bound.take(words) for bound in _bounds_by_top_bits(sigma))
        for bound in (least, most):
            copies = bound.reshape(-1, moved.size)
            copies += moved
            bound >>= _STEP_BITS
        noise = least.astype(np.int16)
        (open_cells,) = np.nonzero(least != most)
        fraction = fraction.flatten()[torch.from_numpy(open_cells % moved.size)]
    # The stream continues with the low bits, which only these need.
    low = stream.random_raw(len(open_cells)) >> np.uint64(64 - _LOW_BITS)
    uniform = (words[open_cells].astype(np.uint64) << np.uint64(_LOW_BITS)) | low
    noise[open_cells] = _by_all_bits(
        torch.from_numpy(uniform.astype(np.int64)), sigma, fraction
    ).numpy()
    return torch.from_numpy(noise.reshape(tuple(shape))).to(device)


def levels_of(image: Float32[Tensor, "c h w"]) -> Levels:
    """Return m = round(255x) and the fraction 255x - m, on the CPU; None on the 8-bit grid.

    The float32 nearest to k / 255 stands for k / 255. Any other value stands for itself: 255x has
    24 + 8 bits, so m and the fraction are exact in float64.
    """
    image = image.cpu()
    levels = (image * 255).round().to(torch.int16)
    on_grid = _pixels(levels.float())
    if torch.equal(on_grid, image):
        return levels, None
    exact = image.double() * 255
    whole = exact.round()
    return whole.to(torch.int16), torch.where(on_grid == image, 0.0, exact - whole)


def noisy_copies(
    image: Float32[Tensor, "c h w"],
    sigma: float,
    *,
    noise: Noise,
    seed: int,
    image_id: str,
    stage: Stage,
    start: int,
    stop: int,
    device: torch.device | None = None,
    levels: Levels | None = None,
) -> Float32[Tensor, "n c h w"]:
    """Return copies ``start`` to ``stop`` of one stage: image plus Gaussian noise, not clipped.

    On the grid, (m + K) / 255 in float32 with m = round(255x). The copy is a function of the
    integer m + K: were K / 255 added to x in floating point, its low bits would depend on x. In
    float, fl(x + sigma * z) as in Cohen et al. 2019.

    Args:
        image: [C, H, W] in [0, 1], on the 8-bit grid or not.
        sigma: standard deviation of the noise.
        seed, image_id, stage: with the chunk index, the key of the noise.
        start, stop: which copies of the stage, ``start`` included and ``stop`` not.
        device: draws the noise; None for that of the image.
        levels: of the image, where they are known.

    Raises:
        SettingError: sigma is too large for noise on the grid.
    """
    parts, size, device = [], chunk_size(image.shape), device or image.device
    if noise is Noise.GRID:
        whole, fraction = levels or levels_of(image)
    for chunk in range(start // size, -(-stop // size)):
        key, shape = derive_key(seed, image_id, stage, chunk), (size, *image.shape)
        # A chunk is always drawn whole, so that its copies do not depend on how many are used.
        if noise is Noise.GRID:
            drawn: Tensor = grid_noise(key, shape, sigma, device, fraction)
        else:
            drawn = standard_normal(key, shape, device)
        first = chunk * size
        parts.append(drawn[max(start - first, 0) : stop - first])
    values = parts[0] if len(parts) == 1 else torch.cat(parts)
    if noise is Noise.GRID:
        return _pixels(values.float().add_(whole.to(device)))
    return image.to(device) + sigma * values


def _pixels(levels: Float32[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Divide by 255 in place."""
    # By a tensor: CUDA multiplies by 1/255 for a number, and misses the image's own values.
    return levels.div_(torch.tensor(255.0, device=levels.device))


def _generator(key: int, device: torch.device) -> torch.Generator:
    """Return the device's own generator, seeded with 63 bits of the key."""
    return torch.Generator(device).manual_seed(key & (2**63 - 1))


def _grid_noise_of(
    source: torch.Generator,
    shape: Sequence[int],
    sigma: float,
    fraction: Float64[Tensor, "..."] | None = None,
) -> Int16[Tensor, "..."]:
    """Draw the same law from a generator of torch, on its device.

    ``randint`` below 2^62 is exactly uniform: 64 random bits modulo 2^62, on CPU and CUDA.
    """
    uniform = torch.randint(2**BITS, tuple(shape), generator=source, device=source.device)
    if fraction is not None:
        fraction = fraction.to(source.device).expand_as(uniform)
    return _by_all_bits(uniform, sigma, fraction)


def _by_all_bits(
    uniform: Int64[Tensor, "*shape"], sigma: float, fraction: Float64[Tensor, "*shape"] | None
) -> Int16[Tensor, "*shape"]:
    """Return the K of uniform 62-bit integers: the least j with U < T_j, or U < T_j(f).

    The fraction moves K by one at most, towards its own sign, so one threshold is left to compare
    with. In float64 both sides are right to 2^-42, if erfc is right to 2^-43. Where they are
    closer than 2^-32, the threshold is computed exactly.
    """
    thresholds, first = _thresholds_on(sigma, uniform.device), grid_thresholds(sigma).first
    level = torch.searchsorted(thresholds, uniform, right=True) + first
    if fraction is None:
        return level.to(torch.int16)
    level -= (fraction < 0).long()
    point = (level + 0.5 - fraction) / (255 * sigma)
    upper = point >= 0
    tail = torch.where(upper, 2**BITS - 1 - uniform, uniform).double()
    edge = torch.special.erfc(point.abs() * math.sqrt(0.5)) * 2.0 ** (BITS - 1)
    beyond: Tensor = (tail > edge) ^ upper  # U >= T_level(f)
    for index in ((tail - edge).abs() <= _DOUBT * edge + 2).nonzero().tolist():
        at = tuple(index)
        exact = threshold_at(sigma, int(level[at]), float(fraction[at]))
        beyond[at] = int(uniform[at]) >= exact
    return (level + beyond).to(torch.int16)


@lru_cache(maxsize=32)
def _thresholds_on(sigma: float, device: torch.device) -> Tensor:
    return torch.tensor(grid_thresholds(sigma).thresholds, dtype=torch.int64, device=device)


@lru_cache(maxsize=8)
def _by_top_bits(sigma: float) -> np.ndarray:
    """Return the noise of each 16 top bits (int16), where the low bits cannot change it.

    The noise is first + #{T : uniform >= T}.
    """
    law = grid_thresholds(sigma)
    thresholds = np.array(law.thresholds, dtype=np.int64)
    lowest = np.arange(2**16, dtype=np.int64) << _LOW_BITS
    least, most = (
        law.first + np.searchsorted(thresholds, uniform, side="right")
        for uniform in (lowest, lowest + (2**_LOW_BITS - 1))
    )
    return np.where(least == most, least, _AMBIGUOUS).astype(np.int16)


@lru_cache(maxsize=8)
def _bounds_by_top_bits(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds on 255 sigma Phi^-1(u) by the 16 top bits of u, as int32 fixed-point numbers.

    A step of 2^-14 on each side is far more than the error of Phi^-1 in float64. The upper bound
    has another one for the fraction, which is cut off to whole steps.
    """
    from scipy import special

    end = 2**_STEP_BITS * (1 - grid_thresholds(sigma).first)
    inner = 2**_STEP_BITS * 255 * sigma * special.ndtri(np.arange(1, 2**16) / 2**16)
    least, most = [-end, *(np.floor(inner) - 1)], [*(np.ceil(inner) + 2), end]
    return np.array(least, dtype=np.int32), np.array(most, dtype=np.int32)
