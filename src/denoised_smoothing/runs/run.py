"""A run: which images are certified, under which settings, and the certifying itself."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from typing import Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.parameters import (
    EngineName,
    Noise,
    Precision,
    SmoothingParameters,
)
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.datasets import ImageDataset, from_sequence, select
from denoised_smoothing.errors import ContractError, ImageError, RunMismatchError, SettingError
from denoised_smoothing.images import to_png
from denoised_smoothing.models.labels import LabelMatch
from denoised_smoothing.models.specs import spec_of
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import spending_of
from denoised_smoothing.runs.calibration import calibrate
from denoised_smoothing.runs.identity import as_compared, derived_name
from denoised_smoothing.runs.labels import GivenLabels, as_setting, matched
from denoised_smoothing.runs.paid import QueryEstimate, with_query_log
from denoised_smoothing.runs.resume import resume
from denoised_smoothing.runs.shards import Shard
from denoised_smoothing.runs.writer import Loaded, RunProgress, RunWriter
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.votes import shown_copies
from denoised_smoothing.store import Store, StoredExample, StoredRun

EXAMPLES = 6
"""Images of a run that the report shows."""
EXAMPLE_COPIES = 3
"""Noisy copies of each that the report shows."""
_NOT_REQUESTED = [(name, Precision.FLOAT32) for name in (EngineName.AUTO, EngineName.TORCH)]
"""Engines and precisions that are defaults."""


@dataclass(frozen=True)
class CertificationRun:
    """A run that certifies images of a data set and stores their counts; it can be resumed.

    The constructor checks its arguments and does no work; see :meth:`prepare`.

    Args:
        dataset: images, or a sequence of (image, label), such as a torch ``Dataset``, all of whose
            items are read once (see :func:`~denoised_smoothing.datasets.from_sequence`).
        plan: how many noisy copies each image gets.
        alpha: probability that a certificate is wrong, in (0, 1).
        classifier, denoiser: their specs, to record. Omit them to use those by which the objects
            were loaded, or the names of their types.
        name: of the run; None derives it from the settings, so that equal settings resume it.
        seed: of the noise; None takes that of the stored run or, for a new one, fresh entropy.
        resolution: side in pixels to which images are resized and cropped before the noise; None
            for that of the classifier or, without one, the images as they are.
        limit, stride: use every ``stride``-th image, at most ``limit``.
        shard: the part of those images to certify; :func:`merge` joins the counts of all parts.
            It needs a seed, which all parts share.
        more: extend the stored run by this many copies of each image, where its plan allows it;
            the same as a plan with a larger cap.
        answers_of: send no queries: take the answers in the query log of this run, whose alpha
            and plan may differ. Images without all answers stay unfinished.
        calibration: images for the int8 calibration; None takes those of ``dataset`` (without
            their labels).
        labels: from a class of the data to a label of the classifier, each by its name or number,
            where names do not settle it (see :mod:`denoised_smoothing.models.labels`).
        method: name of the run in tables.
        command: the command line, to record.

    Raises:
        SettingError: an argument is out of range, or a shard has no seed.
        DatasetError: a class of the data matches no label of the classifier, or several.
    """

    smoothed: SmoothedClassifier
    dataset: ImageDataset | Any
    plan: SamplingPlan
    alpha: float
    classifier: str | None = None
    denoiser: str | None = None
    name: str | None = None
    seed: int | None = None
    resolution: int | None = None
    limit: int | None = None
    stride: int = 1
    shard: Shard | None = None
    more: int | None = None
    answers_of: str | None = None
    calibration: ImageDataset | None = None
    labels: GivenLabels | None = None
    method: str | None = None
    command: str = ""
    _loaded: dict[int, Loaded] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.plan.check_alpha(self.alpha)
        if self.resolution is not None and self.resolution < 2:
            raise SettingError(f"resolution must be at least 2 pixels, got {self.resolution}")
        if self.shard is not None and self.seed is None:
            raise SettingError(
                f"Shard {self.shard} has no seed. Give the same --seed to all shards of a run, so "
                "that they can be merged."
            )
        object.__setattr__(self, "dataset", from_sequence(self.dataset))
        _ = self.indices, self.label_match

    @cached_property
    def label_match(self) -> LabelMatch:
        """The classes of the data as the classifier's labels."""
        return matched(self.dataset, self.smoothed.classifier, self.labels)

    @cached_property
    def indices(self) -> list[int]:
        """Positions in the data set of the images to certify."""
        indices = select(self.dataset, limit=self.limit, stride=self.stride)
        return indices if self.shard is None else self.shard.of_indices(indices)

    def prepare(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Decode the first image, calibrate int8, and choose the engine, if that was not done.

        :meth:`execute` calls it, too. Where no engine is used, it only decodes the image.

        Args:
            say: called with a message before each step that takes time.

        Raises:
            ImageError: an image cannot be read, or its size or channels do not fit.
            SettingError, MissingExtraError, ClassifierError: the engine is not available.
        """
        _ = self._fingerprints
        _, first = self.image(self.indices[0])
        if not self.smoothed.prepared.is_used:
            return
        if self.smoothed.prepared.needs_calibration:
            data = self.dataset if self.calibration is None else self.calibration
            say(f"calibrating int8 with images of {data.name}")
            calibrate(self.smoothed, data, self.resolution)
        say(f"choosing the engine for images of shape {list(first.shape)}")
        self.smoothed.prepared.engine_for(first)

    @cached_property
    def _fingerprints(self) -> tuple[str, str]:
        """Those of classifier and denoiser before they run: a module may keep what it computes."""
        return self.smoothed.fingerprints()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The run settings: all that must be equal for counts to belong to one run."""
        self.prepare()
        _, first = self.image(self.indices[0])
        classifier, denoiser = self._fingerprints
        whole = len(select(self.dataset, limit=self.limit, stride=self.stride))
        return {
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "data_labels": list(self.dataset.label_names or ()),
            **as_setting(self.label_match, self.dataset, self.labels),
            "resolution": self.smoothed.resolution if self.resolution is None else self.resolution,
            "stride": self.stride,
            **({} if self.shard is None else self.shard.settings(whole)),
            "dimension": int(first.size),
            "classifier": self.classifier or _spec_of(self.smoothed, "classifier"),
            "classifier_fingerprint": classifier,
            "denoiser": self.denoiser or _spec_of(self.smoothed, "denoiser"),
            "denoiser_fingerprint": denoiser,
            "sigma": self.smoothed.sigma,
            "alpha": self.alpha,
            "plan": self.plan.to_dict(),
            "noise": self.smoothed.noise.value,
            "contract": self.smoothed.prepared.contract.value,
            **self.smoothed.prepared.record(first),
        }

    @cached_property
    def run_name(self) -> str:
        """The given name, or one that the settings (and a given seed) determine."""
        if self.name is not None:
            return self.name
        engine = self.smoothed.prepared.engine
        return derived_name(self.settings, self.seed, engine, self.answers_of)

    def image(self, index: int) -> Loaded:
        """Return an example, and its image at the run's resolution and on the 8-bit grid.

        Raises:
            ImageError: it cannot be read, or has other channels than the classifier takes.
        """
        if index in self._loaded:
            return self._loaded[index]
        example = self.dataset[index]
        (label,) = self.label_match.labels([example.label])
        example = replace(example, label=label)
        name = f"image {example.image_id!r}"
        loaded = example, self.smoothed.prepare(example.image, self.resolution, name=name)
        if index == self.indices[0]:  # needed for engine, parameters and pictures, too
            self._loaded[index] = loaded
        return loaded

    def parameters(self, seed: int) -> SmoothingParameters:
        """Return what the certificates of the run rest on besides the counts."""
        _, first = self.image(self.indices[0])
        return self.smoothed.parameters(first, self.alpha, seed)

    @property
    def remote(self) -> RemoteClassifier | None:
        """The classifier, if it is a remote one."""
        classifier = self.smoothed.classifier
        return classifier if isinstance(classifier, RemoteClassifier) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user before images are certified."""
        self.prepare()
        _, first = self.image(self.indices[0])
        prepared = self.smoothed.prepared
        choice = prepared.engine_if_used(first)
        notes = [] if choice is None else list(choice.notes)
        if choice is None and (prepared.engine, prepared.precision) not in _NOT_REQUESTED:
            notes.append(
                "--engine and --precision have no effect: without a denoiser, the remote "
                "classifier gets the noisy copies as they are."
            )
        if self.label_match.note is not None:
            notes.append(self.label_match.note)
        if isinstance(self.plan, Anytime) and not self.plan.boundaries(self.parameters(seed=0)):
            notes.append(
                f"No radius of {self.plan.radii} can be certified at sigma {self.smoothed.sigma:g} "
                f"by up to {self.plan.max_n:,} copies, so no copy is drawn. Use a larger sigma, "
                "smaller --radii or a larger --max-n; 'denoised-smoothing plan' prints the minimum."
            )
        if (passes := getattr(self.smoothed.denoiser, "model_calls", 1)) > 1:
            samples = getattr(self.smoothed.denoiser, "samples", 1)
            more = f" and {samples} of the classifier" if samples > 1 else ""
            notes.append(f"Each noisy copy takes {passes} passes of the denoising model{more}.")
        if self.smoothed.noise is Noise.FLOAT:
            notes.append(
                "With --noise float the certificates are not proven, because the proof does not "
                "cover noise that is added in floating point. Use --noise grid, which is proven."
            )
        return tuple(notes)

    def estimate(self, store: Store) -> QueryEstimate | None:
        """Return how many queries the run still needs at most; None where it sends none."""
        if self.remote is None or self.answers_of is not None:
            return None
        known = store.find(self.run_name) is not None
        attempts = list(StoreLog(store, self.run_name).history()) if known else []
        settled = sum(attempt.final for attempt in attempts)
        calls = len(self.indices) * self.plan.most_calls()
        return QueryEstimate(max(0, calls - settled), spending_of(attempts), self.remote.price)

    def execute(
        self, store: Store, progress: Callable[[RunProgress], None] | None = None
    ) -> StoredRun:
        """Certify the images that are not yet certified. All counts are kept, whatever happens.

        Raises:
            RunMismatchError: the run exists with other settings; names the differences.
            StoreError: the store cannot be written, or the data changed under the run.
            RemoteError: a remote classifier failed, or its budget is used up.
            ClassifierError: an answer cannot be used.
            RunBusyError: another driver executes the run.
            ImageError: images that cannot be read, or of another size, after all others.
        """
        with store.claim(self.run_name):
            run = self._begin(store)
            if not store.examples(run.name):
                store.save_examples(run.name, list(self._examples(run.seed)))
            remote = self.remote
            self.smoothed.prepared.canaries.restart()
            with nullcontext() if remote is None else with_query_log(remote, store, run):
                writer = RunWriter(
                    run, store, SamplingPlan.from_dict(run.settings["plan"]),
                    self.parameters(run.seed), self.indices, self.dataset.image_ids,
                    self.label_match.labels(self.dataset.labels), self.image,
                    self.image(self.indices[0])[1].shape, remote, progress,
                )  # fmt: skip
                try:
                    for task in self.smoothed.count_labels(
                        writer.tasks(), writer.targets, run.seed, on_batch=writer.counted
                    ):
                        writer.finished(task)
                except ContractError as error:
                    notes = [*run.info.get("notes", ()), f"stopped: {error}"]
                    store.note(run.name, notes=notes, stopped=str(error))
                    raise
                finally:
                    writer.close()
                    self._note_canaries(store, run)
        if writer.refused:
            raise ImageError(
                f"{len(writer.refused)} of {len(self.indices)} images could not be certified; all "
                f"others of run {run.name!r} are: {' '.join(writer.refused[:3])}"
            )
        return run

    def _note_canaries(self, store: Store, run: StoredRun) -> None:
        """Record how many forward passes and copies were computed again and compared."""
        canaries, earlier = self.smoothed.prepared.canaries, run.info.get("compared", {})
        now = {"passes": canaries.passes, "copies": canaries.copies}
        store.note(run.name, compared={key: n + earlier.get(key, 0) for key, n in now.items()})

    def _begin(self, store: Store) -> StoredRun:
        """Return the stored run: a new one, or the one to resume, on the engine it began with."""
        source = self.answers_of
        run = store.find(self.run_name) if source is None else store.run(source)
        if run is None:
            if self.more is not None:
                raise SettingError(
                    f"There is no run {self.run_name!r} to extend by {self.more} copies. Name one "
                    "with --run, or omit --more to start one."
                )
            return store.begin(self.run_name, self.settings, seed=self.seed, info=self._info())
        if why := run.info.get("stopped"):
            raise RunMismatchError(
                f"The run {run.name!r} was stopped, and some of its counts may be wrong: {why} "
                "Name another run with --run."
            )
        prepared = self.smoothed.prepared
        if prepared.is_used and prepared.engine is EngineName.AUTO:
            engine, (forward, *_) = run.settings["engine"], run.settings["forward_shape"]
            prepared.use_engine(EngineName(engine), forward)
            self.__dict__.pop("settings", None)
        if source is not None:
            return self._begin_offline(store, run)
        return resume(
            store, run, as_compared(self.settings, run), self.plan, seed=self.seed, more=self.more,
            command=self.command, parameters=self.parameters(run.seed),
            image_ids=[self.dataset.image_ids[index] for index in self.indices],
        )  # fmt: skip

    def _begin_offline(self, store: Store, source: StoredRun) -> StoredRun:
        """Begin a run on the noise and the answers of another one; alpha and plan may differ."""
        if self.remote is None:
            raise SettingError(
                "--offline needs the query log of a remote classifier, and "
                f"{self.settings['classifier']!r} is a local one. Remove --offline."
            )
        same = {key: source.settings[key] for key in ("alpha", "plan")}
        compared = as_compared(self.settings, source) | same
        store.begin(source.name, compared, seed=self.seed, info={})
        info = self._info()
        info["label_names"] = source.info.get("label_names") or info["label_names"]
        info["answers_of"] = source.info.get("answers_of", source.name)
        held = store.find(self.run_name)
        settings = self.settings if held is None else as_compared(self.settings, held)
        return store.begin(self.run_name, settings, seed=source.seed, info=info)

    def _info(self) -> dict[str, Any]:
        """Return what a new run records about its origin."""
        names = self.label_match.names
        if self.remote is not None:  # the labels of the data first, so that numbers agree
            names = self.remote.named_after(names or ())
        choice = self.smoothed.prepared.engine_if_used(self.image(self.indices[0])[1])
        engine = choice and {"workers": choice.engine.workers, "notes": list(choice.notes)}
        packages = ("denoised-smoothing", "torch", "numpy", "scipy")
        versions = {package: metadata.version(package) for package in packages}
        return {
            "command": self.command,
            "engine": engine,
            "method": self.method,
            "notes": list(self.smoothed.notes),
            "label_names": None if names is None else list(names),
            "versions": {"python": platform.python_version(), **versions},
        }

    def _examples(self, seed: int) -> Iterator[StoredExample]:
        """Yield pictures of the first images: clean, noisy copies, denoised copies."""
        for index in self.indices[:EXAMPLES]:
            try:
                example, image = self.image(index)
            except ImageError:  # reported after all others are certified
                continue
            noisy, denoised = shown_copies(
                self.smoothed.prepared, image, example.image_id, seed, EXAMPLE_COPIES
            )
            kinds = [("clean", image[None]), ("noisy", noisy)]
            if self.smoothed.denoiser is not None:
                kinds.append(("denoised", denoised))
            for kind, pictures in kinds:
                for position, picture in enumerate(pictures):
                    yield StoredExample(example.image_id, kind, position, to_png(picture))


def _spec_of(smoothed: SmoothedClassifier, role: str) -> str:
    """Return the spec by which classifier or denoiser was loaded, else the name of its type."""
    if smoothed.bundle is not None:
        return str(getattr(smoothed.bundle, role))
    model = getattr(smoothed, role)
    return "none" if model is None else spec_of(model) or type(model).__name__
