"""Tasks from the store and counts to the store, in threads next to the counting."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.errors import ImageError, RunMismatchError, StoreError
from denoised_smoothing.images import digest
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.records import Spending
from denoised_smoothing.runs.loading import Loaded
from denoised_smoothing.runs.resume import is_complete
from denoised_smoothing.smoothing.scheduler import ImageTask
from denoised_smoothing.store import RefusedImage, Store, StoredImage, StoredRun
from denoised_smoothing.store.records import as_info

SAVE_SECONDS = 0.4
"""Seconds that results wait before they are written."""
AHEAD = 8
"""Images that are decoded before they are needed."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The progress of a run: finished images and their cost.

    ``certified`` counts finished images with a label other than abstain. ``calls`` are the
    classifier calls of this process and ``seconds`` its time. ``seconds_left`` is None until an
    image is finished. ``spent`` is the cost of the queries of a remote classifier.
    """

    run: str
    images_done: int
    images: int
    certified: int
    calls: int
    seconds: float
    seconds_left: float | None
    spent: Spending | None = None


@dataclass(eq=False)
class RunWriter:
    """Turns stored images into tasks, and tasks into stored images.

    One thread decodes images before they are needed and another one writes counts, so that
    neither keeps the device waiting.

    Args:
        plan, parameters: of the run's certificates.
        indices: positions in the data set of the images to certify.
        image_ids, labels: of the whole data set.
        load: from an index to the example and its image as it is certified.
        remote: the classifier if it is a remote one, for its label names and spending.
        progress: called after every batch.
    """

    run: StoredRun
    store: Store
    plan: SamplingPlan
    parameters: SmoothingParameters
    indices: Sequence[int]
    image_ids: Sequence[str]
    labels: Sequence[int | None]
    load: Callable[[int], Loaded]
    remote: RemoteClassifier | None = None
    progress: Callable[[RunProgress], None] | None = None

    def __post_init__(self) -> None:
        self.targets = partial(self.plan.targets, parameters=self.parameters)
        self._images, complete = dict[str, StoredImage](), dict[str, StoredImage]()
        for image in self.store.stream_images(self.run.name):
            known = complete if is_complete(image, self.plan, self.parameters) else self._images
            known[image.image_id] = image
        self._todo = [index for index in self.indices if self.image_ids[index] not in complete]
        self._check_labels({**complete, **self._images})
        self._refused = {image.image_id: image for image in self.run.refused}
        done = [complete[self.image_ids[i]] for i in set(self.indices).difference(self._todo)]
        self._before = self._done = len(done)
        self._certified = sum(map(self._is_certified, done))
        self._calls, self._pending = 0, dict[str, StoredImage]()
        self._handed = self._stored = 0  # of the calls: with the writing thread, in the store
        self._names = self.run.label_names
        self._began = self._saved = time.monotonic()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._writing: Future[None] | None = None
        self._report()

    def _check_labels(self, stored: Mapping[str, StoredImage]) -> None:
        """Refuse data in which a class has another number than when its images were stored."""
        for index in self.indices:
            image, label = stored.get(self.image_ids[index]), self.labels[index]
            if image is not None and image.label != label:
                raise RunMismatchError(
                    f"Image {image.image_id!r} has label {image.label} in run {self.run.name!r} "
                    f"and label {label} in the data: the classes of the data changed. Restore "
                    "them, or start a run of another name."
                )

    def tasks(self) -> Iterator[ImageTask]:
        """Yield the images that are not finished, one by one, with the counts that they have.

        Raises:
            StoreError: an image is not the one whose counts are stored.
        """
        for index, loading in zip(self._todo, _ahead(self.load, self._todo), strict=True):
            image_id = self.image_ids[index]
            self._refused.pop(image_id, None)  # it may have been repaired
            try:
                example, image = loading.result()
            except ImageError as error:  # of one image: the others are certified
                self._refused[image_id] = RefusedImage(index, image_id, str(error))
                continue
            fresh = StoredImage(example.index, example.image_id, example.label, digest(image), {})
            begun = self._images.setdefault(example.image_id, fresh)
            if begun.digest != fresh.digest:
                raise StoreError(
                    f"Image {example.image_id!r} differs from the one that run {self.run.name!r} "
                    "began with: the data changed. Restore the data, or start a run of another "
                    "name."
                )
            yield ImageTask(
                self.run.name, example.image_id, image, dict(begun.counts), begun.seconds
            )

    def counted(self, tasks: Sequence[ImageTask]) -> None:
        """Take over the counts of tasks after a batch, and save them every SAVE_SECONDS."""
        for task in tasks:
            self._take(task)
        is_written = self._writing is None or self._writing.done()
        if is_written and time.monotonic() - self._saved >= SAVE_SECONDS:
            self._save()
        self._report()

    def finished(self, task: ImageTask) -> None:
        """Take over the counts of a task that has all copies of its plan."""
        image = replace(self._take(task), finished=True)
        self._pending[task.image_id] = image
        del self._images[task.image_id]
        self._done += 1
        self._certified += self._is_certified(image)
        self._report()

    @contextmanager
    def closing(self, note: Callable[[], None]) -> Iterator[None]:
        """Close at the end, and then call ``note``, which writes to the store.

        Raises:
            KeyboardInterrupt: after Ctrl-C; its text says what could not be stored.
            StoreError: the store failed.
        """
        interrupted = False
        try:
            yield
        except KeyboardInterrupt:
            interrupted = True
            raise
        finally:
            try:
                self.close()
                note()
            except StoreError as error:
                if not interrupted:
                    raise
                lost = self._calls - self._stored
                raise KeyboardInterrupt(
                    f"The counts of the last {lost:,} copies are not stored: {error}"
                ) from error

    def close(self) -> None:
        """Write all changes and the refused images, and wait until they are written.

        An image with a result from before the run was extended keeps it, and is not refused.

        Raises:
            StoreError: this write or an earlier one failed.
        """
        try:
            self._save()
        finally:
            self._writer.shutdown()
        if self._writing is not None:
            self._writing.result()
            self._stored = self._calls
        listed = [image for name, image in self._refused.items() if not self._has_result(name)]
        refused = sorted(listed, key=lambda image: image.index)
        if tuple(refused) != self.run.refused:
            self.store.note(self.run.name, refused=[asdict(image) for image in refused])

    @property
    def refused(self) -> list[RefusedImage]:
        """The images to certify that could not be loaded."""
        found = (self._refused.get(self.image_ids[index]) for index in self.indices)
        return [image for image in found if image is not None]

    def _has_result(self, image_id: str) -> bool:
        """Return whether an image that this run did not finish has a result of fewer copies."""
        return image_id in self._images and self._images[image_id].finished

    def _save(self) -> None:
        """Hand all changes to the writing thread; raise the error of its last write."""
        if self._writing is not None:
            self._writing.result()
            self._stored = self._handed
        if self._pending:
            self._handed = self._calls
            images, self._pending = list(self._pending.values()), {}
            held, remote = self._names, self.remote
            self._names = held if remote is None else remote.label_names or {}
            new = None if self._names == held else self._names
            self._writing = self._writer.submit(self._write, new, images)
        self._saved = time.monotonic()

    def _write(self, names: Mapping[int, str] | None, images: list[StoredImage]) -> None:
        """In the writing thread: new labels are written before the counts that use them."""
        if names is not None:
            self.store.note(self.run.name, label_names=as_info(names))
        self.store.save_images(self.run.name, images)

    def _take(self, task: ImageTask) -> StoredImage:
        before = self._images[task.image_id]
        self._calls += task.calls - sum(counts.n for counts in before.counts.values())
        image = replace(before, counts=dict(task.counts), seconds=task.seconds)
        self._images[task.image_id] = self._pending[task.image_id] = image
        return image

    def _is_certified(self, image: StoredImage) -> bool:
        return self.plan.certificate(image.counts, self.parameters).label is not None

    def _report(self) -> None:
        if self.progress is None:
            return
        seconds, here = time.monotonic() - self._began, self._done - self._before
        self.progress(
            RunProgress(
                run=self.run.name,
                images_done=self._done,
                images=len(self.indices),
                certified=self._certified,
                calls=self._calls,
                seconds=seconds,
                seconds_left=seconds / here * (len(self.indices) - self._done) if here else None,
                spent=None if self.remote is None else self.remote.spent,
            )
        )


def _ahead(load: Callable[[int], Loaded], indices: Sequence[int]) -> Iterator[Future[Loaded]]:
    """Yield the loaded image of each index in turn; a thread loads some in advance."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        begun: deque[Future[Loaded]] = deque()
        try:
            for index in indices:
                begun.append(pool.submit(load, index))
                if len(begun) > AHEAD:
                    yield begun.popleft()
            while begun:
                yield begun.popleft()
        finally:
            for future in begun:
                future.cancel()
