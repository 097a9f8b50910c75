"""A run: which images are certified, under which settings, and the certifying itself."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import metadata
from itertools import islice
from typing import Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.parameters import EngineName, SmoothingParameters
from denoised_smoothing.datasets import ImageDataset, from_sequence, select
from denoised_smoothing.errors import ContractError, ImageError, RunMismatchError, SettingError
from denoised_smoothing.models.labels import GivenLabels, LabelMatch
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.runs.calibration import calibrate
from denoised_smoothing.runs.clean import note_clean_labels
from denoised_smoothing.runs.examples import pictures
from denoised_smoothing.runs.identity import as_compared, derived_name
from denoised_smoothing.runs.labels import as_setting, matched
from denoised_smoothing.runs.loading import (
    Loaded,
    Shape,
    common_shape,
    load_at,
    none_usable,
    some_refused,
    usable,
)
from denoised_smoothing.runs.notes import (
    MOST,
    notes_on_answers,
    notes_on_engine,
    notes_on_models,
    notes_on_plan,
)
from denoised_smoothing.runs.paid import QueryEstimate, estimate_queries, with_query_log
from denoised_smoothing.runs.resume import check_extendable, note_planned, resume, resumed_plan
from denoised_smoothing.runs.shards import Shard
from denoised_smoothing.runs.writer import RunProgress, RunWriter
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store, StoredRun
from denoised_smoothing.store.records import check_name


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
        shape: of the images as they are certified [C, H, W]; None for that of the bundle or the
            resolution or, without one, the most frequent one. Images of another shape are refused.
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
        SettingError: an argument is out of range, a name is empty, or a shard has no seed.
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
    shape: Shape | None = None
    limit: int | None = None
    stride: int = 1
    shard: Shard | None = None
    more: int | None = None
    answers_of: str | None = None
    calibration: ImageDataset | None = None
    labels: GivenLabels | None = None
    method: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        for name in (self.name, self.answers_of):
            if name is not None:
                check_name(name)
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
        return self._whole if self.shard is None else self.shard.of_indices(self._whole)

    @cached_property
    def _whole(self) -> list[int]:
        """Those of all shards, which have one shape and are prepared with one image."""
        return select(self.dataset, limit=self.limit, stride=self.stride)

    @cached_property
    def image_shape(self) -> Shape:
        """The one shape [C, H, W] of all images as they are certified."""
        return self.shape or common_shape(self.smoothed, self.dataset, self._whole, self.resolution)

    @cached_property
    def first(self) -> Loaded:
        """The first image that can be certified; engine and parameters are prepared with it."""
        refused, _ = list[ImageError](), self.image_shape  # whose errors are not of one image
        for loaded in usable(self._at, self._whole, refused):
            return loaded
        raise none_usable(refused)

    def prepare(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Decode a first image, calibrate int8, and choose the engine, if that was not done.

        :meth:`execute` calls it, too. Where no engine is used, it only decodes the image.

        Args:
            say: called with a message before each step that takes time.

        Raises:
            ImageError: no image can be certified, or two shapes are equally frequent.
            SettingError, MissingExtraError, ClassifierError: the engine is not available.
        """
        _ = self._fingerprints
        _, first = self.first
        if not self.smoothed.prepared.is_used:
            return
        if self.smoothed.prepared.needs_calibration:
            data = self.dataset if self.calibration is None else self.calibration
            say(f"calibrating int8 with images of {data.name}")
            calibrate(self.smoothed, data, self.resolution, self.image_shape)
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
        _, first = self.first
        classifier, denoiser = self._fingerprints
        return {
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "data_labels": list(self.dataset.label_names or ()),
            **as_setting(self.label_match, self.dataset, self.labels),
            "resolution": self.smoothed.resolution if self.resolution is None else self.resolution,
            "stride": self.stride,
            **({} if self.shard is None else self.shard.settings(len(self._whole))),
            "image_shape": list(self.image_shape),
            "dimension": int(first.size),
            "classifier": self.classifier or self.smoothed.models.specs[0],
            "classifier_fingerprint": classifier,
            "denoiser": self.denoiser or self.smoothed.models.specs[1],
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
            ImageError: it cannot be read or certified, or has another shape than the run.
        """
        return self.first if index == self.first[0].index else self._at(index)

    def _at(self, index: int) -> Loaded:
        shape = self.image_shape
        example, image = load_at(shape, self.smoothed, self.dataset, index, self.resolution)
        (label,) = self.label_match.labels([example.label])
        return replace(example, label=label), image

    def parameters(self, seed: int) -> SmoothingParameters:
        """Return what the certificates of the run rest on besides the counts."""
        _, first = self.first
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
        _, first = self.first
        found = [
            *notes_on_engine(self.smoothed, first),
            *filter(None, [self.label_match.note]),
            *notes_on_plan(self.plan, self.parameters(seed=0)),
            *notes_on_models(self.smoothed),
        ]
        if self.remote is None:
            clean = list(islice(usable(self.image, self.indices, []), MOST))
            labels = [example.label for example, _ in clean]
            found += notes_on_answers(self.smoothed, [image for _, image in clean], labels)
        return tuple(found)

    def estimate(self, store: Store) -> QueryEstimate | None:
        """Return what queries the run still needs at most; None where it sends none."""
        if self.remote is None or self.answers_of is not None:
            return None
        if (run := store.find(self.run_name)) is None:
            check_extendable(self.run_name, self.more)
            return estimate_queries(self.remote, [], self.plan, self._image_ids)
        plan = resumed_plan(store, run, self.plan, **self._request(run)) or self.plan
        attempts = list(StoreLog(store, run.name).history())
        return estimate_queries(self.remote, attempts, plan, self._image_ids)

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
            RefusedImagesError: images that cannot be read or certified, or of another shape, after
                all others were certified. :attr:`StoredRun.refused` lists them.
            ImageError: no image can be certified.
            KeyboardInterrupt: after Ctrl-C; its text, if any, says which counts are not stored.
        """
        with store.claim(self.run_name):
            run = self._begin(store)
            note_planned(store, run, len(self.indices))
            if not store.examples(run.name):
                images = usable(self.image, self.indices, [])
                store.save_examples(run.name, list(pictures(self.smoothed, images, run.seed)))
            remote = self.remote
            self.smoothed.prepared.canaries.restart()
            with nullcontext() if remote is None else with_query_log(remote, store, run):
                writer = RunWriter(
                    run, store, SamplingPlan.from_dict(run.settings["plan"]),
                    self.parameters(run.seed), self.indices, self.dataset.image_ids,
                    self.label_match.labels(self.dataset.labels), self.image, remote, progress,
                )  # fmt: skip
                with writer.closing(partial(self._note_canaries, store, run)):
                    try:
                        for task in self.smoothed.count_labels(
                            writer.tasks(), writer.targets, run.seed, on_batch=writer.counted
                        ):
                            writer.finished(task)
                    except ContractError as error:
                        notes = [*run.info.get("notes", ()), f"stopped: {error}"]
                        store.note(run.name, notes=notes, stopped=str(error))
                        raise
            if remote is None:
                note_clean_labels(store, run.name, self.smoothed, self.image, self.indices)
        store.check_place()
        if writer.refused:
            raise some_refused(run.name, writer.refused, len(self.indices))
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
            check_extendable(self.run_name, self.more)
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
        compared = as_compared(self.settings, run)
        return resume(store, run, compared, self.plan, seed=self.seed, **self._request(run))

    def _request(self, run: StoredRun) -> dict[str, Any]:
        """Return the arguments of :func:`resumed_plan` but the store, the run and the plan."""
        return {
            "more": self.more,
            "command": self.command,
            "parameters": self.parameters(run.seed),
            "image_ids": self._image_ids,
        }

    @property
    def _image_ids(self) -> list[str]:
        return [self.dataset.image_ids[index] for index in self.indices]

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
        info["seed_given"] = source.info.get("seed_given")
        info["answers_of"] = source.info.get("answers_of", source.name)
        held = store.find(self.run_name)
        settings = self.settings if held is None else as_compared(self.settings, held)
        return store.begin(self.run_name, settings, seed=source.seed, info=info)

    def _info(self) -> dict[str, Any]:
        """Return what a new run records about its origin."""
        names = self.label_match.names
        if self.remote is not None:  # the labels of the data first, so that numbers agree
            names = self.remote.named_after(names or ())
        choice = self.smoothed.prepared.engine_if_used(self.first[1])
        engine = choice and {"workers": choice.engine.workers, "notes": list(choice.notes)}
        packages = ("denoised-smoothing", "torch", "numpy", "scipy")
        versions = {package: metadata.version(package) for package in packages}
        return {
            "command": self.command,
            "engine": engine,
            "method": self.method,
            "seed_given": self.seed is not None,
            "notes": [*self.smoothed.notes, *filter(None, [self.label_match.note])],
            "label_names": None if names is None else list(names),
            "versions": {"python": platform.python_version(), **versions},
            "noise_stream": self.smoothed.models.noise_stream,
        }
