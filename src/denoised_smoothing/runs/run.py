"""A run: what is stored already, what is left to do, doing it, and recording it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.parameters import EngineName, SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.datasets import Example, ImageDataset, select
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.images import to_png
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.runs.paid import (
    QueryEstimate,
    begin_offline,
    estimate,
    first_names,
    remote_classifier,
    with_query_log,
)
from denoised_smoothing.runs.shards import OF_SHARDS, Shard
from denoised_smoothing.runs.writer import RunProgress, RunWriter, is_complete
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store, StoredExample, StoredRun

CALIBRATION_IMAGES = 50
"""Images from whose noisy copies int8 takes its ranges."""
EXAMPLES = 6
"""Images of a run that are shown in the report."""
EXAMPLE_COPIES = 3
"""Noisy copies shown of each."""


_FOUND = ("engine_version", "forward_shape", "model_digest", "processor")
"""Settings that the machine decides."""


@dataclass(frozen=True)
class CertificationRun:
    """Certifies images of a data set and stores their counts; goes on where it stopped.

    Args:
        smoothed: the smoothed classifier.
        dataset: the images.
        plan: how many noisy copies each image gets.
        alpha: probability that a certificate is wrong, in (0, 1).
        classifier, denoiser: the specs that name them, for the record.
        name: of the run; None derives one from the settings, so that the same settings go on.
        seed: of the noise; None for that of the run if it exists, else for fresh entropy.
        resolution: side in pixels to which images are brought before the noise; None for the
            classifier's own, or as they are.
        limit, stride: which images: every ``stride``-th, at most ``limit``.
        shard: which part of those images: counts of all parts are joined by :func:`merge`. Parts
            need one seed, so it must be given.
        more: continue a run that exists with so many more copies an image, where its plan allows
            it; the same as a plan with a larger cap.
        answers_of: send no query: take the answers in the query log of this run, whose alpha and
            plan may have been others. Images that lack some stay unfinished.
        calibration: images like those of ``dataset``, from whose noisy copies int8 takes its
            ranges; None takes those of ``dataset`` (without their labels).
        method: the run's name in tables.
        command: what was typed, for the record.

    Raises:
        SettingError, ImageError: bad input.
    """

    smoothed: SmoothedClassifier
    dataset: ImageDataset
    plan: SamplingPlan
    alpha: float
    classifier: str
    denoiser: str
    name: str | None = None
    seed: int | None = None
    resolution: int | None = None
    limit: int | None = None
    stride: int = 1
    shard: Shard | None = None
    more: int | None = None
    answers_of: str | None = None
    calibration: ImageDataset | None = None
    method: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        self.plan.check_alpha(self.alpha)
        if self.shard is not None and self.seed is None:
            raise SettingError(
                f"the shards of a run have one seed, so that they can be merged; give --seed to "
                f"shard {self.shard} and to all others"
            )
        _ = self.settings

    @cached_property
    def indices(self) -> list[int]:
        """Positions in the data set of the images to certify."""
        indices = self._undivided
        return indices if self.shard is None else self.shard.of_indices(indices)

    @cached_property
    def _undivided(self) -> list[int]:
        """Those of all shards."""
        return select(self.dataset, limit=self.limit, stride=self.stride)

    @cached_property
    def run_name(self) -> str:
        """The given name, or one that the settings (and a given seed) determine."""
        if self.name is not None:
            return self.name
        # Without the cap, so that a larger one finds the run that it continues.
        plan = {k: v for k, v in self.settings["plan"].items() if k not in ("max_n", "more")}
        # What was asked for, not what was found here: another machine continues the same run. All
        # shards of a run have its name.
        asked = {k: v for k, v in self.settings.items() if k not in (*_FOUND, *OF_SHARDS)}
        asked |= {"plan": plan, "engine": self.smoothed.execution.engine.value}
        identity = json.dumps([asked, self.seed], sort_keys=True)
        parts = (self.dataset.name, self.classifier, self.denoiser)
        words = [re.sub(r"\.\w+$", "", part.rstrip("/").rpartition("/")[2]) for part in parts]
        short = re.sub(r"[^\w.]+", "-", "-".join(words))
        code = hashlib.sha256(identity.encode()).hexdigest()[:6]
        if self.answers_of is not None:
            return f"{self.answers_of}-offline-{code}"
        return f"{short}-{self.smoothed.sigma:g}-{code}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must be equal for counts to belong to one run."""
        _, first = self.image(self.indices[0])
        if self.smoothed.execution.needs_calibration:
            data = self.dataset if self.calibration is None else self.calibration
            calibrate(self.smoothed, data, self.resolution)
        classifier, denoiser = self.smoothed.fingerprints()
        return {
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "resolution": self.smoothed.resolution if self.resolution is None else self.resolution,
            "stride": self.stride,
            **({} if self.shard is None else self.shard.settings(len(self._undivided))),
            "dimension": int(first.size),
            "classifier": self.classifier,
            "classifier_fingerprint": classifier,
            "denoiser": self.denoiser,
            "denoiser_fingerprint": denoiser,
            "sigma": self.smoothed.sigma,
            "alpha": self.alpha,
            "plan": self.plan.to_dict(),
            "noise": self.smoothed.noise.value,
            **self.smoothed.execution.record(first),
        }

    def image(self, index: int) -> tuple[Example, Float[np.ndarray, "c h w"]]:
        """An example, and its image at the run's resolution and on the 8-bit grid.

        Raises:
            ImageError: it cannot be read, or has other channels than the classifier takes.
        """
        example = self.dataset[index]
        name = f"image {example.image_id!r}"
        return example, self.smoothed.prepare(example.image, self.resolution, name=name)

    def execute(
        self, store: Store, progress: Callable[[RunProgress], None] | None = None
    ) -> StoredRun:
        """Certify what is not yet certified; everything counted is kept whatever happens.

        Raises:
            RunMismatchError: the run exists with other settings; names what differs.
            StoreError: the store cannot be written, or the data changed under the run.
            RemoteError: a classifier behind a wire cannot go on, or its budget is used up.
            ClassifierError: an answer cannot be used.
            RunBusyError: another driver works on the run.
            ImageError: images that cannot be read, or of another size, after all others.
        """
        with store.claim(self.run_name):
            return self._execute(store, progress)

    def _execute(self, store: Store, progress: Callable[[RunProgress], None] | None) -> StoredRun:
        run = self._begin(store)
        if not store.examples(run.name):
            store.save_examples(run.name, self._examples(run.seed))
        with with_query_log(self.remote, store, run):
            recorder = RunWriter(self, run, store, progress)
            try:
                for task in self.smoothed.count_labels(
                    recorder.tasks(), recorder.targets, run.seed, on_batch=recorder.counted
                ):
                    recorder.finished(task)
            finally:
                recorder.close()
        if recorder.refused:
            raise ImageError(
                f"{len(recorder.refused)} of {len(self.indices)} images could not be certified, "
                f"all others of run {run.name!r} are: {'; '.join(recorder.refused[:3])}"
            )
        return run

    @property
    def remote(self) -> RemoteClassifier | None:
        """The classifier, if it is behind a wire."""
        return remote_classifier(self.smoothed)

    def estimate(self, store: Store) -> QueryEstimate | None:
        """What is still to be bought at most; None where nothing is bought."""
        if self.remote is None or self.answers_of is not None:
            return None
        most_calls = len(self.indices) * self.plan.most_calls()
        return estimate(store, self.run_name, self.remote, most_calls)

    def _begin(self, store: Store) -> StoredRun:
        """The run in the store: new, as it was, or with more copies allowed than it was."""
        if self.answers_of is not None:
            self._adopt(store.run(self.answers_of))
            return begin_offline(
                store, self.answers_of, self.run_name, remote=self.remote,
                settings=self.settings, seed=self.seed, info=self._info(),
            )  # fmt: skip
        held = next((run for run in store.runs() if run.name == self.run_name), None)
        if held is None:
            if self.more is not None:
                raise SettingError(
                    f"there is no run {self.run_name!r} to continue by {self.more} copies; name "
                    "one with --run, or leave --more out to start one"
                )
            return store.begin(self.run_name, self.settings, seed=self.seed, info=self._info())
        self._adopt(held)
        plan = SamplingPlan.from_dict(held.settings["plan"])
        wanted: SamplingPlan | None
        # A continuation has the run's own plan, unless another is asked for by name.
        asked = plan if self.more is not None and self.plan == FixedBudget() else self.plan
        if self.more is not None:
            self._check_one_cap(plan, asked)
        if self.more is None or plan.joined(asked) is None:
            wanted = plan.joined(self.plan)
        else:
            wanted = plan if self._was_interrupted(store, held) else plan.extended(self.more)
        settings = {**self.settings, "plan": plan.to_dict()}
        if wanted is None:  # of another kind: the store says what differs
            settings["plan"] = self.plan.to_dict()
        store.begin(held.name, settings, seed=self.seed, info={})
        if wanted is None or wanted == plan:
            return held
        return store.extend(held.name, wanted.to_dict(), command=self.command)

    def _adopt(self, held: StoredRun) -> None:
        """Go on with the engine that the run began with, where none was asked for by name."""
        if self.smoothed.execution.engine is EngineName.AUTO:
            engine, (forward, *_) = held.settings["engine"], held.settings["forward_shape"]
            self.smoothed.execution.adopt(EngineName(engine), forward)
            del self.__dict__["settings"]

    def _check_one_cap(self, plan: SamplingPlan, asked: SamplingPlan) -> None:
        """Refuse another cap beside more copies: it is not clear how many are meant in all."""
        if not (isinstance(plan, Anytime) and isinstance(asked, Anytime)):
            return
        if asked.max_n != plan.max_n:
            held = f"{plan.max_n:,}" + (f" and {plan.more:,} more" if plan.more else "")
            raise SettingError(
                f"a cap of {asked.max_n:,} copies beside --more {self.more}, for the run "
                f"{self.run_name!r} with a cap of {held}; leave --plan and --max-n out to add to "
                "what it has, or --more to set a larger cap"
            )

    def _was_interrupted(self, store: Store, held: StoredRun) -> bool:
        """Whether this very continuation was begun before and has not come to its end.

        The command that an interruption prints names the run as well.
        """
        named = f" --run {shlex.quote(held.name)}"
        begun = [command.removesuffix(named) for command in held.info.get("continued", [])]
        if begun[-1:] != [self.command.removesuffix(named)]:
            return False
        plan, parameters = SamplingPlan.from_dict(held.settings["plan"]), self.parameters(held)
        complete = {
            image.image_id
            for image in store.images(held.name)
            if is_complete(image, plan, parameters)
        }
        return any(self.dataset.image_ids[index] not in complete for index in self.indices)

    def parameters(self, run: StoredRun) -> SmoothingParameters:
        """What the certificates of the run rest on."""
        return self._parameters(run.seed)

    def _parameters(self, seed: int) -> SmoothingParameters:
        _, first = self.image(self.indices[0])
        return self.smoothed.parameters(first, self.alpha, seed)

    @property
    def label_note(self) -> str | None:
        """What to tell the user where label names of data and classifier differ, or None."""
        if self.remote is not None:  # whose labels are compared by their names
            return None
        ours = getattr(self.smoothed.classifier, "label_names", None)
        theirs = self.dataset.label_names
        if ours is None or theirs is None or ours == theirs:
            return None
        return (
            f"the label names of the data ({', '.join(theirs[:3])}, ...) and of the classifier "
            f"({', '.join(ours[:3])}, ...) differ; labels are compared by their numbers"
        )

    @property
    def engine_notes(self) -> tuple[str, ...]:
        """What to tell the user about the engine that was chosen."""
        return self.smoothed.choice(self.image(self.indices[0])[1]).notes

    @property
    def reach_note(self) -> str | None:
        """What to tell the user where the plan can certify none of its radii, or None."""
        if not isinstance(self.plan, Anytime):
            return None
        if self.plan.boundaries(self._parameters(seed=0)):
            return None
        return (
            f"no radius of {self.plan.radii} can be certified at sigma {self.smoothed.sigma:g} by "
            f"up to {self.plan.max_n:,} copies, so none is drawn; take a larger sigma, smaller "
            "--radii or a larger --max-n ('denoised-smoothing plan' names the least)"
        )

    def _info(self) -> dict[str, Any]:
        names = getattr(self.smoothed.classifier, "label_names", None) or self.dataset.label_names
        if self.remote is not None:  # the labels of the data first, so that numbers agree
            names = first_names(self.remote, self.dataset.label_names)
        return {
            "command": self.command,
            "engine": self._engine_record(),
            "method": self.method,
            "label_names": None if names is None else list(names),
            "versions": {
                "python": platform.python_version(),
                **{
                    package: metadata.version(package)
                    for package in ("denoised-smoothing", "torch", "numpy", "scipy")
                },
            },
        }

    def _engine_record(self) -> dict[str, Any]:
        """How the copies are executed here, where it makes no difference to the counts."""
        choice = self.smoothed.choice(self.image(self.indices[0])[1])
        return {"workers": choice.engine.workers, "notes": list(choice.notes)}

    def _examples(self, seed: int) -> Iterator[StoredExample]:
        """Pictures of the first images: clean, noisy copies, denoised copies."""
        for index in self.indices[:EXAMPLES]:
            try:
                example, image = self.image(index)
            except ImageError:  # will be named after all others are certified
                continue
            noisy, denoised = self.smoothed.copies(image, example.image_id, seed, EXAMPLE_COPIES)
            kinds = [("clean", image[None]), ("noisy", noisy)]
            if self.smoothed.denoiser is not None:
                kinds.append(("denoised", denoised))
            for kind, pictures in kinds:
                for position, picture in enumerate(pictures):
                    yield StoredExample(example.image_id, kind, position, to_png(picture))


def calibrate(smoothed: SmoothedClassifier, dataset: ImageDataset, resolution: int | None) -> None:
    """Take the ranges of int8 from images spread evenly over a data set, as they are certified.

    Raises:
        ImageError: one cannot be read, or they differ in size.
    """
    stride = max(1, len(dataset.image_ids) // CALIBRATION_IMAGES)
    images = [
        smoothed.prepare(dataset[index].image, resolution, name=f"image {index} of {dataset.name}")
        for index in select(dataset, limit=CALIBRATION_IMAGES, stride=stride)
    ]
    if len({image.shape for image in images}) > 1:
        raise ImageError(
            f"the calibration images of {dataset.name} differ in size; bring them to one "
            "(a resolution)"
        )
    smoothed.execution.calibrate(
        np.stack(images),
        calibration_data=dataset.name,
        calibration_fingerprint=dataset.fingerprint,
    )
