"""The service behind the routes: accepts requests, counts them together, stores them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float

from denoised_smoothing.errors import BusyError, ClosingError, SettingError
from denoised_smoothing.images import load_image
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store
from denoised_smoothing.web import views
from denoised_smoothing.web.batching import Batcher
from denoised_smoothing.web.job_store import JobRecord, JobStore, State
from denoised_smoothing.web.jobs import KINDS, AttackJob, Job
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.metrics import Metrics
from denoised_smoothing.web.schemas import ImageRequest
from denoised_smoothing.web.served import ServedModels
from denoised_smoothing.web.uploads import fit, read_upload

PROGRESS_SECONDS = 0.03
"""Minimum time between two reports of progress of a request."""
SAVE_SECONDS = 0.5
"""Minimum time between two stored states of a request."""

_log = logging.getLogger(__name__)


class Service:
    """Answers requests with the served models, within limits.

    Args:
        served: classifiers, denoisers and noise levels by name.
        store: of the runs that are shown and of the accepted requests.
    """

    def __init__(self, served: ServedModels, store: Store, limits: Limits | None = None) -> None:
        self.served, self.store, self.limits = served, store, limits or Limits()
        self.metrics = Metrics()
        self.job_store = JobStore(store)
        self.ready = threading.Event()
        self.closing = False
        self._deadline = math.inf  # of the monotonic clock, when the grace of requests ends
        self._jobs: dict[str, Job] = {}
        self._batchers: dict[SmoothedClassifier, Batcher[Job]] = {}
        self._lock = threading.RLock()
        self._pictures = ThreadPoolExecutor(2, thread_name_prefix="pictures")
        self._attacks = ThreadPoolExecutor(1, thread_name_prefix="attacks")
        self._seconds = 0.5  # moving average of a request, for Retry-After
        self._preparing = threading.Thread(target=self._prepare, name="prepare", daemon=True)

    def start(self) -> None:
        """Prepare the served models in a thread."""
        self._preparing.start()

    def submit(
        self, kind: type[Job], request: ImageRequest, content: bytes | None, client: str
    ) -> Job:
        """Accept a request about an uploaded image or, without content, an example.

        Raises:
            ImageError, SettingError: the request is invalid.
            BusyError: too many requests are pending.
            ClosingError: the service is being stopped.
        """
        self._check_capacity(client)
        model = self.served.model(request.classifier)
        if (content is None) == (request.example is None):
            raise SettingError(
                "A request needs one image. Send an image or the name of an example, not both."
            )
        changes: list[str] = []
        if content is None:
            image = model.example(str(request.example)).image
        else:
            image, changes = fit(read_upload(content, pixels=self.limits.pixels), model.shape)
        return self._accept(kind, request, client, image, changes)

    def resume(self, record: JobRecord, client: str) -> Job:
        """Resume a request that was interrupted, with its seed and its counts.

        Raises:
            SettingError: it was not interrupted, is already pending, or its models are no longer
                served.
            BusyError, ClosingError: as :meth:`submit`.
        """
        if record.state is not State.INTERRUPTED or record.image is None:
            raise SettingError(
                f"The request {record.id} is {record.state.value}; only interrupted requests can "
                "be resumed. Send a new request."
            )
        self._check_capacity(client)
        kind = KINDS[record.kind]
        request = kind.schema.model_validate(record.request["ask"])
        counts = {counts.stage: counts for counts in record.counts}
        return self._accept(
            kind, request, client, load_image(record.image), record.request["changes"],
            id=record.id, seed=record.seed, counts=counts,
        )  # fmt: skip

    def cancel(self, job: Job) -> None:
        """Cancel a request whose client went away; the copies in flight are the last."""
        job.cancelled = True
        if isinstance(job, AttackJob) and not job.prepared:  # its place is free at once
            self._finish(job, None)

    def job(self, id: str) -> Job | None:
        """Return the pending request of that name, or None."""
        with self._lock:
            return self._jobs.get(id)

    def begin_closing(self) -> None:
        """Accept no more requests; the grace of pending ones begins."""
        if not self.closing:
            self.closing, self._deadline = True, time.monotonic() + self.limits.grace

    def close(self) -> None:
        """Wait for requests until their grace ends, store the rest as interrupted, and end."""
        self.begin_closing()
        while self._jobs and time.monotonic() < self._deadline:
            time.sleep(0.05)
        for job in list(self._jobs.values()):
            job.cancelled = True
        self._preparing.join()
        self._attacks.shutdown(cancel_futures=True)
        with self._lock:
            batchers = list(self._batchers.values())
        for batcher in batchers:
            batcher.close()
        self._pictures.shutdown()
        for job in list(self._jobs.values()):
            self._finish(job, None)
        self.job_store.close()

    def _check_capacity(self, client: str) -> None:
        """Refuse a request if too many are pending."""
        if self.closing:
            raise ClosingError("The service is being stopped. Retry when it is back.")
        with self._lock:
            clients = Counter(job.client for job in self._jobs.values())
        retry = max(1, round(self._seconds * 2))
        for who, pending, limit in (
            ("The server", clients.total(), self.limits.queue),
            ("This client", clients[client], self.limits.per_client),
        ):
            if pending >= limit:
                raise BusyError(
                    f"{who} has {pending} pending requests, its maximum. "
                    f"Retry in {retry} second{'s' * (retry > 1)}.",
                    retry,
                )

    def _accept(
        self,
        kind: type[Job],
        request: ImageRequest,
        client: str,
        image: Float[np.ndarray, "c h w"],
        changes: list[str],
        **earlier: Any,
    ) -> Job:
        model = self.served.model(request.classifier)
        denoiser = request.denoiser or model.default_denoiser
        sigma = request.sigma or max(model.sigmas)
        names = {"classifier": model.name, "denoiser": denoiser, "sigma": sigma}
        job = kind(
            request=request.model_copy(update=names), client=client, model=model,
            smoothed=model.smoothed(denoiser, sigma), image=image, changes=changes, **earlier,
        )  # fmt: skip
        job.check(self.limits)
        with self._lock:  # again, as others may have come since the image was read
            self._check_capacity(client)
            if job.id in self._jobs:
                raise SettingError(f"The request {job.id} is already pending. Wait for its end.")
            self._jobs[job.id] = job
        self.metrics.pending.inc()
        self.job_store.put(self._record(job))
        if isinstance(job, AttackJob):
            self._attacks.submit(self._attack, job)
        else:
            if job.request.pictures:
                job.pictures = self._pictures.submit(self._show, job)
            self._count(job)
        return job

    def _attack(self, job: AttackJob) -> None:
        try:
            self.ready.wait()
            if not job.cancelled:
                job.prepare()
            if not job.cancelled:
                job.prepared = True
                self._count(job)
        except Exception as error:
            self._finish(job, error)

    def _show(self, job: Job) -> None:
        self.ready.wait()
        if not job.cancelled:
            job.show()

    def _count(self, job: Job) -> None:
        with self._lock:
            batcher = self._batchers.get(job.smoothed)
            if batcher is None:
                name = f"{job.request.classifier} {job.request.denoiser} {job.request.sigma}"
                batcher = Batcher(job.smoothed, name, self.ready, self._progress, self._ended)
                self._batchers[job.smoothed] = batcher
        batcher.add(job)

    def _progress(self, job: Job) -> None:
        """Report and store the counts so far; called by the batcher's thread."""
        now = time.monotonic()
        if job.events.followed and now - job.reported >= PROGRESS_SECONDS:
            job.reported = now
            job.events.publish("progress", job.progress())
        if now - job.saved >= SAVE_SECONDS:
            job.saved = now
            self.job_store.put(self._record(job))

    def _ended(self, job: Job, error: Exception | None) -> None:
        """Finish a job when its pictures are published; called by the batcher's thread."""

        def finish(pictures: Future[None]) -> None:
            failure = None if pictures.cancelled() else pictures.exception()
            self._finish(job, error or failure)

        if job.pictures is None:
            self._finish(job, error)
        else:
            job.pictures.add_done_callback(finish)

    def _finish(self, job: Job, error: BaseException | None) -> None:
        with self._lock:
            if job.finished:
                return
            job.finished = True
        answer = None
        if error is None and self._is_complete(job):
            try:
                answer = job.answer()
            except Exception as problem:
                error = problem
        if answer is not None:
            state, event = State.DONE, ("result", answer)
        elif error is not None:
            _log.warning("request %s failed", job.id, exc_info=error)
            state, event = State.FAILED, ("error", {"detail": views.failure(error), "job": job.id})
        else:
            state = State.INTERRUPTED if self.closing else State.CANCELLED
            event = ("error", {"detail": f"The request was {state.value}.", "job": job.id})
        stored = answer and views.without_pictures(answer)
        self.job_store.put(self._record(job, state, stored))
        self.metrics.ended(job.kind, state, job.calls, job.began)
        self._seconds += 0.1 * (time.monotonic() - job.began - self._seconds)
        with self._lock:  # now, so that a request that is no longer pending is stored
            del self._jobs[job.id]
        job.events.publish(*event)

    def _is_complete(self, job: Job) -> bool:
        """Return whether a job has all copies that its plan wants; cancelled ones may lack some."""
        counted = {stage: votes.n for stage, votes in job.counts.items()}
        return bool(counted) and all(
            counted.get(stage, 0) >= n for stage, n in job.targets(job.counts).items()
        )

    def _record(
        self, job: Job, state: State = State.RUNNING, answer: dict[str, Any] | None = None
    ) -> JobRecord:
        ask = job.request.model_dump(mode="json", exclude={"image", "example"}, exclude_none=True)
        # An attack is resumed from its start, as its image is not the one that it began with.
        counts = () if isinstance(job, AttackJob) else tuple(job.counts.values())
        image = job.png if state in (State.RUNNING, State.INTERRUPTED) else None
        request = {"ask": ask, "changes": job.changes}
        return JobRecord(job.id, job.kind, request, job.seed, image, state, counts, answer)

    def _prepare(self) -> None:
        try:
            self.served.prepare(lambda: self.closing)
        finally:
            self.ready.set()
