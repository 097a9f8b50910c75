"""From the store to tasks, and from tasks to the store, beside the counting."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.datasets import Example
from denoised_smoothing.errors import ImageError, StoreError
from denoised_smoothing.images import digest
from denoised_smoothing.remote.records import Spending
from denoised_smoothing.smoothing.scheduler import ImageTask
from denoised_smoothing.store import Store, StoredImage, StoredRun

if TYPE_CHECKING:
    from denoised_smoothing.runs.run import CertificationRun

SAVE_SECONDS = 0.4
"""Results wait about this long before they are written."""
AHEAD = 8
"""Images that are decoded before they are needed."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is; ``certified`` counts finished images with a label other than abstain.

    ``calls`` are the classifier calls of this process and ``seconds`` its time; ``seconds_left``
    is None until there is something to estimate it from. ``spent`` is what queries of a
    classifier behind a wire came to.
    """

    run: str
    images_done: int
    images: int
    certified: int
    calls: int
    seconds: float
    seconds_left: float | None
    spent: Spending | None = None


class RunWriter:
    """Turns stored images into tasks, and tasks into stored images.

    Images are decoded by a thread ahead of need, and counts written by another, so that neither
    keeps the device waiting.
    """

    def __init__(
        self,
        request: CertificationRun,
        run: StoredRun,
        store: Store,
        progress: Callable[[RunProgress], None] | None,
    ) -> None:
        self._request, self._run, self._store, self._progress = request, run, store, progress
        self._plan = SamplingPlan.from_dict(run.settings["plan"])
        self._parameters = request.parameters(run)
        stored = {image.image_id: image for image in store.images(run.name)}
        ids = request.dataset.image_ids
        self._images = {
            image_id: image
            for image_id, image in stored.items()
            if not is_complete(image, self._plan, self._parameters)
        }
        self._todo = [
            index
            for index in request.indices
            if ids[index] not in stored or ids[index] in self._images
        ]
        done = [stored[ids[index]] for index in set(request.indices).difference(self._todo)]
        self._done, self._certified = len(done), sum(map(self._is_certified, done))
        self._calls, self._pending = 0, dict[str, StoredImage]()
        self._names = run.info.get("label_names") or []
        self.refused: list[str] = []
        self._began = self._saved = time.monotonic()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._writing: Future[None] | None = None
        self._report()

    def targets(self, counts: Mapping[Stage, LabelCounts]) -> dict[Stage, int]:
        """The plan's, for this run."""
        return self._plan.targets(counts, self._parameters)

    def tasks(self) -> Iterator[ImageTask]:
        """Images that are not finished, with the counts that they have, one by one."""
        for decoded in _ahead(self._request.image, self._todo):
            try:
                example, image = decoded.result()
                self._check_shape(example, image)
            except ImageError as error:  # of one image: the others are certified first
                self.refused.append(str(error))
                continue
            fresh = StoredImage(example.index, example.image_id, example.label, digest(image), {})
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
        if time.monotonic() - self._saved >= SAVE_SECONDS and self._written():
            self._save()
        self._report()

    def finished(self, task: ImageTask) -> None:
        """Take over the counts of a task that has all that its plan wants."""
        image = replace(self._take(task), finished=True)
        self._pending[task.image_id] = image
        del self._images[task.image_id]
        self._done += 1
        self._certified += self._is_certified(image)
        self._report()

    def close(self) -> None:
        """Write what has changed, and wait until it is written.

        Raises:
            StoreError: it could not be, now or before.
        """
        try:
            self._save()
        finally:
            self._writer.shutdown()
        if self._writing is not None:
            self._writing.result()

    def _save(self) -> None:
        """Have the writer write what has changed; raises what it failed with before."""
        if self._writing is not None:
            self._writing.result()
        if self._pending:
            images, self._pending = list(self._pending.values()), {}
            self._writing = self._writer.submit(self._write, self._new_names(), images)
        self._saved = time.monotonic()

    def _write(self, names: list[str] | None, images: list[StoredImage]) -> None:
        """In the writer: labels that are new come before the counts that have them."""
        if names is not None:
            self._store.name_labels(self._run.name, names)
        self._store.save_images(self._run.name, images)

    def _new_names(self) -> list[str] | None:
        """The labels of an open vocabulary, if there are more than before."""
        remote = self._request.remote
        names = [] if remote is None else list(remote.label_names or ())
        if remote is None or names == self._names:
            return None
        self._names = names
        return names

    def _written(self) -> bool:
        return self._writing is None or self._writing.done()

    def _take(self, task: ImageTask) -> StoredImage:
        before = self._images[task.image_id]
        self._calls += task.calls - sum(counts.n for counts in before.counts.values())
        image = replace(before, counts=dict(task.counts), seconds=task.seconds)
        self._images[task.image_id] = self._pending[task.image_id] = image
        return image

    def _is_certified(self, image: StoredImage) -> bool:
        return self._plan.certificate(image.counts, self._parameters).label is not None

    def _report(self) -> None:
        if self._progress is None:
            return
        seconds, total = time.monotonic() - self._began, len(self._request.indices)
        here = self._done - (total - len(self._todo))
        left = seconds / here * (total - self._done) if here else None
        remote = self._request.remote
        self._progress(
            RunProgress(
                self._run.name, self._done, total, self._certified, self._calls, seconds, left,
                None if remote is None else remote.spent,
            )
        )  # fmt: skip


def is_complete(image: StoredImage, plan: SamplingPlan, parameters: SmoothingParameters) -> bool:
    """Whether an image is finished, also if its run was allowed more copies since."""
    return image.finished and all(
        (image.counts[stage].n if stage in image.counts else 0) >= n
        for stage, n in plan.targets(image.counts, parameters).items()
    )


def _ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[Future[_Result]]:
    """The function of each item in turn, begun for some items before they are asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        begun: deque[Future[_Result]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(function, item))
                if len(begun) > AHEAD:
                    yield begun.popleft()
            while begun:
                yield begun.popleft()
        finally:
            for future in begun:
                future.cancel()
