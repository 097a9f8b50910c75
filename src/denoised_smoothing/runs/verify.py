"""Verify certificates with the model and the images: redraw their copies, or audit fresh ones."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

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
from denoised_smoothing.errors import DenoisedSmoothingError, SettingError
from denoised_smoothing.runs.certified_images import Certified, FoundImage, Stated, certified_pixels
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.scheduler import ImageTask

Key = TypeVar("Key")
FRESH = 4
"""Copies of an audit for each copy that bounds the certified label."""
MAX_CALLS = 10_000_000
"""Copies that one check draws at most by default."""
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
    max_calls: int = MAX_CALLS,
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
            any difference of redrawn counts contradicts it. That is so by default where the
            certificate recorded noise stream, engine and machine, and they are those here.
        seed: of the fresh copies; None for fresh entropy of the operating system.
        max_calls: maximum number of copies; a certificate that needs more stays unchecked.

    Raises:
        CertificateError: the certificate is malformed or altered.
        SettingError: there is no image, or the classifier is remote or a converted bundle.
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
    check_model(smoothed)
    given = image_forms.as_image(image)

    def image_of(smoothed: SmoothedClassifier, held: Certificate) -> FoundImage | None:
        pixels = certified_pixels(smoothed, given, held)
        return None if pixels is None else FoundImage(pixels)

    check = CopyCheck(
        lambda _: smoothed, image_of, fresh=fresh, n=n, alpha=alpha, exact=exact, seed=seed,
        max_calls=max_calls,
    )  # fmt: skip
    ((_, finding),) = check.run([(None, certificate)], 1)
    return finding


def check_model(smoothed: SmoothedClassifier) -> None:
    """Refuse a model whose copies a verification does not draw, or that vouches for itself.

    Raises:
        SettingError: it is remote, or the converted model of a bundle.
    """
    if smoothed.is_remote:
        raise SettingError(
            "A verification does not support remote classifiers: each noisy copy is a paid query, "
            "which it does not send. Check the arithmetic alone, or certify the image again with a "
            "new seed and compare the two certificates."
        )
    bundle = smoothed.models.bundle
    if bundle is not None and bundle.converted:
        raise SettingError(
            f"A bundle for {bundle.engine} holds a converted model, and only its own record says "
            "which classifier and denoiser that is. Give the models themselves: --classifier and "
            f"--denoiser with --engine {bundle.engine}, or a bundle for torch."
        )


@dataclass(eq=False)
class CopyCheck:
    """The check of certificates by noisy copies of their images.

    Args:
        smoothed_for: from a certificate to the smoothed classifier to check it with.
        image_of: from that and a certificate to the certified image; None without one.
        stated_of: from the key of a certificate to what is said next to it.
        fresh, n, alpha, exact, seed: as of :func:`verify`; alpha is split over the certificates.
        max_calls: maximum number of copies for all certificates.
    """

    smoothed_for: Callable[[Certificate], SmoothedClassifier]
    image_of: Callable[[SmoothedClassifier, Certificate], FoundImage | None]
    stated_of: Callable[[Any], Stated] = lambda _: Stated()
    fresh: bool = False
    n: int | None = None
    alpha: float = 0.001
    exact: bool = False
    seed: int | None = None
    max_calls: int = MAX_CALLS

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_copies("max_calls", self.max_calls)
        if self.n is not None:
            check_copies("n", self.n)
        self.seed = secrets.randbits(128) if self.seed is None else self.seed
        self._left = self.max_calls
        self._fingerprints = lru_cache(maxsize=4)(SmoothedClassifier.fingerprints)

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
                try:
                    found = self._prepare(certificate, self.stated_of(key))
                except DenoisedSmoothingError as error:  # such as an engine that is not installed
                    found = _failed(error)
                if isinstance(found, Finding):
                    yield key, found
                    continue
                smoothed, task, exact = found
                wanted = self._wanted(certificate)
                same = (smoothed, task.image.shape, *wanted.items())
                groups[same].append(_Drawing(key, certificate, smoothed, task, wanted, exact))
            for group in groups.values():
                yield from self._judge(group, level)

    def calls_of(self, certificate: Certificate) -> int:
        """Return the number of copies that its check draws, if nothing differs before."""
        nothing = certificate.identity is None or (self.fresh and certificate.label is None)
        return 0 if nothing else sum(self._wanted(certificate).values())

    def _prepare(
        self, certificate: Certificate, stated: Stated
    ) -> tuple[SmoothedClassifier, ImageTask, bool] | Finding:
        """Return the model and the image of a certificate, or why it is not checked by copies.

        With them, whether its counts are compared exactly.
        """
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
        calls = self.calls_of(certificate)
        if calls > self._left:
            return Finding(
                Verdict.UNCHECKED,
                f"it needs {calls:,} copies, and {self._left:,} are left of the limit of "
                f"{self.max_calls:,}: raise it (max_calls, --max-calls)",
            )
        smoothed = self.smoothed_for(certificate)
        if differs := self._differences(smoothed, certificate, identity):
            return Finding(Verdict.DIFFERENT, "; ".join(differs))
        found = self.image_of(smoothed, certificate)
        if found is None:
            return Finding(
                Verdict.UNCHECKED,
                f"no image at hand has its pixels (SHA-256 {identity.image_sha256[:12]}...) at "
                f"{_resolution(identity)}",
            )
        if differs := found.differences(certificate, stated, smoothed.models.label_names):
            return Finding(Verdict.DIFFERENT, "; ".join(differs))
        image = found.pixels
        exact = not self.fresh and self._repeats(smoothed, certificate, image)
        if isinstance(exact, Finding):
            return exact
        self._left -= calls
        # The name keys the noise: fresh copies are independent also where the seeds are equal.
        name = f"audit {identity.image_sha256}" if self.fresh else counts.image_id
        return smoothed, ImageTask(counts.run, name, image), exact

    def _repeats(
        self, smoothed: SmoothedClassifier, certificate: Certificate, image: Certified
    ) -> bool | Finding:
        """Return whether equal counts are expected here, or why they cannot be compared exactly.

        They are with ``exact``, or if all on which they depend was recorded and is the same.
        """
        choice, identity = smoothed.prepared.engine_if_used(image), certificate.identity
        assert identity is not None
        engine = None if choice is None else choice.engine.name
        compared: list[tuple[str, str | None, str | None]] = [
            ("engine", certificate.parameters.engine, engine),
            ("noise_stream", identity.noise_stream, smoothed.models.noise_stream),
        ]
        if self.exact:
            differs = [
                f"the {name} is {held} in the certificate and {here} here"
                for name, held, here in compared
                if held != here and (name == "engine" or held is not None)
            ]
            return Finding(Verdict.DIFFERENT, "; ".join(differs)) if differs else True
        compared.append(("machine", identity.machine, smoothed.prepared.machine(image.shape)))
        same = all(held is not None and held == here for _, held, here in compared)
        return same and smoothed.prepared.contract is Contract.CHECKED

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
            ("contract", parameters.contract, smoothed.prepared.contract),
        ):
            if mine not in (theirs, Contract.UNKNOWN):
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

        tasks, left = (drawing.task for drawing in group), dict(drawings)
        try:
            for task in smoothed.count_labels(tasks, lambda _: wanted, seed_of):
                drawing = left.pop(id(task))
                yield drawing.key, self._compare(drawing, level)
        except DenoisedSmoothingError as error:
            yield from ((drawing.key, _failed(error)) for drawing in left.values())

    def _compare(self, drawing: _Drawing[Key], level: float) -> Finding:
        certificate, counts = drawing.certificate, drawing.task.counts
        if self.fresh:
            return judge_audit(certificate, counts[Stage.ESTIMATION], level)
        return compare_redrawn(certificate, counts, level, exact=drawing.exact)


def _failed(error: DenoisedSmoothingError) -> Finding:
    return Finding(Verdict.UNCHECKED, f"its model cannot be used here: {error}")


@dataclass(frozen=True)
class _Drawing(Generic[Key]):
    """A certificate whose copies are drawn, and how many of each stage."""

    key: Key
    certificate: Certificate
    smoothed: SmoothedClassifier
    task: ImageTask
    wanted: dict[Stage, int]
    exact: bool


def _resolution(identity: Identity) -> str:
    side = identity.resolution
    return "its own size" if side is None else f"{side}x{side} pixels"
