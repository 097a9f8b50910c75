"""The results of a run: certificates derived from the stored counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.family import together
from denoised_smoothing.certificates.identity import Identity, machine_of
from denoised_smoothing.certificates.parameters import (
    EngineName,
    Precision,
    SmoothingParameters,
)
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.sets import most_frequent
from denoised_smoothing.text import shown

if TYPE_CHECKING:
    from denoised_smoothing.store import RefusedImage, Store, StoredImage, StoredRun

LabelNames = Sequence[str] | Mapping[int, str] | None
"""Names of labels in the order of their numbers, or by number; None if unknown."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """An image with its certificate, and its true label where the data set has one."""

    index: int
    image_id: str
    true_label: int | None
    certificate: Certificate
    seconds: float
    finished: bool = True
    digest: str = ""
    """Of its pixels as they were certified."""

    @property
    def predicted(self) -> int | None:
        """The certified label; None where the smoothed classifier abstains."""
        return self.certificate.label

    @property
    def radius(self) -> float:
        """Certified L2 radius in pixel values in [0, 1], not rounded; 0.0 for an abstention."""
        return self.certificate.radius

    @property
    def calls(self) -> int:
        """Number of classifier calls (noisy copies)."""
        return self.certificate.calls

    @property
    def correct(self) -> bool:
        """Whether the certified label is the true one; False without either of them."""
        return self.predicted is not None and self.predicted == self.true_label


@dataclass(frozen=True)
class RunResults:
    """A run and its finished images by index; ``unfinished`` images lack copies.

    ``places`` are the places in the data set of all images that the run was to certify.
    """

    run: StoredRun
    images: tuple[ImageResult, ...]
    unfinished: int = 0
    places: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.name

    @property
    def refused(self) -> tuple[RefusedImage, ...]:
        """The images that could not be certified."""
        return self.run.refused

    @property
    def method(self) -> str:
        """The name in tables: the recorded one, or the names of denoiser and classifier."""
        if method := self.run.info.get("method"):
            return shown(str(method))
        denoiser, classifier = self.run.settings["denoiser"], self.run.settings["classifier"]
        names = ["no denoiser" if denoiser == "none" else denoiser, classifier]
        return shown(" + ".join(str(name).rsplit("/", 1)[-1] for name in names))

    @property
    def executed(self) -> str | None:
        """Engine and precision; None for torch in float32 and for no engine."""
        engine, precision = self.run.settings["engine"], self.run.settings["precision"]
        usual = engine == EngineName.TORCH and precision == Precision.FLOAT32
        return None if engine is None or usual else f"{engine} {precision}"

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return float(self.run.settings["sigma"])

    @property
    def attempted(self) -> int:
        """Number of images that the run was to certify; those never begun count, too."""
        return max(len(self.places), self._finished + self.unfinished + len(self.run.refused))

    @property
    def missing(self) -> int:
        """Number of images that are neither finished nor refused."""
        return self.attempted - self._finished - len(self.run.refused)

    @property
    def _finished(self) -> int:
        return sum(image.finished for image in self.images)

    @property
    def alpha(self) -> float:
        """Maximum probability that a certificate is wrong."""
        alphas = [image.certificate.alpha for image in self.images]
        return max(alphas, default=float(self.run.settings["alpha"]))

    def clean_share(self, answers: str) -> Fraction | None:
        """Return the share of the finished images whose clean image gets the true label.

        Args:
            answers: "classifier" for those of the classifier alone, "denoised" for those behind
                the denoiser, without noise.

        Returns:
            None where the run has no labels or did not record the answers.
        """
        held = self.run.info.get("clean") or {}
        found = dict(zip(held.get("index", ()), held.get(answers) or (), strict=False))
        right = [
            found[image.index] == image.true_label
            for image in self.images
            if image.index in found and image.true_label is not None
        ]
        return Fraction(sum(right), len(right)) if right else None

    @property
    def labelled(self) -> bool:
        """Whether the images have true labels, so that there is an accuracy."""
        return any(image.true_label is not None for image in self.images)


def load_results(
    store: Store, name: str, *, so_far: bool = False, indices: Collection[int] | None = None
) -> RunResults:
    """Derive the results of a run from the counts in the store.

    Args:
        so_far: include unfinished images of an anytime plan, with what is proven so far.
        indices: of the images to load, by their places in the data set; None for all.

    Raises:
        RunNotFoundError: the store holds no run of that name.
        CountsError, SettingError: counts of a finished image do not fit the run's plan.
    """
    run = store.run(name)
    certificate_of = derived_certificates(run)
    so_far = so_far and run.settings["plan"]["kind"] == Anytime.kind
    results, unfinished = [], 0
    chosen = None if indices is None else frozenset(indices)
    if chosen is not None:
        run = _with_refused(run, chosen)
    places = set(planned_places(run) if chosen is None else chosen)
    places.update(image.index for image in run.refused)
    refused = {image.image_id for image in run.refused}
    for image in store.stream_images(name):
        if image.image_id in refused or (chosen is not None and image.index not in chosen):
            continue
        places.add(image.index)
        unfinished += not image.finished
        if image.finished or (so_far and Stage.ESTIMATION in image.counts):
            results.append(
                ImageResult(
                    image.index, image.image_id, image.label, certificate_of(image),
                    image.seconds, image.finished, image.digest,
                )
            )  # fmt: skip
    return RunResults(run, tuple(results), unfinished, frozenset(places))


def planned_places(run: StoredRun) -> range:
    """Return the places in the data set of the images that a run was to certify.

    Empty for a run that does not record their number.
    """
    number, _, of = run.settings.get("shard", "1/1").partition("/")
    stride = run.settings.get("stride", 1)
    first, step = (int(number) - 1) * stride, int(of) * stride
    images = max(run.info.get("planned", ()), default=0)
    return range(first, first + images * step, step)


def derived_certificates(run: StoredRun) -> Callable[[StoredImage], Certificate]:
    """Return the function from an image of a run to the certificate that its counts give."""
    plan, names = SamplingPlan.from_dict(run.settings["plan"]), run.label_names
    notes = run.info.get("notes", ())
    parameters = SmoothingParameters.from_dict({**run.settings, "seed": run.seed, "notes": notes})

    def derive(image: StoredImage) -> Certificate:
        certificate = plan.certificate(image.counts, parameters)
        return certificate.about(identity_of(run, image.digest), names)

    return derive


def identity_of(run: StoredRun, digest: str) -> Identity | None:
    """Return what the certificates of a run are about, without the name of a label.

    None for a run that does not record its models.

    Args:
        digest: of the image, as the store has it: the SHA-256 of the certified pixels.
    """
    held, shape = run.settings, run.settings.get("image_shape")
    if not {"classifier_fingerprint", "denoiser_fingerprint"} <= held.keys():
        return None
    versions = run.info.get("versions", {})
    return Identity(
        shown(held["classifier"]), held["classifier_fingerprint"],
        shown(held["denoiser"]), held["denoiser_fingerprint"],
        digest,
        resolution=held.get("resolution"),
        image_shape=None if shape is None else tuple(shape),
        version=versions.get("denoised-smoothing", "unknown"),
        noise_stream=run.info.get("noise_stream"),
        machine=machine_of(held),
    )  # fmt: skip


def hold_together(runs: Sequence[RunResults], beta: float) -> list[RunResults]:
    """Return the runs with top-label certificates that all hold together, but for beta.

    See :func:`~denoised_smoothing.certificates.family.together`: alpha is beta over the images
    attempted in all runs. What else the counts prove, about sets, groups and the k most probable
    labels, is not included: each kind has an alpha of its own.

    Raises:
        SettingError: beta is out of its range.
    """
    attempted = sum(run.attempted for run in runs)
    certificates = [image.certificate for run in runs for image in run.images]
    found = iter(together(certificates, beta, attempted))
    return [
        replace(run, images=tuple(replace(i, certificate=next(found)) for i in run.images))
        for run in runs
    ]


def _with_refused(run: StoredRun, indices: Collection[int]) -> StoredRun:
    """Return the run with only those of its refused images."""
    refused = [asdict(image) for image in run.refused if image.index in indices]
    return replace(run, info={**run.info, "refused": refused})


def label_name(label: int | None, names: LabelNames) -> str | None:
    """Return the name of a label, or its number if it has no name."""
    if label is None:
        return None
    if isinstance(names, Mapping):
        return shown(str(names.get(label, label)))
    return shown(str(names[label])) if names and 0 <= label < len(names) else str(label)


def top_votes(counts: LabelCounts, names: LabelNames, limit: int) -> list[dict[str, Any]]:
    """Return number, name and count of at most ``limit`` labels, those with the most votes."""
    return [
        {"label": label, "name": label_name(label, names), "count": counts.of(label)}
        for label in most_frequent(counts, limit)
    ]
