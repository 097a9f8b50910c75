"""Attacks on the images of a run, each with a verdict on fresh noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from denoised_smoothing.attacks.pgd import PGD, attack, check_differentiable, check_length, distance
from denoised_smoothing.attacks.report import AttackOutcome, Verdict
from denoised_smoothing.certificates.bounds import check_alpha, check_copies
from denoised_smoothing.errors import DatasetError, ImageError, SettingError, StoreError
from denoised_smoothing.images import digest, is_on_grid
from denoised_smoothing.models.labels import LabelMatch, is_number, match_labels
from denoised_smoothing.noise import derive_key
from denoised_smoothing.reporting.results import ImageResult
from denoised_smoothing.smoothing.classifier import SmoothedClassifier


@dataclass(frozen=True)
class Attacked:
    """The outcome of an attack, and the image before and after it [C, H, W]."""

    outcome: AttackOutcome
    before: Float[np.ndarray, "c h w"]
    after: Float[np.ndarray, "c h w"]


@dataclass(frozen=True)
class Campaign:
    """Attacks on certified images, each with a verdict by PREDICT on noise of its own.

    A verdict that another label wins is wrong with probability at most ``level``: alpha divided
    by the number of planned attacks. So all verdicts together hold with probability 1 - alpha.

    Args:
        smoothed: the certified classifier, on the same engine.
        read: from an image to its pixels [C, H, W] as they were certified.
        seed: of the attacks and, independently, of the verdicts.
        radii: L2 lengths below which each image is attacked.
        shares: the same as shares of each image's certified radius.
        pgd: the effort of each attack.
        n: noisy copies of a verdict.
        alpha: probability that any of the verdicts is wrong, in (0, 1).
        surrogate: its gradients are followed; None for those of ``smoothed``. Its labels are
            matched with those of ``smoothed`` by name, or by number where names are missing.

    Raises:
        SettingError: nothing to attack, an image without a certificate, lengths not above 0, n
            or alpha out of range.
    """

    smoothed: SmoothedClassifier
    images: Sequence[ImageResult]
    read: Callable[[ImageResult], np.ndarray]
    seed: int
    radii: Sequence[float] = ()
    shares: Sequence[float] = ()
    pgd: PGD = field(default_factory=PGD)
    n: int = 1_000
    alpha: float = 0.001
    surrogate: SmoothedClassifier | None = None

    def __post_init__(self) -> None:
        check_copies("n", self.n)
        check_alpha(self.alpha)
        for radius in self.radii:
            check_length("radius", radius)
        for share in self.shares:
            check_length("share", share)
        if not self.images or not (self.radii or self.shares):
            raise SettingError(
                f"An attack needs certified images, and radii or shares of their radius, got "
                f"{len(self.images)} images, radii {tuple(self.radii)} and shares "
                f"{tuple(self.shares)}"
            )
        unproven = [image.image_id for image in self.images if image.predicted is None]
        if unproven:
            raise SettingError(
                f"The smoothed classifier abstains on image {unproven[0]!r}, so there is no "
                "certificate to attack. Omit this image."
            )

    @property
    def attacks(self) -> int:
        """Number of planned attacks; fewer are made where images change early."""
        return len(self.images) * (len(self.radii) + len(self.shares))

    @property
    def level(self) -> float:
        """Probability that a single verdict is wrong."""
        return self.alpha / self.attacks

    @property
    def note(self) -> str | None:
        """A note for the user, where labels of classifier and surrogate are compared by number."""
        if self._match.note is None:
            return None
        return (
            "Of classifier and surrogate, one has no label names or numbers for names, so their "
            "labels are compared by number."
        )

    @cached_property
    def _match(self) -> LabelMatch:
        """The certified labels as those of the surrogate.

        Where numbers are compared, all labels are matched, so that a shift by one is seen.
        """
        used: Sequence[int] = sorted({_label(image) for image in self.images})
        if self.surrogate is None:
            return LabelMatch({label: label for label in used}, None)
        names, others = (
            getattr(smoothed.classifier, "label_names", None)
            for smoothed in (self.smoothed, self.surrogate)
        )
        if names is None or len(names) <= used[-1]:
            names, used = None, range(used[-1] + 1)
        elif all(map(is_number, names)):
            used = range(len(names))
        try:
            return match_labels(names, used, others)
        except DatasetError as error:
            shown = ", ".join(repr(label if names is None else names[label]) for label in used[:5])
            raise SettingError(
                f"The certified labels must match those of the surrogate one by one, got {shown}"
                f"{', ...' if len(used) > 5 else ''}. Name a surrogate with the same labels."
            ) from error

    def check(self) -> None:
        """Match the labels of the surrogate, and compute a gradient at the first image.

        Raises:
            SettingError: there is none, or the surrogate lacks a certified label; says to name a
                surrogate.
        """
        first = self.images[0]
        label = self._match.numbers[_label(first)]
        check_differentiable(self.surrogate or self.smoothed, self._pixels(first), label)

    def run(self) -> Iterator[list[Attacked]]:
        """Attack image by image, each at growing lengths until another label wins.

        An image that changed counts as changed at every larger length, which is skipped.

        Yields:
            The attacks on each image.

        Raises:
            ClassifierError: denoiser or classifier gave an unusable answer.
            ImageError: an image cannot be read.
        """
        for image in self.images:
            before, made = self._pixels(image), list[Attacked]()
            lengths = {*self.radii, *(share * image.radius for share in self.shares)}
            for epsilon in sorted(lengths):
                made.append(self._attack(image, before, epsilon))
                if made[-1].outcome.verdict is Verdict.CHANGED:
                    break
            yield made

    def _pixels(self, image: ImageResult) -> Float[np.ndarray, "c h w"]:
        pixels = self.read(image)
        if not is_on_grid(pixels):
            raise ImageError(
                f"Image {image.image_id!r} has values off the 8-bit grid, expected an image of a "
                "run, with 8 bits. Read it as it was certified."
            )
        return pixels

    def _attack(
        self, image: ImageResult, before: Float[np.ndarray, "c h w"], epsilon: float
    ) -> Attacked:
        seeds = [
            derive_key(self.seed, what, image.image_id, epsilon) for what in ("attack", "verdict")
        ]
        guide = self.surrogate or self.smoothed
        label = self._match.numbers[_label(image)]
        after = attack(guide, before, label, epsilon, self.pgd, seed=seeds[0])
        verdict = self.smoothed.predict(after, n=self.n, alpha=self.level, seed=seeds[1])
        outcome = AttackOutcome(
            index=image.index,
            image_id=image.image_id,
            certified_label=_label(image),
            certified_radius=image.radius,
            epsilon=epsilon,
            norm=distance(before, after),
            label=verdict.label,
            p_value=verdict.p_value,
            counts=verdict.counts.votes,
            failed=verdict.counts.failed,
        )
        return Attacked(outcome, before, after)


def certified_images(
    load: Callable[[int], tuple[Any, np.ndarray]], digests: Mapping[str, str]
) -> Callable[[ImageResult], np.ndarray]:
    """Return a reader of the images of a run, which refuses those that changed since.

    Args:
        load: from the index of an image to its example and its pixels.
        digests: of the pixels when they were certified, by the id of the image.
    """

    def read(image: ImageResult) -> np.ndarray:
        example, pixels = load(image.index)
        if (example.image_id, digest(pixels)) != (image.image_id, digests[image.image_id]):
            raise StoreError(
                f"Image {image.image_id!r} differs from the certified one, because the data "
                "changed. Certify the data again, and attack that run."
            )
        return pixels

    return read


def _label(image: ImageResult) -> int:
    assert image.predicted is not None  # refused before
    return image.predicted
