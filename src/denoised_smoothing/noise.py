"""Noisy copies from keyed streams: which noise a copy gets depends on its key alone.

The key of a chunk of copies is (seed, image id, stage, chunk index), so counts do not depend
on batch size, on the order of work, or on having been interrupted.

The theorem of Cohen et al. 2019 needs noise whose law does not depend on the image. In floating
point fl(x + sigma * z) has no such noise: it lies on a lattice whose step is set by the exponent
of x, so the low bits of the copy depend on x, and a classifier that reads them gets
certificates that are false (Voráček & Hein, "(Sound) Randomized Smoothing in Floating-Point
Arithmetics", ICLR 2023). ``Noise.FLOAT`` is that sampler.

``Noise.GRID`` samples on the 8-bit grid instead. For x on the grid, 255x is an integer, so

    round(255 (x + eta)) = 255x + round(255 eta)    for any real eta.

With K of the law of round(255 eta), eta exactly Gaussian, m = 255x + K has the law of the
Gaussian copy x + eta after rounding to the grid, and the classifier sees a function of m alone.
So it votes as "round, then classify" does on exact Gaussian noise, and that is a classifier like
any other: the theorem holds for it, between images on the grid. K comes from uniform integers
and integer thresholds (:mod:`denoised_smoothing.certificates.grid`), and how far its law is from
the exact one is known (:func:`~denoised_smoothing.certificates.grid.grid_error`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Int16
from torch import Tensor

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.grid import BITS, grid_thresholds
from denoised_smoothing.certificates.parameters import Noise

CHUNK = 50
"""Copies of a chunk, the unit in which noise is drawn, of images up to 32x32."""

_LOW_BITS = BITS - 16
_AMBIGUOUS = np.iinfo(np.int16).min
"""The mark of top 16 bits that do not decide. No noise has this value."""


def chunk_size(shape: Sequence[int]) -> int:
    """Return the copies of a chunk for images [C, H, W]: fewer for larger ones."""
    return max(4, min(CHUNK, CHUNK * 32 * 32 // (shape[1] * shape[2])))


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
    key: int, shape: Sequence[int], sigma: float, device: torch.device
) -> Int16[Tensor, "..."]:
    """Draw Gaussian noise rounded to the 8-bit grid, in steps of 1/255: P(K <= j) = T_j / 2^62.

    Depends on the key, the shape, sigma and the device type. A CUDA device draws its own,
    from a generator seeded with 63 bits of the key; for any other the CPU draws.

    Args:
        key: 128 bits, from :func:`derive_key`.
        sigma: standard deviation of the noise on images in [0, 1].

    Raises:
        SettingError: sigma is not above 0, or too large for 16 bits.
    """
    if device.type == "cuda":
        return _grid_noise_of(_generator(key, device), shape, sigma)
    stream, size = np.random.Philox(key=key), math.prod(shape)
    table, thresholds, first = _by_top_bits(sigma)
    words = stream.random_raw(-(-size // 4)).astype("<u8", copy=False).view("<u2")[:size]
    noise = table.take(words)
    (open_cells,) = np.nonzero(noise == _AMBIGUOUS)
    # The stream continues with the low bits, which only these need.
    low = stream.random_raw(len(open_cells)) >> np.uint64(64 - _LOW_BITS)
    uniform = (words[open_cells].astype(np.uint64) << np.uint64(_LOW_BITS)) | low
    noise[open_cells] = first + np.searchsorted(thresholds, uniform.astype(np.int64), "right")
    return torch.from_numpy(noise.reshape(tuple(shape))).to(device)


def noisy_copies(
    image: Float[Tensor, "c h w"],
    sigma: float,
    *,
    noise: Noise,
    seed: int,
    image_id: str,
    stage: Stage,
    start: int,
    stop: int,
) -> Float32[Tensor, "n c h w"]:
    """Return copies ``start`` to ``stop`` of one stage: image plus Gaussian noise, not clipped.

    On the grid, m / 255 in float32 with m = round(255x) + K. The copy is a function of the
    integer m: were K / 255 added to x in floating point, its low bits would depend on x. In
    float, fl(x + sigma * z) as in Cohen et al. 2019.

    Args:
        image: [C, H, W] in [0, 1], on the device that draws the noise. For noise on the grid it
            is rounded to the 8-bit grid first, and the copies are of that image.
        sigma: standard deviation of the noise.
        seed, image_id, stage: with the chunk index, the key of the noise.
        start, stop: which copies of the stage, ``start`` included and ``stop`` not.

    Raises:
        SettingError: sigma is too large for noise on the grid.
    """
    parts, size = [], chunk_size(image.shape)
    for chunk in range(start // size, -(-stop // size)):
        key, shape = derive_key(seed, image_id, stage, chunk), (size, *image.shape)
        # A chunk is always drawn whole, so that its copies do not depend on how many are used.
        if noise is Noise.GRID:
            drawn: Tensor = grid_noise(key, shape, sigma, image.device)
        else:
            drawn = standard_normal(key, shape, image.device)
        first = chunk * size
        parts.append(drawn[max(start - first, 0) : stop - first])
    if noise is Noise.GRID:
        levels = (image * 255).round().to(torch.int16) + torch.cat(parts)
        # By a tensor: CUDA multiplies by 1/255 for a number, and misses the image's own values.
        return levels.to(torch.float32).div_(torch.tensor(255.0, device=image.device))
    return image + sigma * torch.cat(parts)


def _generator(key: int, device: torch.device) -> torch.Generator:
    """Return the device's own generator, seeded with 63 bits of the key."""
    return torch.Generator(device).manual_seed(key & (2**63 - 1))


def _grid_noise_of(
    source: torch.Generator, shape: Sequence[int], sigma: float
) -> Int16[Tensor, "..."]:
    """Draw the same law from a generator of torch, on its device.

    ``randint`` below 2^62 is exactly uniform: 64 random bits modulo 2^62, on CPU and CUDA.
    """
    uniform = torch.randint(2**BITS, tuple(shape), generator=source, device=source.device)
    below = torch.searchsorted(_thresholds_on(sigma, source.device), uniform, right=True)
    return (below + grid_thresholds(sigma).first).to(torch.int16)


@lru_cache(maxsize=32)
def _thresholds_on(sigma: float, device: torch.device) -> Tensor:
    return torch.tensor(grid_thresholds(sigma).thresholds, dtype=torch.int64, device=device)


@lru_cache(maxsize=8)
def _by_top_bits(sigma: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the noise of each 16 top bits (int16), the thresholds (int64), and the least noise.

    The noise is first + #{T : uniform >= T}; the top bits decide it where the low bits cannot.
    """
    law = grid_thresholds(sigma)
    thresholds = np.array(law.thresholds, dtype=np.int64)
    lowest = np.arange(2**16, dtype=np.int64) << _LOW_BITS
    least, most = (
        law.first + np.searchsorted(thresholds, uniform, side="right")
        for uniform in (lowest, lowest + (2**_LOW_BITS - 1))
    )
    table = np.where(least == most, least, _AMBIGUOUS).astype(np.int16)
    return table, thresholds, law.first
