"""The service behind the routes: takes requests, has them counted together, records them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import BusyError, ClosingError, SettingError
from denoised_smoothing.images import load_image
from denoised_smoothing.store import Store
from denoised_smoothing.web.batching import Batcher, PendingImage
from denoised_smoothing.web.job_store import JobRecord, JobStore, State
from denoised_smoothing.web.jobs import KINDS, AttackJob, Job
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.metrics import Metrics
from denoised_smoothing.web.schemas import ImageRequest
from denoised_smoothing.web.served import NO_DENOISER, ServedModels
from denoised_smoothing.web.uploads import fit, read_upload
from denoised_smoothing.web.views import failure, shown_copies

PROGRESS_SECONDS = 0.03
"""Progress of a request is told at most this often."""

SAVE_SECONDS = 0.5
"""The counts of a request are recorded about this often."""

_log = logging.getLogger(__name__)
Counts = Mapping[Stage, LabelCounts]


class _ProgressReporter:
    """Tells of a request after each batch with votes for it; called by the lane's thread."""

    def __init__(self, service: Service, job: Job) -> None:
        self._service, self._job = service, job
        self._told = self._saved = 0.0

    def __call__(self, counts: Counts) -> None:
        now, job = time.monotonic(), self._job
        job.counts = dict(counts)
        if job.feed.watched and now - self._told >= PROGRESS_SECONDS:
            self._told = now
            job.feed.progress(job.progress(job.counts))
        if now - self._saved >= SAVE_SECONDS:
            self._saved = now
            self._service.save(job)


class Service:
    """Answers requests from what the operator offers, within limits.

    Args:
        offer: classifiers, denoisers and noise levels by name.
        store: where runs are read and requests are recorded.
        limits: of requests.
    """

    def __init__(self, offer: ServedModels, store: Store, limits: Limits | None = None) -> None:
        self.offer, self.store, self.limits = offer, store, limits or Limits()
        self.metrics = Metrics()
        self.journal = JobStore(store)
        self.ready = threading.Event()
        self.closing = False
        self._until = math.inf  # of the monotonic clock, when requests have had their grace
        self._jobs: dict[str, Job] = {}
        self._lanes: dict[tuple[str, str, float], Batcher] = {}
        self._lock = threading.Lock()
        self._pictures = ThreadPoolExecutor(2, thread_name_prefix="pictures")
        self._attacks = ThreadPoolExecutor(1, thread_name_prefix="attacks")
        self._seconds = 0.5  # that a request took lately, to say when to come back
        self._preparing = threading.Thread(target=self._prepare, name="prepare", daemon=True)

    def start(self) -> None:
        """Prepare what is offered, beside everything else."""
        self._preparing.start()

    def read(self, ask: ImageRequest, content: bytes | None) -> tuple[str, np.ndarray, list[str]]:
        """The classifier's name, the image as it is answered, and what was changed of it.

        Raises:
            ImageError, SettingError: it is not to be had.
        """
        name = ask.classifier or next(iter(self.offer.models))
        if name not in self.offer.models:
            known = ", ".join(self.offer.models)
            raise SettingError(f"no classifier {name!r} is offered; expected one of {known}")
        if (content is None) == (ask.example is None):
            raise SettingError(
                "a request is about one image: give the image or the name of an example, not both"
            )
        if content is None:
            return name, self.offer.example(name, str(ask.example)).image, []
        image = read_upload(content, pixels=self.limits.pixels)
        return name, *fit(image, self.offer.models[name].shape)

    def submit(self, kind: str, ask: ImageRequest, content: bytes | None, client: str) -> Job:
        """Take a request and have it counted.

        Raises:
            ImageError, SettingError: bad input.
            BusyError: too many requests are on their way.
            ClosingError: the service is being stopped.
        """
        with self._lock:
            self._check_room(client)
        name, image, changes = self.read(ask, content)
        job = self._job(kind, ask, client, name, image, changes)
        self._start(job)
        return job

    def resume(self, record: JobRecord, client: str) -> Job:
        """Go on with a request that was interrupted: the same seed, the counts that it has.

        Raises:
            SettingError: it was not interrupted, is on its way already, or what it asks for is no
                longer offered.
            BusyError, ClosingError: as :meth:`submit`.
        """
        if record.state is not State.INTERRUPTED or record.image is None:
            raise SettingError(
                f"the request {record.id} is {record.state.value}; only interrupted ones go on"
            )
        with self._lock:
            self._check_room(client)
        ask = KINDS[record.kind][1].model_validate(record.request["ask"])
        image, changes = load_image(record.image), record.request["changes"]
        job = self._job(record.kind, ask, client, record.request["classifier"], image, changes)
        job.id, job.seed = record.id, record.seed
        job.counts = {counts.stage: counts for counts in record.counts}
        self._start(job)
        return job

    def cancel(self, job: Job) -> None:
        """Let go of a request whose client went away; the copies on their way are the last."""
        job.cancel()
        if isinstance(job, AttackJob) and job.ticket is None:  # its place is free at once
            self._finish(job, job.counts, None)

    def job(self, id: str) -> Job | None:
        """The request of that name, while it is on its way."""
        with self._lock:
            return self._jobs.get(id)

    @property
    def open(self) -> int:
        """Requests on their way."""
        return len(self._jobs)

    def begin_closing(self) -> None:
        """Take no more requests; those on their way have their grace from now on."""
        if not self.closing:
            self.closing, self._until = True, time.monotonic() + self.limits.grace

    def close(self) -> None:
        """Wait for requests as long as the limits say, record the rest as interrupted, and end."""
        self.begin_closing()
        while self._jobs and time.monotonic() < self._until:
            time.sleep(0.05)
        for job in list(self._jobs.values()):
            job.cancel()
        self._preparing.join()
        self._attacks.shutdown(cancel_futures=True)
        with self._lock:
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.close()
        self._pictures.shutdown()
        for job in list(self._jobs.values()):
            self._finish(job, job.counts, None)
        self.journal.close()

    def _check_room(self, client: str) -> None:
        """Called with the lock held."""
        if self.closing:
            raise ClosingError("the service is being stopped; ask again when it is back")
        retry = max(1, round(self._seconds * 2))
        clients = Counter(job.client for job in self._jobs.values())
        if len(self._jobs) >= self.limits.queue:
            raise BusyError(f"{len(self._jobs)} requests are on their way; try again later", retry)
        if clients[client] >= self.limits.per_client:
            raise BusyError(
                f"{clients[client]} requests of this client are on their way; wait for one", retry
            )

    def _job(
        self,
        kind: str,
        ask: ImageRequest,
        client: str,
        classifier: str,
        image: Float[np.ndarray, "c h w"],
        changes: list[str],
    ) -> Job:
        model = self.offer.models[classifier]
        denoisers = [name for name in model.denoisers if name != NO_DENOISER]
        denoiser = ask.denoiser or (denoisers or [NO_DENOISER])[0]
        sigma = max(model.sigmas) if ask.sigma is None else ask.sigma
        smoothed = self.offer.smoothed(classifier, denoiser, sigma)
        ask = ask.model_copy(
            update={"classifier": classifier, "denoiser": denoiser, "sigma": sigma}
        )
        job = KINDS[kind][0](ask, client, model, smoothed, image, changes, model.label_names)
        job.check(self.limits)
        return job

    def _start(self, job: Job) -> None:
        with self._lock:  # again, as others may have come since the image was read
            self._check_room(job.client)
            if job.id in self._jobs:
                raise SettingError(f"the request {job.id} is on its way already")
            self._jobs[job.id] = job
        self.metrics.open.inc()
        self.save(job)
        if isinstance(job, AttackJob):
            self._attacks.submit(self._attack, job)
            return
        if job.request.pictures:
            job.shown = self._pictures.submit(self._show, job)
        self._count(job)

    def _attack(self, job: Job) -> None:
        try:
            self.ready.wait()
            if not job.cancelled:
                job.prepare()
            if not job.cancelled:
                self._count(job)
        except Exception as error:
            self._finish(job, job.counts, error)

    def _count(self, job: Job) -> None:
        job.ticket = PendingImage(
            job.id, job.image_id, job.image, job.seed, job.first, job.targets,
            on_counts=_ProgressReporter(self, job),
            on_end=lambda counts, error: self._ended(job, counts, error),
            counts=dict(job.counts),
        )  # fmt: skip
        job.ticket.cancelled = job.cancelled  # now: it may have been while the ticket was made
        self._lane(job).add(job.ticket)

    def _lane(self, job: Job) -> Batcher:
        key = (job.request.classifier, job.request.denoiser, job.request.sigma)
        with self._lock:
            if key not in self._lanes:
                self._lanes[key] = Batcher(job.smoothed, " ".join(map(str, key)), self.ready)
            return self._lanes[key]

    def _show(self, job: Job) -> None:
        self.ready.wait()
        if job.first is Stage.SELECTION and not job.cancelled:
            job.feed.copies(
                shown_copies(job.smoothed, job.image, job.image_id, job.seed, job.names)
            )

    def save(self, job: Job) -> None:
        """Have the counts of a request recorded."""
        self.journal.put(self._record(job, job.counts))

    def _ended(self, job: Job, counts: Counts, error: Exception | None) -> None:
        """In the lane's thread, when all copies are counted: the pictures come before the end."""
        counts = dict(counts)
        if job.shown is None:
            self._finish(job, counts, error)
            return
        job.shown.add_done_callback(lambda shown: self._finish(job, counts, error or _of(shown)))

    def _finish(self, job: Job, counts: Counts, error: Exception | None) -> None:
        with self._lock:
            if self._jobs.pop(job.id, None) is None:
                return
        answer: dict[str, Any] | None = None
        if error is None and not self._is_cut(job, counts):
            try:
                answer = job.answer(counts)
            except Exception as problem:
                error = problem
        record = self._record(job, counts)
        if answer is not None:
            state, event = State.DONE, ("result", answer)
        elif error is not None:
            _log.warning("request %s failed", job.id, exc_info=error)
            state, event = State.FAILED, ("error", {"detail": failure(error), "job": job.id})
        else:
            state = State.INTERRUPTED if self.closing else State.CANCELLED
            event = ("error", {"detail": f"the request was {state.value}", "job": job.id})
        self.journal.put(record.ended(state, _without_pictures(answer)))
        self.metrics.ended(job.kind, state, sum(v.n for v in counts.values()), job.began)
        self._seconds += 0.1 * (time.monotonic() - job.began - self._seconds)
        job.feed.end(*event)

    def _is_cut(self, job: Job, counts: Counts) -> bool:
        """Whether its plan wants more copies than it got, as nobody waits for them any more."""
        if not counts:
            return True
        wanted = job.targets(counts)
        return any((counts[s].n if s in counts else 0) < n for s, n in wanted.items())

    def _record(self, job: Job, counts: Counts) -> JobRecord:
        ask = job.request.model_dump(mode="json", exclude={"image", "example"}, exclude_none=True)
        request = {"ask": ask, "classifier": job.request.classifier, "changes": job.changes}
        # An attack is resumed from its start, as its image is not the one that it began with.
        kept = () if isinstance(job, AttackJob) else tuple(counts.values())
        return JobRecord(job.id, job.kind, request, job.seed, job.png, State.RUNNING, kept)

    def _prepare(self) -> None:
        try:
            self.offer.prepare(lambda: self.closing)
        finally:
            self.ready.set()


def _of(shown: Future[None]) -> Exception | None:
    error = None if shown.cancelled() else shown.exception()
    return error if isinstance(error, Exception) else None


def _without_pictures(answer: dict[str, Any] | None) -> dict[str, Any] | None:
    """As it is recorded: an answer without what can be drawn again."""
    if answer is None:
        return None
    kept = {key: value for key, value in answer.items() if key != "perturbation"}
    image = {key: value for key, value in answer["image"].items() if key != "picture"}
    return {**kept, "image": image}
