"""Verify certificates with the model and the images: redraw their copies, or audit fresh ones."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.bounds import check_alpha, check_copies
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.parameters import Contract
from denoised_smoothing.certificates.verdicts import (
    Finding,
    Verdict,
    compare_redrawn,
    judge_audit,
)
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.scheduler import ImageTask

Key = TypeVar("Key")
Image = Float[np.ndarray, "c h w"]
Certified = Float[np.ndarray, "c i j"]
"""An image as it was certified, perhaps of another size than in the data."""
FRESH = 4
"""Copies of an audit for each copy that bounds the certified label."""
AT_ONCE = 64
"""Certificates whose images are in memory together."""


def verify(
    certificate: Certificate | Mapping[str, Any] | str | Path,
    smoothed: SmoothedClassifier | None = None,
    image: Any = None,
    *,
    fresh: bool = False,
    n: int | None = None,
    alpha: float = 0.001,
    exact: bool = False,
    seed: int | None = None,
) -> Finding:
    """Check a certificate: its arithmetic and, with the model and the image, its copies.

    Without ``smoothed``, whether counts, plan and alpha give its radius: a consistent forgery
    passes. With it, the recorded seed draws the copies again. With ``fresh``, copies of a seed
    that the certifier did not know decide on the certified label and radius.

    Args:
        certificate: one, its plain values, or the path of its file.
        smoothed: the smoothed classifier that it is about.
        image: the certified image [C, H, W] in [0, 1], or the one that it was resized from.
        fresh: audit with fresh copies.
        n: fresh copies; 4 times those of the estimation by default.
        alpha: probability that a correct certificate is contradicted or, by an audit, a wrong one
            confirmed.
        exact: the machine draws the noise of the certificate and computes as its own did, so that
            any difference of redrawn counts contradicts it.
        seed: of the fresh copies; None for fresh entropy of the operating system.

    Raises:
        CertificateError: the certificate is malformed or altered.
        SettingError: there is no image, or the classifier is remote.
    """
    if not isinstance(certificate, Certificate):
        load = Certificate.from_dict if isinstance(certificate, Mapping) else Certificate.load
        certificate = load(certificate)  # type: ignore[arg-type]
    else:
        Certificate.from_dict(certificate.to_dict())
    if smoothed is None:
        return Finding(Verdict.NO_CLAIM if certificate.label is None else Verdict.HOLDS)
    if image is None:
        raise SettingError(
            "There is no image to draw noisy copies of. Give the certified image, or omit the "
            "smoothed classifier to check the arithmetic alone."
        )
    given = image_forms.as_image(image)
    check = CopyCheck(
        lambda _: smoothed, lambda smoothed, held: certified_pixels(smoothed, given, held),
        fresh=fresh, n=n, alpha=alpha, exact=exact, seed=seed,
    )  # fmt: skip
    ((_, finding),) = check.run([(None, certificate)], 1)
    return finding


@dataclass(eq=False)
class CopyCheck:
    """The check of certificates by noisy copies of their images.

    Args:
        smoothed_for: from a certificate to the smoothed classifier to check it with.
        image_of: from that and a certificate to the certified image; None without one.
        fresh, n, alpha, exact, seed: as of :func:`verify`; alpha is split over the certificates.
    """

    smoothed_for: Callable[[Certificate], SmoothedClassifier]
    image_of: Callable[[SmoothedClassifier, Certificate], Certified | None]
    fresh: bool = False
    n: int | None = None
    alpha: float = 0.001
    exact: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if self.n is not None:
            check_copies("n", self.n)
        self.seed = secrets.randbits(128) if self.seed is None else self.seed
        self._fingerprints = lru_cache(maxsize=None)(SmoothedClassifier.fingerprints)

    def run(
        self, certificates: Iterable[tuple[Key, Certificate]], number: int
    ) -> Iterator[tuple[Key, Finding]]:
        """Yield the finding of each certificate with its key, in the order of their drawing.

        Args:
            number: of certificates, over which alpha is split.
        """
        level, rest = self.alpha / max(number, 1), iter(certificates)
        while window := list(islice(rest, AT_ONCE)):
            groups = defaultdict[Any, list[_Drawing[Key]]](list)
            for key, certificate in window:
                found = self._prepare(certificate)
                if isinstance(found, Finding):
                    yield key, found
                    continue
                smoothed, task = found
                wanted = self._wanted(certificate)
                same = (smoothed, *wanted.items())
                groups[same].append(_Drawing(key, certificate, smoothed, task, wanted))
            for group in groups.values():
                yield from self._judge(group, level)

    def _prepare(self, certificate: Certificate) -> tuple[SmoothedClassifier, ImageTask] | Finding:
        """Return the model and the image of a certificate, or why it is not checked by copies."""
        if self.fresh and certificate.label is None:
            return Finding(Verdict.NO_CLAIM)
        identity, counts = certificate.identity, certificate.counts
        if identity is None:
            return Finding(Verdict.UNCHECKED, "it does not say which model and image it is about")
        if not self.fresh and certificate.parameters.contract is Contract.STOCHASTIC:
            return Finding(
                Verdict.UNCHECKED,
                "its classifier is random by intention, so its counts do not repeat: audit it "
                "with fresh copies",
            )
        smoothed = self.smoothed_for(certificate)
        if smoothed.is_remote:
            raise SettingError(
                "Each noisy copy of a remote classifier is a paid query, which a verification does "
                "not send. Check the arithmetic alone, or certify the image again with a new seed "
                "and compare the two certificates."
            )
        if differs := self._differences(smoothed, certificate, identity):
            return Finding(Verdict.DIFFERENT, "; ".join(differs))
        image = self.image_of(smoothed, certificate)
        if image is None:
            return Finding(
                Verdict.UNCHECKED,
                f"no image at hand has its pixels (SHA-256 {identity.image_sha256[:12]}...) at "
                f"{_resolution(identity)}",
            )
        # The name keys the noise: fresh copies are independent also where the seeds are equal.
        name = f"audit {identity.image_sha256}" if self.fresh else counts.image_id
        return smoothed, ImageTask(counts.run, name, image)

    def _differences(
        self, smoothed: SmoothedClassifier, certificate: Certificate, identity: Identity
    ) -> list[str]:
        """List in which respects the model is another one than that of the certificate."""
        held = (
            ("classifier", identity.classifier, identity.classifier_fingerprint),
            ("denoiser", identity.denoiser, identity.denoiser_fingerprint),
        )
        here = zip(smoothed.models.specs, self._fingerprints(smoothed), strict=True)
        found = [
            f"the {role} is another one, or its weights, code or preprocessing differ ({spec!r}, "
            f"fingerprint {mine[:12]}... in the certificate, {other!r}, {now[:12]}... here)"
            for (role, spec, mine), (other, now) in zip(held, here, strict=True)
            if mine != now
        ]
        parameters = certificate.parameters
        for name, mine, theirs in (
            ("sigma", parameters.sigma, smoothed.sigma),
            ("noise", parameters.noise, smoothed.noise),
            ("precision", parameters.precision, smoothed.prepared.precision),
        ):
            if mine != theirs:
                found.append(f"{name} is {mine} in the certificate and {theirs} here")
        return found

    def _wanted(self, certificate: Certificate) -> dict[Stage, int]:
        """Return the copies to draw in each stage."""
        if not self.fresh:
            return {counts.stage: counts.n for counts in certificate.stages if counts.n}
        counted = certificate.counts.followed_by(certificate.continuation)
        return {Stage.ESTIMATION: self.n or FRESH * counted.n}

    def _judge(self, group: Sequence[_Drawing[Key]], level: float) -> Iterator[tuple[Key, Finding]]:
        """Draw the copies of certificates of one model that want equally many, and judge them."""
        smoothed, wanted = group[0].smoothed, group[0].wanted
        drawings = {id(drawing.task): drawing for drawing in group}

        def seed_of(task: ImageTask) -> int:
            assert self.seed is not None
            return self.seed if self.fresh else drawings[id(task)].certificate.seed

        tasks = (drawing.task for drawing in group)
        for task in smoothed.count_labels(tasks, lambda _: wanted, seed_of):
            drawing = drawings[id(task)]
            certificate = drawing.certificate
            if self.fresh:
                yield drawing.key, judge_audit(certificate, task.counts[Stage.ESTIMATION], level)
                continue
            held = certificate.parameters.engine
            engine = smoothed.parameters(task.image, certificate.alpha, certificate.seed).engine
            if self.exact and engine is not held:
                text = f"the engine is {held} in the certificate and {engine} here"
                yield drawing.key, Finding(Verdict.DIFFERENT, text)
            else:
                found = compare_redrawn(certificate, task.counts, level, exact=self.exact)
                yield drawing.key, found


@dataclass(frozen=True)
class _Drawing(Generic[Key]):
    """A certificate whose copies are drawn, and how many of each stage."""

    key: Key
    certificate: Certificate
    smoothed: SmoothedClassifier
    task: ImageTask
    wanted: dict[Stage, int]


def certified_pixels(
    smoothed: SmoothedClassifier, image: Image, certificate: Certificate
) -> Certified | None:
    """Return an image as it was certified: as it is, or resized as recorded; None if neither is."""
    identity = certificate.identity
    if identity is None or image_forms.digest(image) == identity.image_sha256:
        return None if identity is None else image
    try:
        prepared = smoothed.prepare(image, identity.resolution)
    except ImageError:
        return None
    return prepared if image_forms.digest(prepared) == identity.image_sha256 else None


class ImagesByPixels:
    """Finds the images of a data set by the SHA-256 of their pixels, as they were certified.

    That whose id the certificate has is tried first, then all.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        self._dataset = dataset
        self._ids = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
        self._places = lru_cache(maxsize=4)(self._find_places)

    def __call__(self, smoothed: SmoothedClassifier, certificate: Certificate) -> Certified | None:
        """Return the image of a certificate; None if the data set does not have it."""
        identity = certificate.identity
        if identity is None:
            return None
        place = self._ids.get(certificate.counts.image_id)
        found = None if place is None else self._at(place, smoothed, certificate)
        if found is None:
            places = self._places(smoothed, identity.resolution)
            place = places.get(bytes.fromhex(identity.image_sha256))
            found = None if place is None else self._at(place, smoothed, certificate)
        return found

    def _at(
        self, place: int, smoothed: SmoothedClassifier, certificate: Certificate
    ) -> Certified | None:
        try:
            return certified_pixels(smoothed, self._dataset.read(place), certificate)
        except ImageError:
            return None

    def _find_places(
        self, smoothed: SmoothedClassifier, resolution: int | None
    ) -> dict[bytes, int]:
        """Return the place of each image by the SHA-256 of its pixels, as it is and resized."""
        places: dict[bytes, int] = {}
        for index in range(len(self._dataset)):
            with suppress(ImageError):  # an image that cannot be prepared was not certified either
                image = self._dataset.read(index)
                for pixels in (image, smoothed.prepare(image, resolution)):
                    places.setdefault(bytes.fromhex(image_forms.digest(pixels)), index)
        return places


def _resolution(identity: Identity) -> str:
    side = identity.resolution
    return "its own size" if side is None else f"{side}x{side} pixels"
