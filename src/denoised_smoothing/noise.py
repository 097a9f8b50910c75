"""Noisy copies from keyed streams: which noise a copy gets depends on its key alone.

The key of a chunk of copies is (seed, image id, stage, chunk index), so counts do not depend
on batch size, on the order of work, or on having been interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing.certificates.counts import Stage

CHUNK = 50
"""Copies of a chunk, the unit in which noise is drawn, of images up to 32x32."""


def chunk_size(shape: Sequence[int]) -> int:
    """Copies of a chunk for images [C, H, W]: fewer for larger ones, about a forward pass."""
    return max(4, min(CHUNK, CHUNK * 32 * 32 // (shape[1] * shape[2])))


def derive_key(*parts: object) -> int:
    """A 128-bit key that is a hash of ``parts``; different parts give independent streams."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def standard_normal(key: int, shape: Sequence[int], device: torch.device) -> Float[Tensor, "..."]:
    """Standard normal numbers in float32 that depend on the key, the shape and the device type.

    On the CPU from Philox with the whole 128-bit key; on an accelerator from its own generator,
    seeded with 63 bits of it, so that nothing is copied over.
    """
    if device.type == "cpu":
        generator = np.random.Generator(np.random.Philox(key=key))
        return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
    source = torch.Generator(device).manual_seed(key & (2**63 - 1))
    return torch.randn(tuple(shape), generator=source, device=device)


def noisy_copies(
    image: Float[Tensor, "c h w"],
    sigma: float,
    *,
    seed: int,
    image_id: str,
    stage: Stage,
    start: int,
    stop: int,
) -> Float[Tensor, "n c h w"]:
    """Copies ``start`` to ``stop`` of one stage: the image plus Gaussian noise, not clipped.

    The float sampler of Cohen et al. 2019: fl(x + sigma * z) in float32.

    Args:
        image: [C, H, W] in [0, 1], on the device that shall draw the noise.
        sigma: standard deviation of the noise.
        seed, image_id, stage: with the chunk index, the key of the noise.
        start, stop: which copies of the stage, ``start`` included and ``stop`` not.
    """
    parts, size = [], chunk_size(image.shape)
    for chunk in range(start // size, -(-stop // size)):
        key = derive_key(seed, image_id, stage, chunk)
        # A chunk is always drawn whole, so that its copies do not depend on how many are used.
        noise = standard_normal(key, (size, *image.shape), image.device)
        first = chunk * size
        parts.append(noise[max(start - first, 0) : stop - first])
    return image + sigma * torch.cat(parts)
