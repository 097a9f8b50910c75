"""The pictures of a run that the report shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from denoised_smoothing.images import to_png
from denoised_smoothing.runs.loading import Loaded
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.votes import shown_copies
from denoised_smoothing.store import StoredExample

EXAMPLES = 6
"""Images of a run that the report shows."""
EXAMPLE_COPIES = 3
"""Noisy copies of each that the report shows."""


def pictures(
    smoothed: SmoothedClassifier, images: Iterable[Loaded], seed: int
) -> Iterator[StoredExample]:
    """Yield pictures of the first images: clean, noisy copies, denoised copies."""
    for example, image in islice(images, EXAMPLES):
        noisy, denoised = shown_copies(
            smoothed.prepared, image, example.image_id, seed, EXAMPLE_COPIES
        )
        kinds = [("clean", image[None]), ("noisy", noisy)]
        if smoothed.denoiser is not None:
            kinds.append(("denoised", denoised))
        for kind, shown in kinds:
            for position, picture in enumerate(shown):
                yield StoredExample(example.image_id, kind, position, to_png(picture))
