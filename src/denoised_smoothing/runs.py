"""A run: what is stored already, what is left to do, doing it, and recording it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, plan_from_dict
from denoised_smoothing.certificates.setting import Setting
from denoised_smoothing.datasets import Example, ImageDataset, select
from denoised_smoothing.errors import ImageError, SettingError, StoreError
from denoised_smoothing.images import digest, to_png
from denoised_smoothing.scheduling import ImageTask
from denoised_smoothing.smoothing import SmoothedClassifier
from denoised_smoothing.store import Store, StoredExample, StoredImage, StoredRun
from denoised_smoothing.weights import fingerprint

SAVE_SECONDS = 0.4
"""Results wait at most this long, and the batch on its way, before they are in the store."""
EXAMPLES = 6
"""Images of a run that are shown in the report."""
EXAMPLE_COPIES = 3
"""Noisy copies shown of each."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is; ``certified`` counts finished images with a label other than abstain.

    ``calls`` are the classifier calls of this process and ``seconds`` its time; ``seconds_left``
    is None until there is something to estimate it from.
    """

    run: str
    images_done: int
    images: int
    certified: int
    calls: int
    seconds: float
    seconds_left: float | None


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
        more: continue a run that exists with so many more copies an image, where its plan allows
            it; the same as a plan with a larger cap.
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
    more: int | None = None
    method: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        self.plan.check_alpha(self.alpha)
        _ = self.settings

    @cached_property
    def indices(self) -> list[int]:
        """Positions in the data set of the images to certify."""
        return select(self.dataset, limit=self.limit, stride=self.stride)

    @property
    def run_name(self) -> str:
        """The given name, or one that the settings (and a given seed) determine."""
        if self.name is not None:
            return self.name
        # Without the cap, so that a larger one finds the run that it continues.
        plan = {k: v for k, v in self.settings["plan"].items() if k not in ("max_n", "more")}
        identity = json.dumps([{**self.settings, "plan": plan}, self.seed], sort_keys=True)
        parts = (self.dataset.name, self.classifier, self.denoiser)
        words = [re.sub(r"\.\w+$", "", part.rstrip("/").rpartition("/")[2]) for part in parts]
        short = re.sub(r"[^\w.]+", "-", "-".join(words))
        return (
            f"{short}-{self.smoothed.sigma:g}-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"
        )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must be equal for counts to belong to one run."""
        _, first = self.image(self.indices[0])
        return {
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "resolution": self.smoothed.resolution if self.resolution is None else self.resolution,
            "stride": self.stride,
            "dimension": int(first.size),
            "classifier": self.classifier,
            "classifier_fingerprint": fingerprint(self.smoothed.classifier),
            "denoiser": self.denoiser,
            "denoiser_fingerprint": fingerprint(self.smoothed.denoiser),
            "sigma": self.smoothed.sigma,
            "alpha": self.alpha,
            "plan": self.plan.to_dict(),
            "noise": self.smoothed.noise.value,
            "forward_shape": [self.smoothed.forward_size(first), *first.shape],
            **self.smoothed.engine.identity(),
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
            ClassifierError: an answer cannot be used.
            ImageError: images that cannot be read, or of another size, after all others.
        """
        run = self._begin(store)
        if not store.examples(run.name):
            store.save_examples(run.name, self._examples(run.seed))
        recorder = _Recorder(self, run, store, progress)
        try:
            for task in self.smoothed.count_labels(
                recorder.tasks(), recorder.targets, run.seed, on_batch=recorder.counted
            ):
                recorder.finished(task)
        finally:
            recorder.save()
        if recorder.refused:
            raise ImageError(
                f"{len(recorder.refused)} of {len(self.indices)} images could not be certified, "
                f"all others of run {run.name!r} are: {'; '.join(recorder.refused[:3])}"
            )
        return run

    def _begin(self, store: Store) -> StoredRun:
        """The run in the store: new, as it was, or with more copies allowed than it was."""
        held = next((run for run in store.runs() if run.name == self.run_name), None)
        if held is None:
            if self.more is not None:
                raise SettingError(
                    f"there is no run {self.run_name!r} to continue by {self.more} copies; name "
                    "one with --run, or leave --more out to start one"
                )
            return store.begin(self.run_name, self.settings, seed=self.seed, info=self._info())
        plan = plan_from_dict(held.settings["plan"])
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
        plan, setting = plan_from_dict(held.settings["plan"]), self.setting(held)
        complete = {
            image.image_id for image in store.images(held.name) if _has_all(image, plan, setting)
        }
        return any(self.dataset.image_ids[index] not in complete for index in self.indices)

    def setting(self, run: StoredRun) -> Setting:
        """What the certificates of the run rest on."""
        return Setting(
            self.smoothed.sigma,
            self.alpha,
            self.settings["dimension"],
            run.seed,
            self.smoothed.noise,
        )

    @property
    def label_note(self) -> str | None:
        """What to tell the user where label names of data and classifier differ, or None."""
        ours = getattr(self.smoothed.classifier, "label_names", None)
        theirs = self.dataset.label_names
        if ours is None or theirs is None or ours == theirs:
            return None
        return (
            f"the label names of the data ({', '.join(theirs[:3])}, ...) and of the classifier "
            f"({', '.join(ours[:3])}, ...) differ; labels are compared by their numbers"
        )

    @property
    def reach_note(self) -> str | None:
        """What to tell the user where the plan can certify none of its radii, or None."""
        if not isinstance(self.plan, Anytime):
            return None
        rests = Setting(
            self.smoothed.sigma, self.alpha, self.settings["dimension"], 0, self.smoothed.noise
        )
        if self.plan.boundaries(rests):
            return None
        return (
            f"no radius of {self.plan.radii} can be certified at sigma {self.smoothed.sigma:g} by "
            f"up to {self.plan.max_n:,} copies, so none is drawn; take a larger sigma, smaller "
            "--radii or a larger --max-n ('denoised-smoothing plan' names the least)"
        )

    def _info(self) -> dict[str, Any]:
        names = getattr(self.smoothed.classifier, "label_names", None) or self.dataset.label_names
        return {
            "command": self.command,
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


class _Recorder:
    """Turns stored images into tasks, and tasks into stored images."""

    def __init__(
        self,
        request: CertificationRun,
        run: StoredRun,
        store: Store,
        progress: Callable[[RunProgress], None] | None,
    ) -> None:
        self._request, self._run, self._store, self._progress = request, run, store, progress
        self._plan = plan_from_dict(run.settings["plan"])
        self._setting = request.setting(run)
        stored = {image.image_id: image for image in store.images(run.name)}
        ids = request.dataset.image_ids
        self._images = {
            image_id: image
            for image_id, image in stored.items()
            if not _has_all(image, self._plan, self._setting)
        }
        self._todo = [
            index
            for index in request.indices
            if ids[index] not in stored or ids[index] in self._images
        ]
        done = [stored[ids[index]] for index in set(request.indices).difference(self._todo)]
        self._done, self._certified = len(done), sum(map(self._is_certified, done))
        self._calls, self._pending = 0, dict[str, StoredImage]()
        self.refused: list[str] = []
        self._began = self._saved = time.monotonic()
        self._report()

    def targets(self, counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
        """The plan's, for this run."""
        return self._plan.targets(counts, self._setting)

    def tasks(self) -> Iterator[ImageTask]:
        """Images that are not finished, with the counts that they have, one by one."""
        for index in self._todo:
            try:
                example, image = self._request.image(index)
                self._check_shape(example, image)
            except ImageError as error:  # of one image: the others are certified first
                self.refused.append(str(error))
                continue
            fresh = StoredImage(index, example.image_id, example.label, digest(image), {})
            begun = self._images.setdefault(example.image_id, fresh)
            if begun.digest != fresh.digest:
                raise StoreError(
                    f"image {example.image_id!r} is not the one that run {self._run.name!r} began "
                    "with: the data changed; start a new run under another name"
                )
            yield ImageTask(
                self._run.name, example.image_id, image, dict(begun.counts), begun.seconds
            )

    def _check_shape(self, example: Example, image: Float[np.ndarray, "c h w"]) -> None:
        shape = self._request.settings["forward_shape"][1:]
        if list(image.shape) != shape:
            raise ImageError(
                f"image {example.image_id!r} has shape {list(image.shape)}, the first one "
                f"{shape}; bring them to one size (a resolution)"
            )

    def counted(self, tasks: Sequence[ImageTask]) -> None:
        """Take over the counts of tasks after a batch; save if it is time to."""
        for task in tasks:
            self._take(task)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()
        self._report()

    def finished(self, task: ImageTask) -> None:
        """Take over the counts of a task that has all that its plan wants."""
        image = replace(self._take(task), finished=True)
        self._pending[task.image_id] = image
        del self._images[task.image_id]
        self._done += 1
        self._certified += self._is_certified(image)
        self._report()

    def save(self) -> None:
        """Write what has changed."""
        if self._pending:
            self._store.save_images(self._run.name, self._pending.values())
            self._pending = {}
        self._saved = time.monotonic()

    def _take(self, task: ImageTask) -> StoredImage:
        before = self._images[task.image_id]
        self._calls += task.calls - sum(counts.n for counts in before.counts.values())
        image = replace(before, counts=dict(task.counts), seconds=task.seconds)
        self._images[task.image_id] = self._pending[task.image_id] = image
        return image

    def _is_certified(self, image: StoredImage) -> bool:
        return self._plan.certificate(image.counts, self._setting).label is not None

    def _report(self) -> None:
        if self._progress is None:
            return
        seconds, total = time.monotonic() - self._began, len(self._request.indices)
        here = self._done - (total - len(self._todo))
        left = seconds / here * (total - self._done) if here else None
        self._progress(
            RunProgress(
                self._run.name, self._done, total, self._certified, self._calls, seconds, left
            )
        )


def _has_all(image: StoredImage, plan: SamplingPlan, setting: Setting) -> bool:
    """Whether an image is finished, also if its run was allowed more copies since."""
    return image.finished and all(
        (image.counts[stage].n if stage in image.counts else 0) >= n
        for stage, n in plan.targets(image.counts, setting).items()
    )
