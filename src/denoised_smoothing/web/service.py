"""The service behind the routes: accepts requests, counts them together, stores them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import BusyError, ClosingError, SettingError
from denoised_smoothing.images import load_image
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store
from denoised_smoothing.web import views
from denoised_smoothing.web.batching import Batcher, Counts, PendingImage
from denoised_smoothing.web.job_store import JobRecord, JobStore, State
from denoised_smoothing.web.jobs import KINDS, AttackJob, Job
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.metrics import Metrics
from denoised_smoothing.web.schemas import ImageRequest
from denoised_smoothing.web.served import Model, ServedModels
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
        limits: of requests.
    """

    def __init__(self, served: ServedModels, store: Store, limits: Limits | None = None) -> None:
        self.served, self.store, self.limits = served, store, limits or Limits()
        self.metrics = Metrics()
        self.job_store = JobStore(store)
        self.ready = threading.Event()
        self.closing = False
        self._deadline = math.inf  # of the monotonic clock, when the grace of requests ends
        self._jobs: dict[str, Job] = {}
        self._batchers: dict[SmoothedClassifier, Batcher] = {}
        self._lock = threading.Lock()
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
        """Accept a request and count its copies.

        Args:
            kind: of the request.
            request: its parameters.
            content: the bytes of its image; None if it names an example.
            client: the address of the client.

        Raises:
            ImageError, SettingError: the request is invalid.
            BusyError: too many requests are pending.
            ClosingError: the service is being stopped.
        """
        with self._lock:
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
        job = self._job(kind, request, client, model, image, changes)
        self._start(job)
        return job

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
        with self._lock:
            self._check_capacity(client)
        kind = KINDS[record.kind]
        request = kind.schema.model_validate(record.request["ask"])
        model, image = self.served.model(request.classifier), load_image(record.image)
        job = self._job(kind, request, client, model, image, record.request["changes"])
        job.id, job.seed = record.id, record.seed
        job.counts = {counts.stage: counts for counts in record.counts}
        self._start(job)
        return job

    def cancel(self, job: Job) -> None:
        """Cancel a request whose client went away; the copies in flight are the last."""
        job.cancel()
        if isinstance(job, AttackJob) and job.pending is None:  # its place is free at once
            self._finish(job, job.counts, None)

    def job(self, id: str) -> Job | None:
        """Return the pending request of that name, or None."""
        with self._lock:
            return self._jobs.get(id)

    @property
    def pending(self) -> int:
        """Number of pending requests."""
        return len(self._jobs)

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
            job.cancel()
        self._preparing.join()
        self._attacks.shutdown(cancel_futures=True)
        with self._lock:
            batchers = list(self._batchers.values())
        for batcher in batchers:
            batcher.close()
        self._pictures.shutdown()
        for job in list(self._jobs.values()):
            self._finish(job, job.counts, None)
        self.job_store.close()

    def _check_capacity(self, client: str) -> None:
        """Refuse a request if too many are pending; the caller holds the lock."""
        if self.closing:
            raise ClosingError("The service is being stopped. Retry when it is back.")
        retry = max(1, round(self._seconds * 2))
        mine = Counter(job.client for job in self._jobs.values())[client]
        for who, pending, most in (
            ("The server", len(self._jobs), self.limits.queue),
            ("This client", mine, self.limits.per_client),
        ):
            if pending >= most:
                raise BusyError(
                    f"{who} has {pending} pending requests, its maximum. "
                    f"Retry in {retry} second{'s' * (retry != 1)}.",
                    retry,
                )

    def _job(
        self,
        kind: type[Job],
        request: ImageRequest,
        client: str,
        model: Model,
        image: Float[np.ndarray, "c h w"],
        changes: list[str],
    ) -> Job:
        denoiser = request.denoiser or model.default_denoiser
        sigma = max(model.sigmas) if request.sigma is None else request.sigma
        names = {"classifier": model.name, "denoiser": denoiser, "sigma": sigma}
        smoothed = self.served.smoothed(model.name, denoiser, sigma)
        job = kind(request.model_copy(update=names), client, model, smoothed, image, changes)
        job.check(self.limits)
        return job

    def _start(self, job: Job) -> None:
        with self._lock:  # again, as others may have come since the image was read
            self._check_capacity(job.client)
            if job.id in self._jobs:
                raise SettingError(f"The request {job.id} is already pending. Wait for its end.")
            self._jobs[job.id] = job
        self.metrics.pending.inc()
        self._save(job)
        if isinstance(job, AttackJob):
            self._attacks.submit(self._attack, job)
            return
        if job.request.pictures:
            job.pictures = self._pictures.submit(self._show, job)
        self._count(job)

    def _attack(self, job: AttackJob) -> None:
        try:
            self.ready.wait()
            if not job.cancelled:
                job.prepare()
            if not job.cancelled:
                self._count(job)
        except Exception as error:
            self._finish(job, job.counts, error)

    def _show(self, job: Job) -> None:
        self.ready.wait()
        if job.first is Stage.SELECTION and not job.cancelled:
            job.events.copies(
                views.shown_copies(
                    job.smoothed, job.image, job.image_id, job.seed, job.model.label_names
                )
            )

    def _count(self, job: Job) -> None:
        job.pending = PendingImage(
            job.id, job.image_id, job.image, job.seed, job.first, job.targets,
            on_counts=partial(self._progress, job), on_end=partial(self._ended, job),
            counts=dict(job.counts),
        )  # fmt: skip
        job.pending.cancelled = job.cancelled  # it may have been cancelled meanwhile
        with self._lock:
            batcher = self._batchers.get(job.smoothed)
            if batcher is None:
                name = f"{job.request.classifier} {job.request.denoiser} {job.request.sigma}"
                batcher = self._batchers[job.smoothed] = Batcher(job.smoothed, name, self.ready)
        batcher.add(job.pending)

    def _progress(self, job: Job, counts: Counts) -> None:
        """Report and store the counts so far; called by the batcher's thread."""
        now, job.counts = time.monotonic(), dict(counts)
        if job.events.followed and now - job.reported >= PROGRESS_SECONDS:
            job.reported = now
            job.events.progress(job.progress(job.counts))
        if now - job.saved >= SAVE_SECONDS:
            job.saved = now
            self._save(job)

    def _ended(self, job: Job, counts: Counts, error: Exception | None) -> None:
        """Finish a job when its pictures are published; called by the batcher's thread."""
        counts = dict(counts)

        def finish(pictures: Future[None]) -> None:
            failure = None if pictures.cancelled() else pictures.exception()
            self._finish(job, counts, error or failure)

        if job.pictures is None:
            self._finish(job, counts, error)
        else:
            job.pictures.add_done_callback(finish)

    def _finish(self, job: Job, counts: Counts, error: BaseException | None) -> None:
        with self._lock:
            if self._jobs.pop(job.id, None) is None:
                return
        answer = None
        if error is None and self._is_complete(job, counts):
            try:
                answer = job.answer(counts)
            except Exception as problem:
                error = problem
        record = self._record(job, counts)
        if answer is not None:
            state, event = State.DONE, ("result", answer)
        elif error is not None:
            _log.warning("request %s failed", job.id, exc_info=error)
            state, event = State.FAILED, ("error", {"detail": views.failure(error), "job": job.id})
        else:
            state = State.INTERRUPTED if self.closing else State.CANCELLED
            event = ("error", {"detail": f"The request was {state.value}", "job": job.id})
        self.job_store.put(record.ended(state, answer and views.without_pictures(answer)))
        self.metrics.ended(job.kind, state, sum(v.n for v in counts.values()), job.began)
        self._seconds += 0.1 * (time.monotonic() - job.began - self._seconds)
        job.events.end(*event)

    def _is_complete(self, job: Job, counts: Counts) -> bool:
        """Return whether a job has all copies that its plan wants; cancelled ones may lack some."""
        return bool(counts) and all(
            n == 0 or (stage in counts and counts[stage].n >= n)
            for stage, n in job.targets(counts).items()
        )

    def _save(self, job: Job) -> None:
        self.job_store.put(self._record(job, job.counts))

    def _record(self, job: Job, counts: Counts) -> JobRecord:
        ask = job.request.model_dump(mode="json", exclude={"image", "example"}, exclude_none=True)
        # An attack is resumed from its start, as its image is not the one that it began with.
        kept = () if isinstance(job, AttackJob) else tuple(counts.values())
        request = {"ask": ask, "changes": job.changes}
        return JobRecord(job.id, job.kind, request, job.seed, job.png, State.RUNNING, kept)

    def _prepare(self) -> None:
        try:
            self.served.prepare(lambda: self.closing)
        finally:
            self.ready.set()
